import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from shitu.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Metric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METRIC_UNSPECIFIED: _ClassVar[Metric]
    METRIC_INNER_PRODUCT: _ClassVar[Metric]
    METRIC_L2: _ClassVar[Metric]

class IndexKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INDEX_KIND_UNSPECIFIED: _ClassVar[IndexKind]
    INDEX_KIND_AUTO: _ClassVar[IndexKind]
    INDEX_KIND_FLAT: _ClassVar[IndexKind]
    INDEX_KIND_HNSW: _ClassVar[IndexKind]
    INDEX_KIND_IVF: _ClassVar[IndexKind]

class FieldType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIELD_TYPE_UNSPECIFIED: _ClassVar[FieldType]
    FIELD_TYPE_STRING: _ClassVar[FieldType]
    FIELD_TYPE_NUMBER: _ClassVar[FieldType]
    FIELD_TYPE_BOOLEAN: _ClassVar[FieldType]
METRIC_UNSPECIFIED: Metric
METRIC_INNER_PRODUCT: Metric
METRIC_L2: Metric
INDEX_KIND_UNSPECIFIED: IndexKind
INDEX_KIND_AUTO: IndexKind
INDEX_KIND_FLAT: IndexKind
INDEX_KIND_HNSW: IndexKind
INDEX_KIND_IVF: IndexKind
FIELD_TYPE_UNSPECIFIED: FieldType
FIELD_TYPE_STRING: FieldType
FIELD_TYPE_NUMBER: FieldType
FIELD_TYPE_BOOLEAN: FieldType

class Gallery(_message.Message):
    __slots__ = ("name", "encoder_fingerprint", "dimension", "item_count", "state", "create_time", "metric", "index_kind", "fields", "aliases", "index", "previous_generation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    INDEX_KIND_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_GENERATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    encoder_fingerprint: str
    dimension: int
    item_count: int
    state: _types_pb2.GalleryState
    create_time: _timestamp_pb2.Timestamp
    metric: Metric
    index_kind: IndexKind
    fields: _containers.RepeatedCompositeFieldContainer[MetadataField]
    aliases: _containers.RepeatedScalarFieldContainer[str]
    index: IndexStatus
    previous_generation: int
    def __init__(self, name: _Optional[str] = ..., encoder_fingerprint: _Optional[str] = ..., dimension: _Optional[int] = ..., item_count: _Optional[int] = ..., state: _Optional[_Union[_types_pb2.GalleryState, _Mapping]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., metric: _Optional[_Union[Metric, str]] = ..., index_kind: _Optional[_Union[IndexKind, str]] = ..., fields: _Optional[_Iterable[_Union[MetadataField, _Mapping]]] = ..., aliases: _Optional[_Iterable[str]] = ..., index: _Optional[_Union[IndexStatus, _Mapping]] = ..., previous_generation: _Optional[int] = ...) -> None: ...

class MetadataField(_message.Message):
    __slots__ = ("name", "type")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: FieldType
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[FieldType, str]] = ...) -> None: ...

class IndexStatus(_message.Message):
    __slots__ = ("kind", "indexed_count", "building")
    KIND_FIELD_NUMBER: _ClassVar[int]
    INDEXED_COUNT_FIELD_NUMBER: _ClassVar[int]
    BUILDING_FIELD_NUMBER: _ClassVar[int]
    kind: IndexKind
    indexed_count: int
    building: bool
    def __init__(self, kind: _Optional[_Union[IndexKind, str]] = ..., indexed_count: _Optional[int] = ..., building: _Optional[bool] = ...) -> None: ...

class CreateGalleryRequest(_message.Message):
    __slots__ = ("name", "encoder_fingerprint", "dimension", "encoder", "metric", "index_kind", "fields")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    INDEX_KIND_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    encoder_fingerprint: str
    dimension: int
    encoder: str
    metric: Metric
    index_kind: IndexKind
    fields: _containers.RepeatedCompositeFieldContainer[MetadataField]
    def __init__(self, name: _Optional[str] = ..., encoder_fingerprint: _Optional[str] = ..., dimension: _Optional[int] = ..., encoder: _Optional[str] = ..., metric: _Optional[_Union[Metric, str]] = ..., index_kind: _Optional[_Union[IndexKind, str]] = ..., fields: _Optional[_Iterable[_Union[MetadataField, _Mapping]]] = ...) -> None: ...

