"""Which found box answers which true one."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_models.boxes import iou

FOUND_IOU: Final = 0.5


def match(found: NDArray[np.float32], truth: NDArray[np.float32]) -> dict[int, int]:
    """Which found box (best score first) answers each true box: {true index: found index}, one to one, at an IoU of at least 0.5."""
    answers: dict[int, int] = {}
    overlaps = iou(found, truth)
    for i in range(len(found)):
        free = [j for j in range(len(truth)) if j not in answers and overlaps[i, j] >= FOUND_IOU]
        if free:
            answers[max(free, key=lambda j: overlaps[i, j])] = i
    return answers
