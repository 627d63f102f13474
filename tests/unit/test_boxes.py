from __future__ import annotations

import numpy as np

from shitu_models.boxes import areas, clip, iou, nms, pixel_bounds
from shitu_models.specs import CropRounding


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def test_iou_of_known_boxes():
    found = iou(boxes((0, 0, 10, 10)), boxes((0, 0, 10, 10), (5, 0, 15, 10), (20, 20, 30, 30)))
    np.testing.assert_allclose(found, [[1, 1 / 3, 0]], rtol=1e-6)


def test_a_box_inside_out_has_no_area():
    np.testing.assert_array_equal(areas(boxes((5, 5, 2, 9), (0, 0, 3, 2))), [0, 6])


def test_nms_keeps_the_best_and_orders_by_score():
    kept = nms(
        boxes((0, 0, 10, 10), (1, 0, 11, 10), (50, 50, 60, 60)), np.array([0.5, 0.9, 0.7], dtype=np.float32), 0.5
    )
    np.testing.assert_array_equal(kept, [1, 2])


def test_nms_of_nothing_is_nothing():
    assert nms(boxes(), np.empty(0, dtype=np.float32), 0.5).shape == (0,)


def test_clip_keeps_boxes_inside():
    np.testing.assert_array_equal(clip(boxes((-5, -1, 50, 20)), 40, 30), [[0, 0, 40, 20]])


def test_pixel_bounds_hold_at_least_one_pixel():
    assert pixel_bounds(np.array([39.9, 29.9, 39.95, 29.95], dtype=np.float32), 40, 30) == (39, 29, 40, 30)
    assert pixel_bounds(np.array([60, 60, 70, 70], dtype=np.float32), 40, 30) == (39, 29, 40, 30)
    assert pixel_bounds(np.array([1.2, 2.7, 3.1, 4.0], dtype=np.float32), 40, 30) == (1, 2, 4, 4)


def test_pixel_bounds_truncate_as_paddlex_does():
    truncated = CropRounding.TRUNCATED
    assert pixel_bounds(np.array([1.2, 2.7, 3.9, 4.0], dtype=np.float32), 40, 30, truncated) == (1, 2, 3, 4)
    assert pixel_bounds(np.array([5.1, 5.1, 5.9, 5.9], dtype=np.float32), 40, 30, truncated) == (5, 5, 6, 6)
