"""Ordinary JPEG files in two thirds of Pillow's time, pixel for pixel the same; whatever is not ordinary is left to Pillow."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image

_START: Final = b"\xff\xd8\xff"
_MARKER: Final = b"\xff"
_SCAN: Final = b"\xda"
_MOST_SEGMENTS: Final = 300
"""Before the pixels; a colour profile of 16 MiB, the largest there is, takes 255 (ICC.1, B.4)."""
_COLOUR_SPACES: Final = frozenset({"YCbCr", "Gray"})
_ORIENTATION_MARKS: Final = (b"Exif\0\0", b"tiff:Orientation")
"""Where Pillow finds an orientation: EXIF, and XMP."""

Pixels = NDArray[np.uint8]
_UPRIGHT: Final[dict[int, Callable[[Pixels], Pixels]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels[:, ::-1].transpose(1, 0, 2),
}
"""By EXIF's orientation (tag 0x0112); 1 is upright."""


def size_of(content: bytes) -> tuple[int, int] | None:
    """Return width and height as stored, by the header alone; None where the file is not an ordinary JPEG. Takes microseconds."""
    if not content.startswith(_START):
        return None
    try:
        height, width, colour_space, _ = simplejpeg.decode_jpeg_header(content, strict=True)
    except ValueError:
        return None
    return (width, height) if colour_space in _COLOUR_SPACES else None


def decoded(content: bytes) -> Pixels | None:
    """Return uint8 RGB [H, W, 3], upright, of a file whose `size_of` is known and was checked; None where libjpeg complains."""
    try:
        pixels = simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, strict=True)
        turn = _UPRIGHT.get(_orientation(content))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  Pillow judges it, and says what is wrong
        return None
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _orientation(content: bytes) -> int:
    header = content[: _scan_start(content)]
    if not any(mark in header for mark in _ORIENTATION_MARKS):
        return 1
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _scan_start(content: bytes) -> int:
    """Return where the segments before the pixels end (ITU-T T.81, B.1.1): to look through all of a file takes 50 us.

    Where they are very many, or followed by what is none, it is the end of the file.
    """
    position = len(_START) - 1
    for _ in range(_MOST_SEGMENTS):
        if content[position : position + 1] != _MARKER:
            break
        if content[position + 1 : position + 2] == _SCAN:
            return position
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return len(content)
