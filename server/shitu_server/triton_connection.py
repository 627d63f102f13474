"""Calls to a Triton server, embedded or not: with `triton_region`, all that knows its protocol."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from shitu_models.specs import DataType, ModelSpec
from shitu_server.errors import DeadlineExceededError, InternalError, ShituError, UnavailableError
from shitu_server.shared_memory import Block, SharedMemory
from shitu_server.triton_region import TritonRegion

_DATA_TYPES: Final = {DataType.UINT8: "UINT8", DataType.FLOAT32: "FP32"}
_RETRY_AFTER_S: Final = 1.0
_DOWN: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED})
"""Codes of a server or model that is away for a moment: starting, stopping, or between unload and load."""
_DOWN_MESSAGES: Final = ("not healthy", "not ready", "unload", "failed to enqueue", "shutting down")
"""Parts of INTERNAL's messages that say the same; a model whose stub died reports itself ready and fails like this."""
_NO_REGION: Final = "Unable to find shared memory region"
"""Part of the message about one that is not registered; the whole depends on Triton's version."""
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

    def __init__(
        self, address: str, options: ConnectionOptions | None = None, memory: SharedMemory | None = None
    ) -> None:
        """Connect at the first call.

        Args:
            address: host:port of Triton's gRPC.
            options: limits of calls.
            memory: on the same host, pixels go through it where they fit; it is closed with the connection.
        """
        self.address = address
        self._away: set[tuple[str, int | None]] = set()
        """Models and versions whose absence was said."""
        self.options = options or ConnectionOptions()
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._region = None if memory is None else TritonRegion(memory, self._stub, address)

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        if self._region is not None:
            await self._region.close()
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
        self,
        spec: ModelSpec,
        parts: Sequence[NDArray[np.uint8]],
        deadline_s: float | None,
        version: int | None = None,
    ) -> Arrays:
        """Run a model on one batch.

        Args:
            spec: the model.
            parts: of the batch, each uint8 [n, S, S, 3] and contiguous, together of 1 to `spec.max_batch` pictures.
            deadline_s: time of `time.monotonic()`, or None.
            version: of the model; the newest where None.

        Returns:
            The outputs by name of all parts, float32 [n, ...] as the specification says; read-only.

        Raises:
            UnavailableError, DeadlineExceededError, InternalError.
        """
        limit_s = self.options.call_timeout_s
        end_s = time.monotonic() + limit_s
        client_waits = deadline_s is None or deadline_s > end_s
        if deadline_s is not None and not client_waits:
            end_s = deadline_s
        count = sum(map(len, parts))
        try:
            response = await self._answered(_request(spec, version, count), parts, end_s)
        except grpc.aio.AioRpcError as error:
            raise self._translated((spec.name, version), error, client_waits=client_waits) from error
        self._away.discard((spec.name, version))
        return _arrays(spec, count, response)

    async def _answered(self, request: Any, parts: Sequence[NDArray[np.uint8]], end_s: float) -> Any:
        """Send a request with its pixels: through shared memory, or in the message where that cannot be."""
        region = self._region
        block = None if region is None else region.place(parts)
        if region is None or block is None:
            return await self._sent_whole(request, parts, end_s)
        try:
            _refer(request, region.name, block, sum(part.nbytes for part in parts))
            return await self._send(request, end_s)
        except grpc.aio.AioRpcError as error:
            if _NO_REGION not in (error.details() or ""):
                raise
            region.lost()
        finally:
            region.release(block)
        request.inputs[0].ClearField("parameters")
        return await self._sent_whole(request, parts, end_s)

    async def _sent_whole(self, request: Any, parts: Sequence[NDArray[np.uint8]], end_s: float) -> Any:
        request.raw_input_contents.append(b"".join(part.data for part in parts))
        return await self._send(request, end_s)

    async def _send(self, request: Any, end_s: float) -> Any:
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceededError(f"the deadline passed before {request.model_name} was called")
        return await self._stub.ModelInfer(request, timeout=left_s)

    def _translated(
        self, model: tuple[str, int | None], error: grpc.aio.AioRpcError, *, client_waits: bool
    ) -> ShituError:
        name = model[0]
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            if not client_waits:
                return DeadlineExceededError(f"the deadline passed while {name} was running")
            limit_s = self.options.call_timeout_s
            return UnavailableError(f"{name} gave no answer within {limit_s:g} s; try again", _RETRY_AFTER_S)
        if code in _DOWN or any(part in details for part in _DOWN_MESSAGES):
            if model not in self._away:  # once, not for each call of an overload of retries
                self._away.add(model)
                _log.warning("Triton at %s, model %s is away: %s %s", self.address, shown(model), code.name, details)
            return UnavailableError(f"{name} is not ready; try again in {_RETRY_AFTER_S:g} s", _RETRY_AFTER_S)
        _log.error("Triton at %s refused a call to %s: %s %s", self.address, shown(model), code.name, details)
        return InternalError(f"{name} failed; the cause is in the server's log")


def _version(version: int | None) -> str:
    return "" if version is None else str(version)


def shown(model: tuple[str, int | None]) -> str:
    """Return a model and its version as people are told of it."""
    name, version = model
    return name if version is None else f"{name} version {version}"


def _request(spec: ModelSpec, version: int | None, count: int) -> Any:
    """Return a request of so many pictures that has no pixels yet."""
    tensor = spec.inputs[0]
    shape = (count, *tensor.shape)
    datatype = _DATA_TYPES[tensor.data_type]
    entry = service_pb2.ModelInferRequest.InferInputTensor(name=tensor.name, datatype=datatype, shape=shape)
    return service_pb2.ModelInferRequest(model_name=spec.name, model_version=_version(version), inputs=[entry])


def _refer(request: Any, region: str, block: Block, size: int) -> None:
    """Say where the pixels lie (Triton's extension for shared memory)."""
    parameters = request.inputs[0].parameters
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_offset"].int64_param = block.offset
    parameters["shared_memory_byte_size"].int64_param = size


def _arrays(spec: ModelSpec, count: int, response: Any) -> Arrays:
    """Return the outputs that the specification names, after a check of their shapes."""
    raw = {output.name: content for output, content in zip(response.outputs, response.raw_output_contents, strict=True)}
    arrays: Arrays = {}
    for tensor in spec.outputs:
        values = np.frombuffer(raw.get(tensor.name, b""), dtype=np.float32)
        shape = (count, *tensor.shape)
        if values.size != math.prod(shape):
            _log.error("%s: output %s should have shape %s, got %d values", spec.name, tensor.name, shape, values.size)
            raise InternalError(f"{spec.name} answered in an unexpected shape; the cause is in the server's log")
        arrays[tensor.name] = values.reshape(shape)
    return arrays
