"""Detector and encoder behind a Triton server."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_models.specs import DET_BOXES, DET_SCORES, EMBEDDING, ModelSpec, Task
from shitu_server.errors import ConfigurationError, DeadlineExceededError, InternalError, UnavailableError
from shitu_server.merging import Merger, MergerLimits, places_of
from shitu_server.pace import Pace
from shitu_server.served import Served
from shitu_server.triton_connection import Arrays, TritonConnection, shown
from shitu_server.turns import Begin, Turns
from shitu_server.types import Detections, Vectors

_MERGED_S: Final = 0.1
"""How long a call may take to which several requests are merged, about."""
_MERGED_BYTES: Final = 8 << 20
"""Of pixels in a call to which several requests are merged: of the default segment of shared memory, a quarter."""
_LONG_ITEM_S: Final = 0.015
"""Calls of items that take longer, at their fastest, have the processors of an instance for themselves. Measured on 2 processors with one
instance, against calls side by side: official detector (65 ms) with ViT-B/16 (88 ms) 1.08 times the pictures a second, with PP-LCNetV2
(5 ms) 1.06. The demo models (5 and 2 ms) would lose by it, 0.93: the gaps between their calls are filled by each other."""
_REQUEST_S: Final = 0.5
"""How long a call may take that is made of one request's items, about: a request with more is several calls, so that other models get turns
in between. Items that take so long gain nothing from a larger batch on a CPU."""
Pixels = NDArray[np.uint8]

_log = logging.getLogger(__name__)


async def check_there(connection: TritonConnection, served: Served) -> None:
    """Make sure that a Triton which somebody else looks after has all that is to be served.

    Raises:
        ConfigurationError: names what it has not.
    """
    if missing := await connection.missing([(model.name, model.version) for model in served.models]):
        raise ConfigurationError(
            f"Triton at {connection.address} has not {', '.join(map(shown, missing))}; let it load what lies in its repository first"
        )


async def has_models(connection: TritonConnection, served: Served) -> bool:
    """Return whether Triton has the detector and of each encoder one version, and log what it has not.

    A former version that is away is the loss of its galleries alone; without the whole of the others nobody could be served.
    """
    wanted = [(served.detector.name, served.detector_version), *((one.name, one.version) for one in served.encoders)]
    missing = await connection.missing(wanted)
    if missing:
        _log.info("Triton at %s has not %s", connection.address, ", ".join(map(shown, missing)))
    there = {name for name, version in wanted if (name, version) not in missing}
    return there == {name for name, _ in wanted}


@dataclass(frozen=True)
class CallLimits:
    """What the models of one Triton do not exceed; shared by their detectors and encoders."""

    calls: int
    """In flight at a time to each version of a model; what is asked meanwhile shares the next."""
    turns: Turns
    """Of the calls to all of them."""


class _MergedCalls:
    """Calls to a model that take along what several requests ask for, as long as they are done soon.

    A call costs this process and Triton about a millisecond of CPU time, however small it is. Where items take long that is nothing, and
    whoever shares a call waits for all of it.
    """

    def __init__(self, connection: TritonConnection, spec: ModelSpec, version: int | None, limits: CallLimits) -> None:
        self._turns = limits.turns
        self._connection = connection
        self._spec = spec
        self._version = version
        self._item_pace = Pace()
        self._merger: Merger[None, Pixels, Arrays] = Merger(
            spec.name,
            self._infer,
            most_size=self._most_merged,
            limits=MergerLimits(limits.calls, patience_s=connection.options.call_timeout_s),
            item_faults=InternalError,
            ask_for_turn=self._ask_for_turn,
        )

    @property
    def most_items(self) -> int:
        """How many one request may ask for at once, at least 1."""
        if not self._turns.are_limited:  # nobody waits, and many calls side by side take each other's time as well
            return self._spec.max_batch
        return max(1, min(self._spec.max_batch, self._done_within(_REQUEST_S)))

    async def infer(self, pixels: Pixels, deadline_s: float | None) -> Arrays:
        """See `TritonConnection.infer`."""
        return await self._merger.submit(None, np.ascontiguousarray(pixels), len(pixels), deadline_s)

    def _most_merged(self, _: None) -> int:
        most = _MERGED_BYTES // math.prod(self._spec.inputs[0].shape)
        return max(1, min(self._spec.max_batch, most, self._done_within(_MERGED_S)))

    def _done_within(self, time_s: float) -> int:
        item_s = self._item_pace.mean_s
        return int(time_s / item_s) if item_s else self._spec.max_batch

    def _ask_for_turn(self, begin: Begin) -> None:
        # By the fastest: the mean depends on what runs beside it, which is what is decided here.
        self._turns.ask(is_long=self._item_pace.shortest_s > _LONG_ITEM_S, begin=begin)

    async def _infer(self, _: None, parts: Sequence[Pixels], deadline_s: float | None) -> list[Arrays]:
        outputs = await self._timed(parts, deadline_s)
        return [{name: values[place] for name, values in outputs.items()} for place in places_of(parts)]

    async def _timed(self, parts: Sequence[Pixels], deadline_s: float | None) -> Arrays:
        count = sum(map(len, parts))
        begin_s = time.monotonic()
        try:
            outputs = await self._connection.infer(self._spec, parts, deadline_s, self._version)
        except (DeadlineExceededError, UnavailableError, asyncio.CancelledError):
            # Were only successes seen, a model that became slower would be given as much as before, and all of it come too late.
            self._item_pace.note_cut_off((time.monotonic() - begin_s) / count)
            raise
        self._item_pace.note((time.monotonic() - begin_s) / count)
        return outputs


class TritonDetector:
    """Finds objects with a detector; a Detector of `types`."""

    def __init__(
        self,
        connection: TritonConnection,
        spec: ModelSpec,
        version: int | None = None,
        *,
        limits: CallLimits,
    ) -> None:
        """Make a detector.

        Args:
            connection: to Triton.
            spec: of a detector.
            version: of it; the newest where None.
            limits: of its calls.
        """
        if spec.task is not Task.DETECTOR:
            raise ValueError(f"expected a detector, got {spec.name}, an {spec.task.value}")
        self._spec = spec
        self._calls = _MergedCalls(connection, spec, version, limits)

    async def detect(self, pixels: Pixels, *, deadline_s: float | None = None) -> Detections:
        """See `types.Detector`; the padding is dropped: a box counts where its score is above 0."""
        _check_pixels(self._spec, pixels)
        outputs = await self._calls.infer(pixels, deadline_s)
        scores = outputs[DET_SCORES][0]
        kept = np.flatnonzero(scores > 0)
        return Detections(boxes=outputs[DET_BOXES][0][kept], scores=scores[kept])


class TritonEncoder:
    """Turns crops into vectors with an encoder; an Encoder of `types`."""

    def __init__(
        self,
        connection: TritonConnection,
        spec: ModelSpec,
        fingerprint: str,
        version: int | None = None,
        *,
        limits: CallLimits,
    ) -> None:
        """Make an encoder.

        Args:
            connection: to Triton.
            spec: of an encoder.
            fingerprint: of the version's weights, 64 hex digits.
            version: of it; the newest where None.
            limits: of its calls.
        """
        if spec.task is not Task.ENCODER:
            raise ValueError(f"expected an encoder, got {spec.name}, a {spec.task.value}")
        self.fingerprint = fingerprint
        self.dimension = spec.embedding_dimension
        self._spec = spec
        self._calls = _MergedCalls(connection, spec, version, limits)

    async def embed(self, pixels: Pixels, *, deadline_s: float | None = None) -> Vectors:
        """See `types.Encoder`; more than a batch, or than is done soon, goes as several requests side by side."""
        _check_pixels(self._spec, pixels)
        step = self._calls.most_items
        calls = [
            asyncio.ensure_future(self._calls.infer(pixels[start : start + step], deadline_s))
            for start in range(0, len(pixels), step)
        ]
        try:
            outputs = await asyncio.gather(*calls)
        except BaseException:
            for call in calls:  # one failed or we were cancelled: the others are of no use
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            raise
        if not outputs:
            return np.zeros((0, self.dimension), dtype=np.float32)
        return np.concatenate([arrays[EMBEDDING] for arrays in outputs])


def _check_pixels(spec: ModelSpec, pixels: Pixels) -> None:
    if pixels.dtype != np.uint8 or pixels.shape[1:] != spec.inputs[0].shape:
        raise ValueError(f"{spec.name} takes uint8 [n, *{spec.inputs[0].shape}], got {pixels.dtype} {pixels.shape}")
