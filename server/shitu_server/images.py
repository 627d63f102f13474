"""From bytes to upright RGB pictures, and from pictures to crops."""

from __future__ import annotations

import asyncio
import io
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shitu_models.boxes import Boxes, pixel_bounds
from shitu_models.preprocessing import resize
from shitu_models.specs import ModelSpec
from shitu_server import jpeg
from shitu_server.errors import InvalidImageError
from shitu_server.types import Picture

T = TypeVar("T")

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
_FORMAT_NAMES: Final = "JPEG, PNG, WebP or BMP"
_SIXTEEN_BIT_MODES: Final = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_THUMBNAIL_QUALITY: Final = 90
_QUICK_BYTES: Final = 1024 * 1024
"""A JPEG of nothing but markers, which is the worst to look through, takes 2 ms."""

# The limits below are checked against the header first; Pillow's own one would only warn.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata that does not concern the pixels.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True)
class ImageLimits:
    """What a picture may be."""

    max_bytes: int = 16 * 1024 * 1024
    max_pixels: int = 50_000_000
    min_side_px: int = 8
    thumbnail_side_px: int = 512


def pixel_count(content: bytes, limits: ImageLimits, field: str = "image") -> int:
    """Return how many pixels a picture has, by its header alone.

    Raises:
        InvalidImageError: as `decode`, save for damage behind the header.
    """
    width, height = _checked_size(content, jpeg.size_of(content), limits, field)
    return width * height


def quick_pixel_count(content: bytes, limits: ImageLimits, field: str = "image") -> int | None:
    """Return what `pixel_count` returns where that takes microseconds, else None: an event loop need not go to a thread for it."""
    size = jpeg.size_of(content) if len(content) <= _QUICK_BYTES else None
    if size is None:
        return None
    width, height = _checked_size(content, size, limits, field)
    return width * height


def decode(content: bytes, limits: ImageLimits, field: str = "image") -> Picture:
    """Decode a picture and turn it upright by its EXIF orientation.

    CMYK is converted, 16 bits are scaled to 8, transparency is laid over white. What the file is called does not matter.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        InvalidImageError: empty, too large, of another format, damaged, animated or too small; names `field`.
    """
    size = jpeg.size_of(content)
    _checked_size(content, size, limits, field)
    pixels = None if size is None else jpeg.decoded(content)
    if pixels is not None:
        return pixels
    with _checked(content, limits, field) as image:
        return _to_rgb(image, field)


def _checked_size(
    content: bytes, jpeg_size: tuple[int, int] | None, limits: ImageLimits, field: str
) -> tuple[int, int]:
    """Return width and height; those of an ordinary JPEG are known already."""
    _check_bytes(content, limits, field)
    if jpeg_size is None:
        with _checked(content, limits, field) as image:
            return image.size
    _check_size(*jpeg_size, limits, field)
    return jpeg_size


@contextmanager
def _checked(content: bytes, limits: ImageLimits, field: str) -> Iterator[Image.Image]:
    with _open(content, field) as image:
        _check_header(image, limits, field)
        yield image


def _check_bytes(content: bytes, limits: ImageLimits, field: str) -> None:
    if not content:
        raise InvalidImageError(field, f"expected a {_FORMAT_NAMES} file, got 0 bytes")
    if len(content) > limits.max_bytes:
        raise InvalidImageError(
            field, f"expected at most {limits.max_bytes} bytes, got {len(content)}; send it smaller"
        )


def _open(content: bytes, field: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=_FORMATS)
    except Exception as error:
        raise InvalidImageError(
            field, f"expected a {_FORMAT_NAMES} file, got {len(content)} bytes that are none (or a broken header)"
        ) from error


def _check_size(width: int, height: int, limits: ImageLimits, field: str) -> None:
    if width * height > limits.max_pixels:
        raise InvalidImageError(
            field, f"expected at most {limits.max_pixels} pixels, got {width}x{height}; scale the picture down"
        )
    if min(width, height) < limits.min_side_px:
        raise InvalidImageError(
            field, f"expected at least {limits.min_side_px}x{limits.min_side_px} pixels, got {width}x{height}"
        )


def _check_header(image: Image.Image, limits: ImageLimits, field: str) -> None:
    _check_size(*image.size, limits, field)
    # Phones store a preview as a second picture of a JPEG (MPO), which is no animation.
    frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    if frames > 1:
        raise InvalidImageError(field, f"expected a still picture, got an animation of {frames} frames; send one frame")


def _to_rgb(image: Image.Image, field: str) -> Picture:
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return np.asarray(_flattened(upright), dtype=np.uint8)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise InvalidImageError(field, f"the {image.format} file is damaged or truncated: {error}") from error


def _flattened(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        values = np.asarray(image)
        return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def crops(picture: Picture, boxes: Boxes, spec: ModelSpec) -> NDArray[np.uint8]:
    """Cut boxes out and resize each to a model's input.

    Args:
        picture: uint8 [H, W, 3], RGB.
        boxes: float32 [n, 4], pixels; each is cut to the picture and holds at least one pixel of it.
        spec: the model that the crops are for; it says how corners are rounded.

    Returns:
        uint8 [n, S, S, 3].
    """
    height, width = picture.shape[:2]
    out = np.empty((len(boxes), spec.input_size, spec.input_size, 3), dtype=np.uint8)
    for index, box in enumerate(boxes):
        x1, y1, x2, y2 = pixel_bounds(box, width, height, spec.crop_rounding)
        out[index] = resize(picture[y1:y2, x1:x2], spec)
    return out


def thumbnail(picture: Picture, side_px: int) -> bytes:
    """Return a picture as JPEG, scaled down to at most `side_px` on its longer side."""
    image = Image.fromarray(picture)
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY)
    return buffer.getvalue()


class ImageWorkers:
    """A bounded pool of threads for work on pixels; Pillow and cv2 release the interpreter lock there."""

    def __init__(self, thread_count: int) -> None:
        # Of OpenCV's own threads one would spin for each resize, to win nothing: pictures run side by side already.
        cv2.setNumThreads(1)
        self._threads = ThreadPoolExecutor(thread_count, thread_name_prefix="images")

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread; it does not start when the caller is cancelled first."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Wait for running work and stop the threads."""
        self._threads.shutdown(cancel_futures=True)
