"""Detector and encoder behind a Triton server."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
from numpy.typing import NDArray

from shitu_models.specs import DET_BOXES, DET_SCORES, EMBEDDING, ModelSpec, Task
from shitu_server.errors import ConfigurationError
from shitu_server.served import Served
from shitu_server.triton_connection import TritonConnection, shown
from shitu_server.types import Detections, Vectors

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


class TritonDetector:
    """Finds objects with a detector; a Detector of `types`."""

    def __init__(self, connection: TritonConnection, spec: ModelSpec, version: int | None = None) -> None:
        """Make a detector of one version; of the newest where it is None."""
        if spec.task is not Task.DETECTOR:
            raise ValueError(f"expected a detector, got {spec.name}, an {spec.task.value}")
        self._connection = connection
        self._spec = spec
        self._version = version

    async def detect(self, pixels: NDArray[np.uint8], *, deadline_s: float | None = None) -> Detections:
        """See `types.Detector`; the padding is dropped: a box counts where its score is above 0."""
        _check_pixels(self._spec, pixels)
        outputs = await self._connection.infer(self._spec, pixels, deadline_s, self._version)
        scores = outputs[DET_SCORES][0]
        kept = np.flatnonzero(scores > 0)
        return Detections(boxes=outputs[DET_BOXES][0][kept], scores=scores[kept])


class TritonEncoder:
    """Turns crops into vectors with an encoder; an Encoder of `types`."""

    def __init__(
        self, connection: TritonConnection, spec: ModelSpec, fingerprint: str, version: int | None = None
    ) -> None:
        """Make an encoder of one version, whose weights the fingerprint is of; of the newest where it is None."""
        if spec.task is not Task.ENCODER:
            raise ValueError(f"expected an encoder, got {spec.name}, a {spec.task.value}")
        self.fingerprint = fingerprint
        self.dimension = spec.embedding_dimension
        self._connection = connection
        self._spec = spec
        self._version = version

    async def embed(self, pixels: NDArray[np.uint8], *, deadline_s: float | None = None) -> Vectors:
        """See `types.Encoder`; more than a batch goes as several requests side by side."""
        _check_pixels(self._spec, pixels)
        step = self._spec.max_batch
        calls = [
            asyncio.ensure_future(
                self._connection.infer(self._spec, pixels[start : start + step], deadline_s, self._version)
            )
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


def _check_pixels(spec: ModelSpec, pixels: NDArray[np.uint8]) -> None:
    if pixels.dtype != np.uint8 or pixels.shape[1:] != spec.inputs[0].shape:
        raise ValueError(f"{spec.name} takes uint8 [n, *{spec.inputs[0].shape}], got {pixels.dtype} {pixels.shape}")
