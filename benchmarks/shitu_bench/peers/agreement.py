"""Whether two servers said the same of the same pictures: boxes, and the best match of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from shitu_models.boxes import iou

LEAST_IOU: Final = 0.9
_EQUAL_SCORES: Final = 1e-3
"""Two labels whose scores differ by less may change places by rounding."""


@dataclass(frozen=True)
class Finding:
    """An object as a server tells it."""

    box: tuple[float, float, float, float]
    """x1 y1 x2 y2 in pixels."""
    detection_score: float
    matches: Mapping[str, float]
    """Labels with their scores, best first."""


@dataclass
class Agreement:
    """Of any number of pictures."""

    pictures: int = 0
    their_objects: int = 0
    our_objects: int = 0
    same_boxes: int = 0
    """Pairs with an IoU over .9."""
    least_iou: float = 1.0
    """Of those."""
    same_labels: int = 0
    """Pairs with the same best label."""
    equal_labels: int = 0
    """Pairs with another one that scores alike within the rounding."""
    max_detection_difference: float = 0.0
    max_match_difference: float = 0.0
    """Of scores of the same best label."""
    faults: list[str] = field(default_factory=list)

    def add(self, picture: str, theirs: Sequence[Finding], ours: Sequence[Finding]) -> None:
        """Compare what both found on a picture."""
        self.pictures += 1
        self.their_objects += len(theirs)
        self.our_objects += len(ours)
        pairs = _paired(theirs, ours)
        if not len(pairs) == len(theirs) == len(ours):
            self.faults.append(f"{picture}: {len(theirs)} and {len(ours)} boxes, of which {len(pairs)} are the same")
        for their, our, overlap in pairs:
            self.same_boxes += 1
            self.least_iou = min(self.least_iou, overlap)
            difference = abs(their.detection_score - our.detection_score)
            self.max_detection_difference = max(self.max_detection_difference, difference)
            self._add_matches(picture, their.matches, our.matches)

    def _add_matches(self, picture: str, theirs: Mapping[str, float], ours: Mapping[str, float]) -> None:
        their_best, our_best = next(iter(theirs), ""), next(iter(ours), "")
        if their_best == our_best:
            self.same_labels += 1
            difference = abs(theirs.get(their_best, 0.0) - ours.get(our_best, 0.0))
            self.max_match_difference = max(self.max_match_difference, difference)
        elif (
            abs(theirs.get(their_best, 2.0) - ours.get(their_best, -2.0))
            < _EQUAL_SCORES
            > abs(ours[our_best] - ours[their_best])
        ):
            self.equal_labels += 1
        else:
            self.faults.append(f"{picture}: {their_best!r} and {our_best!r} are the best matches of one box")

    def described(self) -> dict[str, Any]:
        """Return the figures as they are kept in results."""
        return asdict(self)


def _paired(theirs: Sequence[Finding], ours: Sequence[Finding]) -> list[tuple[Finding, Finding, float]]:
    if not theirs or not ours:
        return []
    overlaps = iou(*(np.array([one.box for one in side], np.float32) for side in (theirs, ours)))
    nearest = overlaps.argmax(axis=1)
    return [
        (their, ours[index], float(overlaps[row, index]))
        for row, (their, index) in enumerate(zip(theirs, nearest, strict=True))
        # The nearest of each other: no box is taken twice.
        if overlaps[row, index] > LEAST_IOU and overlaps[:, index].argmax() == row
    ]
