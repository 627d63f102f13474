"""How a result of ours is compared with PaddleX's. Every comparison returns what it measured and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

THRESHOLD = 0.5
MOST_BOXES = 100
"""Of one picture, at both."""
MOST_PX = 0.5
LEAST_COSINE = 0.9999
MOST_SCORE = 1e-3
EDGE = 1e-4
"""A box whose score is so near to where a list of boxes ends may be on one of two lists alone; those are counted."""


@dataclass
class Comparison:
    """Figures and faults of any number of photos."""

    photos: int = 0
    fewest_boxes: int = MOST_BOXES
    boxes: int = 0
    boxes_at_the_edge: int = 0
    max_px: float = 0.0
    max_det_score: float = 0.0
    vectors: int = 0
    min_cosine: float = 1.0
    recognised: int = 0
    same_order: int = 0
    labels_at_the_edge: int = 0
    max_rec_score: float = 0.0
    faults: list[str] = field(default_factory=list)

    def add_boxes(self, photo, theirs, ours):
        """Compare boxes [n, 4] with scores [n] of PaddleX with ours, one to one."""
        self.photos += 1
        self.fewest_boxes = min(self.fewest_boxes, len(theirs[1]))
        left = list(range(len(ours[1])))
        for box, score in zip(*theirs, strict=True):
            distances = [float(np.abs(ours[0][index] - box).max()) for index in left]
            nearest = int(np.argmin(distances)) if left else 0
            if not left or distances[nearest] > MOST_PX:
                self._lonely(f"{photo}: PaddleX alone has {box} {score}", score, theirs[1])
                continue
            self.boxes += 1
            self.max_px = max(self.max_px, distances[nearest])
            self.max_det_score = max(self.max_det_score, abs(float(ours[1][left.pop(nearest)]) - float(score)))
        for index in left:
            self._lonely(f"{photo}: we alone have {ours[0][index]} {ours[1][index]}", ours[1][index], ours[1])
        if self.max_det_score > MOST_SCORE:
            self.faults.append(f"{photo}: scores of boxes differ by up to {self.max_det_score}")

    def _lonely(self, fault, score, scores):
        ends = [THRESHOLD, *([min(scores)] if len(scores) == MOST_BOXES else [])]
        if any(abs(float(score) - float(end)) < EDGE for end in ends):
            self.boxes_at_the_edge += 1
        else:
            self.faults.append(fault)

    def add_vectors(self, photo, theirs, ours):
        """Compare vectors [n, d] of the same boxes."""
        lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours, axis=1)
        cosines = (theirs.astype(np.float64) * ours).sum(axis=1) / lengths
        self.vectors += len(cosines)
        self.min_cosine = min(self.min_cosine, float(cosines.min()))
        self.faults += [
            f"{photo}: cosine {value} of box {i}" for i, value in enumerate(cosines) if value <= LEAST_COSINE
        ]

    def add_matches(self, photo, theirs, ours):
        """Compare the labels of one box with their scores, best first.

        Where two items of the gallery score alike within the tolerance, either may come first, or be the last that comes at all:
        scores are compared by label, and a label on one list alone has to score as the other list's last.
        """
        self.recognised += 1
        self.same_order += list(theirs) == list(ours)
        common = theirs.keys() & ours.keys()
        differences = {label: abs(theirs[label] - ours[label]) for label in common}
        self.max_rec_score = max(self.max_rec_score, *differences.values(), 0.0)
        self.faults += [f"{photo}: {label} differs by {d}" for label, d in differences.items() if d > MOST_SCORE]
        for mine, others in ((theirs, ours), (ours, theirs)):
            for label in mine.keys() - common:
                if abs(mine[label] - min(others.values(), default=2.0)) <= MOST_SCORE:
                    self.labels_at_the_edge += 1
                else:
                    self.faults.append(f"{photo}: {label} {mine[label]} is on one list alone: {theirs} and {ours}")

    def figures(self):
        """All that was measured."""
        kinds = {
            "photos": ("photos", "fewest_boxes", "boxes", "boxes_at_the_edge", "max_px", "max_det_score"),
            "vectors": ("vectors", "min_cosine"),
            "recognised": ("recognised", "same_order", "labels_at_the_edge", "max_rec_score"),
        }
        measured = [name for counted, names in kinds.items() if getattr(self, counted) for name in names]
        return {name: getattr(self, name) for name in measured} | {"faults": len(self.faults)}
