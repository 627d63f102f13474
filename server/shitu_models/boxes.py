"""Geometry of boxes: float32 [n, 4], x1 y1 x2 y2 in pixels, x2 and y2 exclusive."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from shitu_models.specs import CropRounding

Boxes = NDArray[np.float32]


def areas(boxes: Boxes) -> NDArray[np.float32]:
    """Return the areas, float32 [n], of boxes [n, 4]; a box that is turned inside out has area 0."""
    sides: NDArray[np.float32] = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1], dtype=np.float32)


def iou(left: Boxes, right: Boxes) -> NDArray[np.float32]:
    """Return the intersection over union, float32 [n, m] in 0..1, of boxes [n, 4] and [m, 4]."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    sides = np.maximum(high - low, 0)
    overlap = sides[..., 0] * sides[..., 1]
    union = areas(left)[:, None] + areas(right)[None, :] - overlap
    return np.asarray(overlap / np.maximum(union, 1e-9), dtype=np.float32)


def nms(boxes: Boxes, scores: NDArray[np.float32], max_iou: float) -> NDArray[np.int64]:
    """Greedy non-maximum suppression.

    Args:
        boxes: float32 [n, 4].
        scores: float32 [n]; of equal scores the first wins.
        max_iou: a box that overlaps a better one by more is dropped, 0..1.

    Returns:
        Indices of the boxes that are kept, int64 [k], best score first.
    """
    overlaps = (iou(boxes, boxes) > max_iou).tolist()  # an object has few boxes: lists are faster than arrays of them
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        row = overlaps[index]
        if not any(row[better] for better in kept):
            kept.append(index)
    return np.asarray(kept, dtype=np.int64)


def clip(boxes: Boxes, width: int, height: int) -> Boxes:
    """Return boxes [n, 4] cut to a picture of width x height pixels."""
    limits = np.array([width, height, width, height], dtype=np.float32)
    return np.asarray(np.minimum(np.maximum(boxes, 0), limits), dtype=np.float32)


def pixel_bounds(
    box: NDArray[np.float32], width: int, height: int, rounding: CropRounding = CropRounding.OUTWARD
) -> tuple[int, int, int, int]:
    """Return whole-pixel bounds of one box [4], at least 1 x 1 and inside a picture of width x height.

    PaddleX truncates, so that a box narrower than a pixel makes an empty crop and an exception (notes on PaddleX 3.7,
    section 1, step 5); here the bounds grow to hold a pixel, truncated or not.
    """
    x1, y1, x2, y2 = box.tolist()
    if rounding is CropRounding.TRUNCATED:
        x2, y2 = math.trunc(x2), math.trunc(y2)
    left = min(max(math.floor(x1), 0), width - 1)
    top = min(max(math.floor(y1), 0), height - 1)
    right = min(max(math.ceil(x2), left + 1), width)
    bottom = min(max(math.ceil(y2), top + 1), height)
    return left, top, right, bottom
