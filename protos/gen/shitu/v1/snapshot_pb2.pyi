from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SnapshotBlock(_message.Message):
    __slots__ = ("header", "items", "end")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    header: SnapshotHeader
    items: SnapshotItems
    end: SnapshotEnd
    def __init__(self, header: _Optional[_Union[SnapshotHeader, _Mapping]] = ..., items: _Optional[_Union[SnapshotItems, _Mapping]] = ..., end: _Optional[_Union[SnapshotEnd, _Mapping]] = ...) -> None: ...

class SnapshotHeader(_message.Message):
    __slots__ = ("name", "encoder_fingerprint", "dimension", "metric", "index_kind", "fields", "sequence", "create_time_s")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    INDEX_KIND_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    encoder_fingerprint: str
    dimension: int
    metric: str
    index_kind: str
    fields: _containers.ScalarMap[str, str]
    sequence: int
    create_time_s: float
    def __init__(self, name: _Optional[str] = ..., encoder_fingerprint: _Optional[str] = ..., dimension: _Optional[int] = ..., metric: _Optional[str] = ..., index_kind: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ..., sequence: _Optional[int] = ..., create_time_s: _Optional[float] = ...) -> None: ...

class SnapshotItems(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[SnapshotItem]
    def __init__(self, items: _Optional[_Iterable[_Union[SnapshotItem, _Mapping]]] = ...) -> None: ...

class SnapshotItem(_message.Message):
    __slots__ = ("id", "label", "metadata_json", "vector", "thumbnail", "image_digest", "sequence", "update_time_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    METADATA_JSON_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    label: str
    metadata_json: str
    vector: bytes
    thumbnail: bytes
    image_digest: bytes
    sequence: int
    update_time_s: float
    def __init__(self, id: _Optional[str] = ..., label: _Optional[str] = ..., metadata_json: _Optional[str] = ..., vector: _Optional[bytes] = ..., thumbnail: _Optional[bytes] = ..., image_digest: _Optional[bytes] = ..., sequence: _Optional[int] = ..., update_time_s: _Optional[float] = ...) -> None: ...

class SnapshotEnd(_message.Message):
    __slots__ = ("item_count", "sha256")
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    item_count: int
    sha256: bytes
    def __init__(self, item_count: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...
