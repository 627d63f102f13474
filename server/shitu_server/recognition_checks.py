"""What a request for recognition may ask for."""

from __future__ import annotations

import numpy as np

from shitu_models.boxes import Boxes
from shitu_server.errors import InvalidArgumentError
from shitu_server.recognitions import PipelineLimits, RecognizeOptions


def check_options(gallery: str, options: RecognizeOptions, limits: PipelineLimits) -> None:
    """Raise InvalidArgumentError, which names the field, unless gallery and options may stand so."""
    if not gallery:
        raise InvalidArgumentError("gallery", "expected the name of a gallery, got nothing; ListGalleries lists them")
    check_thresholds(options, limits, "options.")
    top_k = options.top_k
    if top_k is not None and not 1 <= top_k <= limits.max_top_k:
        raise InvalidArgumentError("options.top_k", f"expected 1 to {limits.max_top_k}, got {top_k}")
    if options.skip_detection and len(options.boxes):
        raise InvalidArgumentError("options.skip_detection", "expected either boxes or skip_detection, got both")


def check_thresholds(options: RecognizeOptions, limits: PipelineLimits, prefix: str = "") -> None:
    """Raise InvalidArgumentError unless thresholds and the number of objects are in range; `prefix` stands before their names."""
    _check_range(f"{prefix}detection_threshold", options.detection_threshold, 0.0, 1.0)
    _check_range(f"{prefix}match_threshold", options.match_threshold, -1.0, 1.0)
    most = options.max_objects
    if most is not None and not 1 <= most <= limits.max_boxes:
        raise InvalidArgumentError(f"{prefix}max_objects", f"expected 1 to {limits.max_boxes}, got {most}")


def check_box(box: Boxes, field_name: str, width: int, height: int) -> None:
    """Raise InvalidArgumentError unless a box, float32 [4] in pixels, has a part inside a picture of this size."""
    x1, y1, x2, y2 = (float(value) for value in box)
    inside = np.isfinite(box).all() and max(x1, 0) < min(x2, width) and max(y1, 0) < min(y2, height)
    if not inside:
        raise InvalidArgumentError(
            field_name,
            f"expected x1 < x2 and y1 < y2 with a part inside the {width}x{height} picture, got ({x1}, {y1}, {x2}, {y2})",
        )


def _check_range(field_name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:  # also refuses NaN
        raise InvalidArgumentError(field_name, f"expected {low} to {high}, got {value}")
