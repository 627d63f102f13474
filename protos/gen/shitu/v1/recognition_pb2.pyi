from google.rpc import status_pb2 as _status_pb2
from shitu.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BoxSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOX_SOURCE_UNSPECIFIED: _ClassVar[BoxSource]
    BOX_SOURCE_DETECTED: _ClassVar[BoxSource]
    BOX_SOURCE_REQUESTED: _ClassVar[BoxSource]
    BOX_SOURCE_WHOLE_IMAGE: _ClassVar[BoxSource]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_KNOWN: _ClassVar[Verdict]
    VERDICT_UNKNOWN: _ClassVar[Verdict]

class UnknownReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN_REASON_UNSPECIFIED: _ClassVar[UnknownReason]
    UNKNOWN_REASON_EMPTY_GALLERY: _ClassVar[UnknownReason]
    UNKNOWN_REASON_SCORE_BELOW_THRESHOLD: _ClassVar[UnknownReason]

class Precision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRECISION_UNSPECIFIED: _ClassVar[Precision]
    PRECISION_FP32: _ClassVar[Precision]
    PRECISION_FP16: _ClassVar[Precision]
    PRECISION_BF16: _ClassVar[Precision]
    PRECISION_INT8: _ClassVar[Precision]

class Profile(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROFILE_UNSPECIFIED: _ClassVar[Profile]
    PROFILE_TRAINED: _ClassVar[Profile]
    PROFILE_PADDLEX: _ClassVar[Profile]
BOX_SOURCE_UNSPECIFIED: BoxSource
BOX_SOURCE_DETECTED: BoxSource
BOX_SOURCE_REQUESTED: BoxSource
BOX_SOURCE_WHOLE_IMAGE: BoxSource
VERDICT_UNSPECIFIED: Verdict
VERDICT_KNOWN: Verdict
VERDICT_UNKNOWN: Verdict
UNKNOWN_REASON_UNSPECIFIED: UnknownReason
UNKNOWN_REASON_EMPTY_GALLERY: UnknownReason
UNKNOWN_REASON_SCORE_BELOW_THRESHOLD: UnknownReason
PRECISION_UNSPECIFIED: Precision
PRECISION_FP32: Precision
PRECISION_FP16: Precision
PRECISION_BF16: Precision
PRECISION_INT8: Precision
PROFILE_UNSPECIFIED: Profile
PROFILE_TRAINED: Profile
PROFILE_PADDLEX: Profile

class RecognizeRequest(_message.Message):
    __slots__ = ("image", "gallery", "options")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    gallery: str
    options: RecognizeOptions
    def __init__(self, image: _Optional[bytes] = ..., gallery: _Optional[str] = ..., options: _Optional[_Union[RecognizeOptions, _Mapping]] = ...) -> None: ...

class RecognizeOptions(_message.Message):
    __slots__ = ("detection_threshold", "match_threshold", "top_k", "boxes", "skip_detection", "max_objects", "where", "matches_per_label")
    DETECTION_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MATCH_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    SKIP_DETECTION_FIELD_NUMBER: _ClassVar[int]
    MAX_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    MATCHES_PER_LABEL_FIELD_NUMBER: _ClassVar[int]
    detection_threshold: float
    match_threshold: float
    top_k: int
    boxes: _containers.RepeatedCompositeFieldContainer[_types_pb2.Box]
    skip_detection: bool
    max_objects: int
    where: _types_pb2.Filter
    matches_per_label: int
    def __init__(self, detection_threshold: _Optional[float] = ..., match_threshold: _Optional[float] = ..., top_k: _Optional[int] = ..., boxes: _Optional[_Iterable[_Union[_types_pb2.Box, _Mapping]]] = ..., skip_detection: _Optional[bool] = ..., max_objects: _Optional[int] = ..., where: _Optional[_Union[_types_pb2.Filter, _Mapping]] = ..., matches_per_label: _Optional[int] = ...) -> None: ...

class RecognizeResponse(_message.Message):
    __slots__ = ("objects", "image_width", "image_height", "encoder_fingerprint", "gallery_state", "timings")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    GALLERY_STATE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[RecognizedObject]
    image_width: int
    image_height: int
    encoder_fingerprint: str
    gallery_state: _types_pb2.GalleryState
    timings: _types_pb2.StageTimings
    def __init__(self, objects: _Optional[_Iterable[_Union[RecognizedObject, _Mapping]]] = ..., image_width: _Optional[int] = ..., image_height: _Optional[int] = ..., encoder_fingerprint: _Optional[str] = ..., gallery_state: _Optional[_Union[_types_pb2.GalleryState, _Mapping]] = ..., timings: _Optional[_Union[_types_pb2.StageTimings, _Mapping]] = ...) -> None: ...

class RecognizedObject(_message.Message):
    __slots__ = ("box", "source", "detection_score", "matches", "decision")
    BOX_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DETECTION_SCORE_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    box: _types_pb2.Box
    source: BoxSource
    detection_score: float
    matches: _containers.RepeatedCompositeFieldContainer[_types_pb2.Match]
    decision: Decision
    def __init__(self, box: _Optional[_Union[_types_pb2.Box, _Mapping]] = ..., source: _Optional[_Union[BoxSource, str]] = ..., detection_score: _Optional[float] = ..., matches: _Optional[_Iterable[_Union[_types_pb2.Match, _Mapping]]] = ..., decision: _Optional[_Union[Decision, _Mapping]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("verdict", "label", "reason", "best_candidate")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BEST_CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    label: str
    reason: UnknownReason
    best_candidate: _types_pb2.Match
    def __init__(self, verdict: _Optional[_Union[Verdict, str]] = ..., label: _Optional[str] = ..., reason: _Optional[_Union[UnknownReason, str]] = ..., best_candidate: _Optional[_Union[_types_pb2.Match, _Mapping]] = ...) -> None: ...

class RecognizeEntry(_message.Message):
    __slots__ = ("request_id", "request")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    request: RecognizeRequest
    def __init__(self, request_id: _Optional[str] = ..., request: _Optional[_Union[RecognizeRequest, _Mapping]] = ...) -> None: ...

class RecognizeOutcome(_message.Message):
    __slots__ = ("request_id", "response", "error")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    response: RecognizeResponse
    error: _status_pb2.Status
    def __init__(self, request_id: _Optional[str] = ..., response: _Optional[_Union[RecognizeResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class BatchRecognizeRequest(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[RecognizeEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[RecognizeEntry, _Mapping]]] = ...) -> None: ...

class BatchRecognizeResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[RecognizeOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[RecognizeOutcome, _Mapping]]] = ...) -> None: ...

class StreamRecognizeRequest(_message.Message):
    __slots__ = ("entry",)
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    entry: RecognizeEntry
    def __init__(self, entry: _Optional[_Union[RecognizeEntry, _Mapping]] = ...) -> None: ...

class StreamRecognizeResponse(_message.Message):
    __slots__ = ("outcome",)
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    outcome: RecognizeOutcome
    def __init__(self, outcome: _Optional[_Union[RecognizeOutcome, _Mapping]] = ...) -> None: ...

class DetectRequest(_message.Message):
    __slots__ = ("image", "detection_threshold", "max_objects")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    DETECTION_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    MAX_OBJECTS_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    detection_threshold: float
    max_objects: int
    def __init__(self, image: _Optional[bytes] = ..., detection_threshold: _Optional[float] = ..., max_objects: _Optional[int] = ...) -> None: ...

class DetectResponse(_message.Message):
    __slots__ = ("objects", "image_width", "image_height", "timings")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[DetectedObject]
    image_width: int
    image_height: int
    timings: _types_pb2.StageTimings
    def __init__(self, objects: _Optional[_Iterable[_Union[DetectedObject, _Mapping]]] = ..., image_width: _Optional[int] = ..., image_height: _Optional[int] = ..., timings: _Optional[_Union[_types_pb2.StageTimings, _Mapping]] = ...) -> None: ...

class DetectedObject(_message.Message):
    __slots__ = ("box", "score")
    BOX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    box: _types_pb2.Box
    score: float
    def __init__(self, box: _Optional[_Union[_types_pb2.Box, _Mapping]] = ..., score: _Optional[float] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("image", "boxes", "encoder", "encoder_fingerprint")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    boxes: _containers.RepeatedCompositeFieldContainer[_types_pb2.Box]
    encoder: str
    encoder_fingerprint: str
    def __init__(self, image: _Optional[bytes] = ..., boxes: _Optional[_Iterable[_Union[_types_pb2.Box, _Mapping]]] = ..., encoder: _Optional[str] = ..., encoder_fingerprint: _Optional[str] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("vectors", "encoder_fingerprint", "timings")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedCompositeFieldContainer[_types_pb2.Vector]
    encoder_fingerprint: str
    timings: _types_pb2.StageTimings
    def __init__(self, vectors: _Optional[_Iterable[_Union[_types_pb2.Vector, _Mapping]]] = ..., encoder_fingerprint: _Optional[str] = ..., timings: _Optional[_Union[_types_pb2.StageTimings, _Mapping]] = ...) -> None: ...

class ListEncodersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListEncodersResponse(_message.Message):
    __slots__ = ("encoders",)
    ENCODERS_FIELD_NUMBER: _ClassVar[int]
    encoders: _containers.RepeatedCompositeFieldContainer[Encoder]
    def __init__(self, encoders: _Optional[_Iterable[_Union[Encoder, _Mapping]]] = ...) -> None: ...

class Encoder(_message.Message):
    __slots__ = ("name", "version", "fingerprint", "dimension", "precision", "profile", "default_match_threshold", "is_default")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MATCH_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: int
    fingerprint: str
    dimension: int
    precision: Precision
    profile: Profile
    default_match_threshold: float
    is_default: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[int] = ..., fingerprint: _Optional[str] = ..., dimension: _Optional[int] = ..., precision: _Optional[_Union[Precision, str]] = ..., profile: _Optional[_Union[Profile, str]] = ..., default_match_threshold: _Optional[float] = ..., is_default: _Optional[bool] = ...) -> None: ...
