"""Which cells learn which box: ATSS (Zhang et al., CVPR 2020), as PaddleDetection's static assigner does it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shitu_models.boxes import iou

NEAREST = 9
# Side of the square anchor that stands for a cell, in strides (grid_cell_scale of PicoDet's configuration).
ANCHOR_SCALE = 5.0


def assign(centres: NDArray[np.float32], strides: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each cell [n] the index of its box, or -1.

    Of every level the nine cells nearest to a box's centre are candidates; those whose anchor overlaps the box more than the
    candidates' mean plus deviation, and whose centre lies inside the box, get it. A cell wanted twice takes the larger overlap.
    """
    owner = np.full(len(centres), -1, np.int64)
    if not len(boxes):
        return owner
    half = (strides * ANCHOR_SCALE / 2)[:, None]
    overlaps = iou(np.hstack([centres - half, centres + half]).astype(np.float32), boxes)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    apart = np.linalg.norm(centres[:, None] - middles[None], axis=2)
    candidate = np.zeros_like(overlaps, dtype=bool)
    for stride in np.unique(strides):
        cells = np.flatnonzero(strides == stride)
        nearest = np.argsort(apart[cells], axis=0, kind="stable")[:NEAREST]
        candidate[cells[nearest], np.arange(len(boxes))[None]] = True
    considered = np.where(candidate, overlaps, np.nan)
    limit = np.nanmean(considered, axis=0) + np.nanstd(considered, axis=0)
    inside = ((centres[:, None] > boxes[None, :, :2]) & (centres[:, None] < boxes[None, :, 2:])).all(axis=2)
    wanted = np.where(candidate & inside & (overlaps >= limit), overlaps, -1.0)
    best = wanted.argmax(axis=1)
    taken = wanted[np.arange(len(centres)), best] > 0
    owner[taken] = best[taken]
    return owner
