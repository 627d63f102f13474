"""From hits to decisions: which boxes stay, and what each of them is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shitu_models.boxes import nms
from shitu_server.recognitions import Objects, RecognizedObject
from shitu_server.types import BoxSource, Hit, SearchResult


def decided(
    objects: Objects, found: SearchResult, match_threshold: float, duplicate_iou: float
) -> tuple[RecognizedObject, ...]:
    """Decide what each object is.

    Args:
        objects: n boxes.
        found: hits of each box.
        match_threshold: hits below it are no matches, -1..1.
        duplicate_iou: of two detected boxes that overlap by more, the one with the lower best score is dropped.

    Returns:
        The objects that stay, in the order of `objects`.
    """
    best_scores = np.array([hits[0].score if hits else -1.0 for hits in found.hits], dtype=np.float32)
    kept: Sequence[int] = range(len(objects.boxes))
    if objects.source is BoxSource.DETECTED:
        kept = sorted(nms(objects.boxes, best_scores, duplicate_iou).tolist())
    return tuple(_decide(objects, index, found.hits[index], match_threshold) for index in kept)


def _decide(objects: Objects, index: int, hits: tuple[Hit, ...], match_threshold: float) -> RecognizedObject:
    x1, y1, x2, y2 = objects.boxes[index].tolist()
    return RecognizedObject(
        box=(x1, y1, x2, y2),
        source=objects.source,
        detection_score=float(objects.scores[index]),
        matches=tuple(hit for hit in hits if hit.score >= match_threshold),
        best=hits[0] if hits else None,
    )
