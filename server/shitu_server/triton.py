"""Detector and encoder behind a Triton server, embedded or not: the only module that knows its protocol."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from shitu_models.specs import DET_BOXES, DET_SCORES, EMBEDDING, DataType, ModelSpec, Task
from shitu_server.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InternalError,
    ShituError,
    UnavailableError,
)
from shitu_server.served import Served
from shitu_server.types import Detections, Vectors

_DATA_TYPES: Final = {DataType.UINT8: "UINT8", DataType.FLOAT32: "FP32"}
_RETRY_AFTER_S: Final = 1.0
_DOWN: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED})
"""Codes of a server or model that is away for a moment: starting, stopping, or between unload and load."""
_DOWN_MESSAGES: Final = ("not healthy", "not ready", "unload", "failed to enqueue", "shutting down")
"""Parts of INTERNAL's messages that say the same; a model whose stub died reports itself ready and fails like this."""
_CHANNEL_OPTIONS: Final = (
    # A server that comes back is found at once, not after gRPC's 20 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # in spite of its name, how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_send_message_length", 256 << 20),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
Arrays = dict[str, NDArray[np.float32]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConnectionOptions:
    """How calls to Triton are limited."""

    call_timeout_s: float = 30.0
    """Longest wait for one call, also where the client set no deadline."""


class TritonConnection:
    """A channel to one Triton server, shared by the models. Create it on the event loop that uses it."""

    def __init__(self, address: str, options: ConnectionOptions | None = None) -> None:
        self.address = address
        self._away: set[tuple[str, int | None]] = set()
        """Models and versions whose absence was said."""
        self._options = options or ConnectionOptions()
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        await self._channel.close(grace=None)

    async def missing(
        self, models: Sequence[tuple[str, int | None]], timeout_s: float = 1.0
    ) -> list[tuple[str, int | None]]:
        """Return which of the models the server has not, all where it does not answer.

        Args:
            models: by name and version; None stands for any version.
            timeout_s: how long to wait for an answer.
        """
        there = await asyncio.gather(*(self._has(name, version, timeout_s) for name, version in models))
        return [model for model, ready in zip(models, there, strict=True) if not ready]

    async def _has(self, name: str, version: int | None, timeout_s: float) -> bool:
        request = service_pb2.ModelReadyRequest(name=name, version=_version(version))
        try:
            return bool((await self._stub.ModelReady(request, timeout=timeout_s)).ready)
        except grpc.aio.AioRpcError:
            return False

    async def infer(
        self, spec: ModelSpec, pixels: NDArray[np.uint8], deadline_s: float | None, version: int | None = None
    ) -> Arrays:
        """Run a model on one batch.

        Args:
            spec: the model.
            pixels: uint8 [n, S, S, 3], n from 1 to `spec.max_batch`.
            deadline_s: time of `time.monotonic()`, or None.
            version: of the model; the newest where None.

        Returns:
            The outputs by name, float32 [n, ...] as the specification says; read-only.

        Raises:
            UnavailableError, DeadlineExceededError, InternalError.
        """
        limit_s = self._options.call_timeout_s
        left_s = limit_s if deadline_s is None else deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceededError(f"the deadline passed before {spec.name} was called")
        try:
            response = await self._stub.ModelInfer(_request(spec, pixels, version), timeout=min(left_s, limit_s))
        except grpc.aio.AioRpcError as error:
            client_waits = left_s > limit_s or deadline_s is None
            raise self._translated((spec.name, version), error, client_waits=client_waits) from error
        self._away.discard((spec.name, version))
        return _arrays(spec, len(pixels), response)

    def _translated(
        self, model: tuple[str, int | None], error: grpc.aio.AioRpcError, *, client_waits: bool
    ) -> ShituError:
        name, shown = model[0], _shown(model)
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            if not client_waits:
                return DeadlineExceededError(f"the deadline passed while {name} was running")
            limit_s = self._options.call_timeout_s
            return UnavailableError(f"{name} gave no answer within {limit_s:g} s; try again", _RETRY_AFTER_S)
        if code in _DOWN or any(part in details for part in _DOWN_MESSAGES):
            if model not in self._away:  # once, not for each call of an overload of retries
                self._away.add(model)
                _log.warning("Triton at %s, model %s is away: %s %s", self.address, shown, code.name, details)
            return UnavailableError(f"{name} is not ready; try again in {_RETRY_AFTER_S:g} s", _RETRY_AFTER_S)
        _log.error("Triton at %s refused a call to %s: %s %s", self.address, shown, code.name, details)
        return InternalError(f"{name} failed; the cause is in the server's log")


async def check_there(connection: TritonConnection, served: Served) -> None:
    """Make sure that a Triton which somebody else looks after has all that is to be served.

    Raises:
        ConfigurationError: names what it has not.
    """
    if missing := await connection.missing([(model.name, model.version) for model in served.models]):
        raise ConfigurationError(
            f"Triton at {connection.address} has not {', '.join(map(_shown, missing))}; let it load what lies in its repository first"
        )


async def has_models(connection: TritonConnection, served: Served) -> bool:
    """Return whether Triton has the detector and of each encoder one version, and log what it has not.

    A former version that is away is the loss of its galleries alone; without the whole of the others nobody could be served.
    """
    wanted = [(served.detector.name, served.detector_version), *((one.name, one.version) for one in served.encoders)]
    missing = await connection.missing(wanted)
    if missing:
        _log.info("Triton at %s has not %s", connection.address, ", ".join(map(_shown, missing)))
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


def _version(version: int | None) -> str:
    return "" if version is None else str(version)


def _shown(model: tuple[str, int | None]) -> str:
    name, version = model
    return name if version is None else f"{name} version {version}"


def _request(spec: ModelSpec, pixels: NDArray[np.uint8], version: int | None) -> Any:
    tensor = spec.inputs[0]
    return service_pb2.ModelInferRequest(
        model_name=spec.name,
        model_version=_version(version),
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(
                name=tensor.name, datatype=_DATA_TYPES[tensor.data_type], shape=pixels.shape
            )
        ],
        raw_input_contents=[pixels.tobytes()],
    )


def _arrays(spec: ModelSpec, count: int, response: Any) -> Arrays:
    """Return the outputs that the specification names, after a check of their shapes."""
    raw = {output.name: content for output, content in zip(response.outputs, response.raw_output_contents, strict=True)}
    arrays: Arrays = {}
    for tensor in spec.outputs:
        values = np.frombuffer(raw.get(tensor.name, b""), dtype=np.float32)
        shape = (count, *tensor.shape)
        if values.size != np.prod(shape):
            _log.error("%s: output %s should have shape %s, got %d values", spec.name, tensor.name, shape, values.size)
            raise InternalError(f"{spec.name} answered in an unexpected shape; the cause is in the server's log")
        arrays[tensor.name] = values.reshape(shape)
    return arrays
