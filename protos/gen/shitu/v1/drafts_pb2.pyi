from shitu.v1 import gallery_pb2 as _gallery_pb2
from shitu.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BeginDraftRequest(_message.Message):
    __slots__ = ("gallery", "encoder_fingerprint", "dimension")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    encoder_fingerprint: str
    dimension: int
    def __init__(self, gallery: _Optional[str] = ..., encoder_fingerprint: _Optional[str] = ..., dimension: _Optional[int] = ...) -> None: ...

class BeginDraftResponse(_message.Message):
    __slots__ = ("draft", "item_count", "wanted_count")
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    WANTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    draft: int
    item_count: int
    wanted_count: int
    def __init__(self, draft: _Optional[int] = ..., item_count: _Optional[int] = ..., wanted_count: _Optional[int] = ...) -> None: ...

class ListDraftChangesRequest(_message.Message):
    __slots__ = ("gallery", "draft", "most")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    draft: int
    most: int
    def __init__(self, gallery: _Optional[str] = ..., draft: _Optional[int] = ..., most: _Optional[int] = ...) -> None: ...

class ListDraftChangesResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[_gallery_pb2.Item]
    def __init__(self, items: _Optional[_Iterable[_Union[_gallery_pb2.Item, _Mapping]]] = ...) -> None: ...

class AddToDraftRequest(_message.Message):
    __slots__ = ("gallery", "draft", "items")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    draft: int
    items: _containers.RepeatedCompositeFieldContainer[DraftItem]
    def __init__(self, gallery: _Optional[str] = ..., draft: _Optional[int] = ..., items: _Optional[_Iterable[_Union[DraftItem, _Mapping]]] = ...) -> None: ...

class DraftItem(_message.Message):
    __slots__ = ("id", "sequence", "vector")
    ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    id: str
    sequence: int
    vector: _types_pb2.Vector
    def __init__(self, id: _Optional[str] = ..., sequence: _Optional[int] = ..., vector: _Optional[_Union[_types_pb2.Vector, _Mapping]] = ...) -> None: ...

class AddToDraftResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HoldWritesRequest(_message.Message):
    __slots__ = ("gallery", "draft", "seconds")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    draft: int
    seconds: float
    def __init__(self, gallery: _Optional[str] = ..., draft: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class HoldWritesResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PublishDraftRequest(_message.Message):
    __slots__ = ("gallery", "draft")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    draft: int
    def __init__(self, gallery: _Optional[str] = ..., draft: _Optional[int] = ...) -> None: ...

class PublishDraftResponse(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: _gallery_pb2.Gallery
    def __init__(self, gallery: _Optional[_Union[_gallery_pb2.Gallery, _Mapping]] = ...) -> None: ...

class DiscardDraftRequest(_message.Message):
    __slots__ = ("gallery", "draft")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    draft: int
    def __init__(self, gallery: _Optional[str] = ..., draft: _Optional[int] = ...) -> None: ...

class DiscardDraftResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
