"""Names of pictures: two items of one name were made of the same bytes and the same part of them."""

from __future__ import annotations

import hashlib

import numpy as np

from shitu_models.boxes import Boxes


def picture_digest(content: bytes, boxes: Boxes, *, detect: bool) -> bytes:
    """Return the SHA-256 that stands as `image_digest` in gallery.proto.

    Args:
        content: of the picture file.
        boxes: float32 [0 or 1, 4]: the part that was taken.
        detect: whether the detector chose the part.
    """
    digest = hashlib.sha256(content)
    digest.update(np.asarray(boxes, dtype="<f4").tobytes())
    if detect:
        digest.update(b"detect")
    return digest.digest()