class CreateGalleryResponse(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: Gallery
    def __init__(self, gallery: _Optional[_Union[Gallery, _Mapping]] = ...) -> None: ...

class GetGalleryRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetGalleryResponse(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: Gallery
    def __init__(self, gallery: _Optional[_Union[Gallery, _Mapping]] = ...) -> None: ...

class ListGalleriesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListGalleriesResponse(_message.Message):
    __slots__ = ("galleries", "next_page_token")
    GALLERIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    galleries: _containers.RepeatedCompositeFieldContainer[Gallery]
    next_page_token: str
    def __init__(self, galleries: _Optional[_Iterable[_Union[Gallery, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteGalleryRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeleteGalleryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NewItem(_message.Message):
    __slots__ = ("id", "label", "metadata", "image", "box", "vector", "detect", "image_digest")
    ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    DETECT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    label: str
    metadata: _struct_pb2.Struct
    image: bytes
    box: _types_pb2.Box
    vector: _types_pb2.Vector
    detect: bool
    image_digest: bytes
    def __init__(self, id: _Optional[str] = ..., label: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., image: _Optional[bytes] = ..., box: _Optional[_Union[_types_pb2.Box, _Mapping]] = ..., vector: _Optional[_Union[_types_pb2.Vector, _Mapping]] = ..., detect: _Optional[bool] = ..., image_digest: _Optional[bytes] = ...) -> None: ...

class AddItemsRequest(_message.Message):
    __slots__ = ("gallery", "items", "encoder_fingerprint", "skip_duplicates")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SKIP_DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    items: _containers.RepeatedCompositeFieldContainer[NewItem]
    encoder_fingerprint: str
    skip_duplicates: bool
    def __init__(self, gallery: _Optional[str] = ..., items: _Optional[_Iterable[_Union[NewItem, _Mapping]]] = ..., encoder_fingerprint: _Optional[str] = ..., skip_duplicates: _Optional[bool] = ...) -> None: ...

class AddItemsResponse(_message.Message):
    __slots__ = ("results", "state")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[AddItemResult]
    state: _types_pb2.GalleryState
    def __init__(self, results: _Optional[_Iterable[_Union[AddItemResult, _Mapping]]] = ..., state: _Optional[_Union[_types_pb2.GalleryState, _Mapping]] = ...) -> None: ...

class AddItemResult(_message.Message):
    __slots__ = ("id", "added", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    added: AddedItem
    error: _status_pb2.Status
    def __init__(self, id: _Optional[str] = ..., added: _Optional[_Union[AddedItem, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class AddedItem(_message.Message):
    __slots__ = ("replaced", "duplicate_of", "skipped")
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_OF_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    replaced: bool
    duplicate_of: str
    skipped: bool
    def __init__(self, replaced: _Optional[bool] = ..., duplicate_of: _Optional[str] = ..., skipped: _Optional[bool] = ...) -> None: ...

class UpdateItemsRequest(_message.Message):
    __slots__ = ("gallery", "updates")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    updates: _containers.RepeatedCompositeFieldContainer[ItemUpdate]
    def __init__(self, gallery: _Optional[str] = ..., updates: _Optional[_Iterable[_Union[ItemUpdate, _Mapping]]] = ...) -> None: ...

class ItemUpdate(_message.Message):
    __slots__ = ("id", "label", "metadata")
    ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    id: str
    label: str
    metadata: _struct_pb2.Struct
    def __init__(self, id: _Optional[str] = ..., label: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class UpdateItemsResponse(_message.Message):
    __slots__ = ("updated_ids", "state")
    UPDATED_IDS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    updated_ids: _containers.RepeatedScalarFieldContainer[str]
    state: _types_pb2.GalleryState
    def __init__(self, updated_ids: _Optional[_Iterable[str]] = ..., state: _Optional[_Union[_types_pb2.GalleryState, _Mapping]] = ...) -> None: ...

class RemoveItemsRequest(_message.Message):
    __slots__ = ("gallery", "ids")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, gallery: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RemoveItemsResponse(_message.Message):
    __slots__ = ("removed_ids", "state")
    REMOVED_IDS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    removed_ids: _containers.RepeatedScalarFieldContainer[str]
    state: _types_pb2.GalleryState
    def __init__(self, removed_ids: _Optional[_Iterable[str]] = ..., state: _Optional[_Union[_types_pb2.GalleryState, _Mapping]] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("id", "label", "metadata", "thumbnail", "vector", "update_time", "image_digest", "sequence")
    ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    label: str
    metadata: _struct_pb2.Struct
    thumbnail: bytes
    vector: _types_pb2.Vector
    update_time: _timestamp_pb2.Timestamp
    image_digest: bytes
    sequence: int
    def __init__(self, id: _Optional[str] = ..., label: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., thumbnail: _Optional[bytes] = ..., vector: _Optional[_Union[_types_pb2.Vector, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., image_digest: _Optional[bytes] = ..., sequence: _Optional[int] = ...) -> None: ...

class ListItemsRequest(_message.Message):
    __slots__ = ("gallery", "page_size", "page_token", "label")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    page_size: int
    page_token: str
    label: str
    def __init__(self, gallery: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., label: _Optional[str] = ...) -> None: ...

class ListItemsResponse(_message.Message):
    __slots__ = ("items", "next_page_token")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    next_page_token: str
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetItemRequest(_message.Message):
    __slots__ = ("gallery", "id")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    id: str
    def __init__(self, gallery: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class GetItemResponse(_message.Message):
    __slots__ = ("item",)
    ITEM_FIELD_NUMBER: _ClassVar[int]
    item: Item
    def __init__(self, item: _Optional[_Union[Item, _Mapping]] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("gallery", "queries", "top_k", "match_threshold", "encoder_fingerprint", "where", "matches_per_label", "generation")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MATCH_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    MATCHES_PER_LABEL_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    queries: _containers.RepeatedCompositeFieldContainer[Query]
    top_k: int
    match_threshold: float
    encoder_fingerprint: str
    where: _types_pb2.Filter
    matches_per_label: int
    generation: int
    def __init__(self, gallery: _Optional[str] = ..., queries: _Optional[_Iterable[_Union[Query, _Mapping]]] = ..., top_k: _Optional[int] = ..., match_threshold: _Optional[float] = ..., encoder_fingerprint: _Optional[str] = ..., where: _Optional[_Union[_types_pb2.Filter, _Mapping]] = ..., matches_per_label: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("image", "vector", "item_id")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    vector: _types_pb2.Vector
    item_id: str
    def __init__(self, image: _Optional[bytes] = ..., vector: _Optional[_Union[_types_pb2.Vector, _Mapping]] = ..., item_id: _Optional[str] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("results", "state")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SearchResult]
    state: _types_pb2.GalleryState
    def __init__(self, results: _Optional[_Iterable[_Union[SearchResult, _Mapping]]] = ..., state: _Optional[_Union[_types_pb2.GalleryState, _Mapping]] = ...) -> None: ...

class SearchResult(_message.Message):
    __slots__ = ("matches",)
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    matches: _containers.RepeatedCompositeFieldContainer[_types_pb2.Match]
    def __init__(self, matches: _Optional[_Iterable[_Union[_types_pb2.Match, _Mapping]]] = ...) -> None: ...

class SetAliasRequest(_message.Message):
    __slots__ = ("alias", "gallery")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    alias: str
    gallery: str
    def __init__(self, alias: _Optional[str] = ..., gallery: _Optional[str] = ...) -> None: ...

class SetAliasResponse(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: Gallery
    def __init__(self, gallery: _Optional[_Union[Gallery, _Mapping]] = ...) -> None: ...

class DeleteAliasRequest(_message.Message):
    __slots__ = ("alias",)
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    alias: str
    def __init__(self, alias: _Optional[str] = ...) -> None: ...

class DeleteAliasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    def __init__(self, gallery: _Optional[str] = ...) -> None: ...

class SnapshotResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("gallery", "data")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    data: bytes
    def __init__(self, gallery: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: Gallery
    def __init__(self, gallery: _Optional[_Union[Gallery, _Mapping]] = ...) -> None: ...

class ReembedRequest(_message.Message):
    __slots__ = ("gallery", "encoder")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    encoder: str
    def __init__(self, gallery: _Optional[str] = ..., encoder: _Optional[str] = ...) -> None: ...

class ReembedResponse(_message.Message):
    __slots__ = ("embedded_count", "item_count", "published")
    EMBEDDED_COUNT_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    embedded_count: int
    item_count: int
    published: Gallery
    def __init__(self, embedded_count: _Optional[int] = ..., item_count: _Optional[int] = ..., published: _Optional[_Union[Gallery, _Mapping]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("gallery", "discard_writes")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    DISCARD_WRITES_FIELD_NUMBER: _ClassVar[int]
    gallery: str
    discard_writes: bool
    def __init__(self, gallery: _Optional[str] = ..., discard_writes: _Optional[bool] = ...) -> None: ...

class RollbackResponse(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: Gallery
    def __init__(self, gallery: _Optional[_Union[Gallery, _Mapping]] = ...) -> None: ...

class GetCapabilitiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetCapabilitiesResponse(_message.Message):
    __slots__ = ("backend", "thumbnails", "lists_oldest_first", "ties_oldest_first", "exact_sequences", "all_or_nothing", "snapshots", "reembedding", "l2", "index_kinds")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    THUMBNAILS_FIELD_NUMBER: _ClassVar[int]
    LISTS_OLDEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    TIES_OLDEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    EXACT_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    ALL_OR_NOTHING_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    REEMBEDDING_FIELD_NUMBER: _ClassVar[int]
    L2_FIELD_NUMBER: _ClassVar[int]
    INDEX_KINDS_FIELD_NUMBER: _ClassVar[int]
    backend: str
    thumbnails: bool
    lists_oldest_first: bool
    ties_oldest_first: bool
    exact_sequences: bool
    all_or_nothing: bool
    snapshots: bool
    reembedding: bool
    l2: bool
    index_kinds: _containers.RepeatedScalarFieldContainer[IndexKind]
    def __init__(self, backend: _Optional[str] = ..., thumbnails: _Optional[bool] = ..., lists_oldest_first: _Optional[bool] = ..., ties_oldest_first: _Optional[bool] = ..., exact_sequences: _Optional[bool] = ..., all_or_nothing: _Optional[bool] = ..., snapshots: _Optional[bool] = ..., reembedding: _Optional[bool] = ..., l2: _Optional[bool] = ..., index_kinds: _Optional[_Iterable[_Union[IndexKind, str]]] = ...) -> None: ...
