"""What recognition returns: plain values, no protobuf."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import json_format, struct_pb2
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from numpy.typing import NDArray

from shitu.v1 import recognition_pb2, types_pb2


class Box(NamedTuple):
    """Pixels of the upright picture; x2 and y2 are exclusive."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Match:
    """A gallery item that was found."""

    item_id: str
    label: str
    score: float
    """-1 to 1; 1 is equal."""
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class RecognizedObject:
    """One object of a picture."""

    box: Box
    source: str
    """`detected`, `requested` or `whole_image`."""
    detection_score: float
    label: str
    """Empty where unknown."""
    matches: tuple[Match, ...]
    best_candidate: Match | None
    """Also where it is below the threshold; None where the gallery is empty."""
    unknown_reason: str
    """Empty where known; else `empty_gallery` or `score_below_threshold`."""


@dataclass(frozen=True)
class Recognition:
    """Objects of one picture, best detection score first."""

    objects: tuple[RecognizedObject, ...]
    width: int
    height: int
    encoder_fingerprint: str
    gallery_generation: int
    gallery_sequence: int
    timings_us: Mapping[str, int]

    def to_json(self) -> str:
        """Return the result as JSON text."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class Detection:
    """Boxes of one picture, best score first: (box, score)."""

    objects: tuple[tuple[Box, float], ...]
    width: int
    height: int


@dataclass(frozen=True)
class Embedding:
    """Vectors float32 [n, dimension], L2-normalised, and the encoder that made them."""

    vectors: NDArray[np.float32]
    encoder_fingerprint: str


@dataclass(frozen=True)
class EncoderInfo:
    """One version of an encoder that a server runs."""

    name: str
    version: int
    fingerprint: str
    """What galleries are bound to."""
    dimension: int
    precision: str
    """`fp32`, `fp16`, `bf16` or `int8`."""
    profile: str
    """Whose preprocessing pictures go through: `trained` or `paddlex`."""
    default_match_threshold: float
    is_default: bool
    """New galleries that name no encoder are bound to this one."""


def recognition_of(response: recognition_pb2.RecognizeResponse) -> Recognition:
    """Return the result of Recognize."""
    return Recognition(
        objects=tuple(_object_of(found) for found in response.objects),
        width=response.image_width,
        height=response.image_height,
        encoder_fingerprint=response.encoder_fingerprint,
        gallery_generation=response.gallery_state.generation,
        gallery_sequence=response.gallery_state.sequence,
        timings_us={field.name: value for field, value in response.timings.ListFields()},
    )


def detection_of(response: recognition_pb2.DetectResponse) -> Detection:
    """Return the result of Detect."""
    objects = tuple((_box_of(found.box), found.score) for found in response.objects)
    return Detection(objects, response.image_width, response.image_height)


def embedding_of(response: recognition_pb2.EmbedResponse) -> Embedding:
    """Return the result of Embed."""
    return Embedding(np.stack([vector_of(vector) for vector in response.vectors]), response.encoder_fingerprint)


def encoder_of(message: recognition_pb2.Encoder) -> EncoderInfo:
    """Return an encoder."""
    return EncoderInfo(
        message.name,
        message.version,
        message.fingerprint,
        message.dimension,
        name_of(recognition_pb2.Precision, message.precision, "PRECISION_"),
        name_of(recognition_pb2.Profile, message.profile, "PROFILE_"),
        message.default_match_threshold,
        message.is_default,
    )


def match_of(message: types_pb2.Match) -> Match:
    """Return a match."""
    return Match(message.item_id, message.label, message.score, metadata_of(message.metadata))


def vector_of(message: types_pb2.Vector) -> NDArray[np.float32]:
    """Return a vector as float32 [dimension]."""
    return np.frombuffer(message.data, dtype="<f4")


def metadata_of(struct: struct_pb2.Struct) -> Mapping[str, Any]:
    """Return metadata as plain values."""
    values: dict[str, Any] = json_format.MessageToDict(struct)
    return values


def name_of(enum: EnumTypeWrapper, value: int, prefix: str) -> str:
    """Return a value's name, or its number where a newer server knows more of them."""
    try:
        return str(enum.Name(value)).removeprefix(prefix).lower()
    except ValueError:
        return str(value)


def _object_of(found: recognition_pb2.RecognizedObject) -> RecognizedObject:
    decision = found.decision
    reason = "" if decision.label else name_of(recognition_pb2.UnknownReason, decision.reason, "UNKNOWN_REASON_")
    return RecognizedObject(
        box=_box_of(found.box),
        source=name_of(recognition_pb2.BoxSource, found.source, "BOX_SOURCE_"),
        detection_score=found.detection_score,
        label=decision.label,
        matches=tuple(match_of(match) for match in found.matches),
        best_candidate=match_of(decision.best_candidate) if decision.HasField("best_candidate") else None,
        unknown_reason=reason,
    )


def _box_of(box: types_pb2.Box) -> Box:
    return Box(box.x1, box.y1, box.x2, box.y2)
