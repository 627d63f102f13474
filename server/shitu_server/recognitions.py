"""What the pipeline takes and gives: options in, recognised objects out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shitu_models.boxes import Boxes
from shitu_server.filters import Filter
from shitu_server.timings import StageTimings
from shitu_server.types import BoxSource, Detections, GalleryState, Hit, Vectors


@dataclass(frozen=True)
class PipelineLimits:
    """How much one request may ask for."""

    max_boxes: int = 100
    max_top_k: int = 100
    default_top_k: int = 5
    duplicate_iou: float = 0.5
    """Of two detected boxes that overlap by more, the one with the lower recognition score is dropped."""


@dataclass(frozen=True)
class RecognizeOptions:
    """What a request may choose; None takes the default of the model or the server."""

    detection_threshold: float | None = None
    match_threshold: float | None = None
    top_k: int | None = None
    boxes: Boxes = field(default_factory=lambda: np.empty((0, 4), dtype=np.float32))
    skip_detection: bool = False
    max_objects: int | None = None
    where: Filter | None = None
    """Which items may be found; the gallery checks its fields."""
    matches_per_label: int = 0
    """0 does not group by label."""


@dataclass(frozen=True)
class Objects:
    """Boxes to recognise, float32 [n, 4], with detection scores [n] (0 where not detected) and where they come from."""

    boxes: Boxes
    scores: NDArray[np.float32]
    source: BoxSource


@dataclass(frozen=True)
class RecognizedObject:
    """One object: `matches` are at or above the threshold; `best` is the first hit, below it or not, None in an empty gallery."""

    box: tuple[float, float, float, float]
    source: BoxSource
    detection_score: float
    matches: tuple[Hit, ...]
    best: Hit | None


@dataclass(frozen=True)
class Recognition:
    """The outcome of one picture."""

    objects: tuple[RecognizedObject, ...]
    width: int
    height: int
    encoder_fingerprint: str
    state: GalleryState
    timings: StageTimings


@dataclass(frozen=True)
class Detection:
    """Boxes of one picture, best first, in its own pixels."""

    detections: Detections
    width: int
    height: int
    timings: StageTimings


@dataclass(frozen=True)
class Embedding:
    """Vectors of one picture's boxes, float32 [n, dimension], L2-normalised."""

    vectors: Vectors
    encoder_fingerprint: str
    timings: StageTimings


@dataclass(frozen=True)
class ItemEmbedding:
    """The vector of a gallery item's picture, float32 [dimension], L2-normalised, and its thumbnail, a JPEG."""

    vector: NDArray[np.float32]
    thumbnail: bytes
