"""What names a picture and the part of it that an item was made of: the server stores it with the item, and lists tell it."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from shitu_client.results import Box

_DETECTED: Final = b"detect"


def image_digest(image: bytes, *, box: Box | None = None, detect: bool = False) -> bytes:
    """Return the SHA-256 of a picture's bytes and of the part that is taken.

    Args:
        image: bytes of the file.
        box: the part, in pixels; the whole picture where None.
        detect: the part is what the detector finds.
    """
    part = _DETECTED if detect else struct.pack("<4f", *box) if box is not None else b""
    digest = hashlib.sha256(image)
    digest.update(part)
    return digest.digest()
