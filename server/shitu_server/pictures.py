"""Pictures on their way through the pipeline: decoded, cut, and counted while they are in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_models.boxes import Boxes, areas, pixel_bounds
from shitu_models.preprocessing import resize
from shitu_models.specs import ModelSpec
from shitu_server.admission import Admission
from shitu_server.errors import DeadlineExceededError
from shitu_server.images import (
    ImageLimits,
    ImageWorkers,
    crops,
    decode,
    pixel_count,
    quick_pixel_count,
    thumbnail,
)
from shitu_server.timings import StageClock
from shitu_server.types import Picture

_INLINE_CROP_PIXELS: Final = 200_000
"""Of boxes and crops together: resized in a quarter of a millisecond, while the way to a thread and back takes about as long."""


@dataclass(frozen=True)
class Call:
    """What goes with a request through all stages."""

    deadline_s: float | None
    image_field: str = "image"
    box_field: Callable[[int], str] = "boxes[{}]".format
    clock: StageClock = field(default_factory=StageClock)

    def check_alive(self) -> None:
        """Drop work nobody waits for any more."""
        if self.deadline_s is not None and time.monotonic() >= self.deadline_s:
            raise DeadlineExceededError("the deadline passed before the work was done")


@dataclass
class Decoded:
    """A picture, and where objects are to be detected in it what the detector takes, made on the same way to a thread."""

    picture: Picture
    detector_pixels: NDArray[np.uint8] | None = None
    """uint8 [1, S, S, 3]; None where nothing is to be detected."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        height, width = self.picture.shape[:2]
        return width, height


class Pictures:
    """Work on pixels goes to threads, as many at a time as there are; what is decoded is limited in pixels."""

    def __init__(self, workers: ImageWorkers, pixels: Admission, limits: ImageLimits) -> None:
        self._workers = workers
        self._pixels = pixels
        self._limits = limits

    async def pixel_count(self, content: bytes, call: Call) -> int:
        """Return how many pixels a picture has, by its header alone. Raises InvalidImageError, see `images.pixel_count`."""
        count = quick_pixel_count(content, self._limits, call.image_field)
        if count is None:
            count = await self._workers.run(lambda: pixel_count(content, self._limits, call.image_field))
        return count

    @asynccontextmanager
    async def opened(
        self, content: bytes, count: int, call: Call, detector: ModelSpec | None = None
    ) -> AsyncIterator[Decoded]:
        """Decode a picture; its pixels count as in flight while the body runs, which must not keep it longer.

        Args:
            content: of the file.
            count: of its pixels, as `pixel_count` tells it.
            call: of the request.
            detector: whose input is to be made too.

        Raises:
            InvalidImageError: see `images.decode`.
            DeadlineExceededError: there was no room in time.
        """
        async with self._pixels.room(count, call.deadline_s):
            yield await self._decoded(content, call, detector)

    async def _decoded(self, content: bytes, call: Call, detector: ModelSpec | None) -> Decoded:
        def work() -> Decoded:
            call.clock.finish_queue()
            call.check_alive()
            with call.clock.stage("decode"):
                picture = decode(content, self._limits, call.image_field)
                return Decoded(picture, None if detector is None else resize(picture, detector)[None])

        return await self._workers.run(work)

    async def crops(self, picture: Picture, boxes: Boxes, spec: ModelSpec) -> NDArray[np.uint8]:
        """Return the crops of boxes, see `images.crops`."""
        most_pixels = float(areas(boxes).sum()) + len(boxes) * spec.input_size**2
        if most_pixels <= _INLINE_CROP_PIXELS:
            return crops(picture, boxes, spec)
        return await self._workers.run(lambda: crops(picture, boxes, spec))

    async def thumbnail(self, picture: Picture, box: Boxes) -> bytes:
        """Return a box [4] of a picture as a small JPEG."""
        height, width = picture.shape[:2]
        x1, y1, x2, y2 = pixel_bounds(box, width, height)
        return await self._workers.run(lambda: thumbnail(picture[y1:y2, x1:x2], self._limits.thumbnail_side_px))
