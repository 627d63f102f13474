"""The one way from a picture to a model's `pixels`; training, parity checks and serving all use it."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from shitu_models.specs import Interpolation, ModelSpec

_CV2_FLAGS: Final = {Interpolation.BILINEAR: cv2.INTER_LINEAR, Interpolation.BICUBIC: cv2.INTER_CUBIC}


def resize(picture: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.uint8]:
    """Stretch a picture to the model's square input, as PaddleX does (keep_ratio false).

    Args:
        picture: uint8 [H, W, 3], RGB, H and W at least 1.
        spec: gives the size and the interpolation.

    Returns:
        uint8 [input_size, input_size, 3], RGB, contiguous.
    """
    size = (spec.input_size, spec.input_size)
    resized = cv2.resize(picture, size, interpolation=_CV2_FLAGS[spec.interpolation])
    return np.ascontiguousarray(resized, dtype=np.uint8)
