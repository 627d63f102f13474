"""Shared memory as Triton knows it: registered, and registered again when the server was started anew."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from shitu_server.shared_memory import Block, SharedMemory

_TIMEOUT_S: Final = 1.0
_PAUSE_S: Final = 5.0
"""After a registration that failed; meanwhile pixels go in messages."""

_log = logging.getLogger(__name__)


class TritonRegion:
    """A segment of this process, as a region of one server."""

    def __init__(self, memory: SharedMemory, stub: Any, address: str) -> None:
        self._memory = memory
        self._stub = stub
        self._address = address
        self._registered = False
        self._registering: asyncio.Task[None] | None = None
        self._next_attempt_s = 0.0

    @property
    def name(self) -> str:
        """Of the region."""
        return self._memory.region

    def place(self, pixels: NDArray[np.uint8]) -> Block | None:
        """Copy pixels where the server reads them; None where they have to go in the message, for now."""
        if self._registered:
            return self._memory.place(pixels)
        if self._registering is None and time.monotonic() >= self._next_attempt_s:
            self._registering = asyncio.create_task(self._register())
        return None

    def release(self, block: Block) -> None:
        """Give a block back."""
        self._memory.release(block)

    def lost(self) -> None:
        """The server does not know the region any more: it was started anew."""
        self._registered = False

    async def _register(self) -> None:
        memory = self._memory
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=memory.region, key=memory.key, offset=0, byte_size=memory.size
        )
        try:
            await self._stub.SystemSharedMemoryRegister(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            # A process that crashed may have registered the segment that this one took over.
            self._registered = error.code() is grpc.StatusCode.ALREADY_EXISTS
            if not self._registered:
                self._next_attempt_s = time.monotonic() + _PAUSE_S
                _log.warning(
                    "Triton at %s does not take shared memory (%s), pixels go in messages; unset triton_shared_memory where it "
                    "runs on another host",
                    self._address,
                    error.details(),
                )
        else:
            self._registered = True
        finally:
            self._registering = None

    async def close(self) -> None:
        """Take leave of the server; call it when nothing is in flight any more."""
        if self._registering is not None:
            await self._registering  # cancelled, it might be done all the same
        if self._registered:
            request = service_pb2.SystemSharedMemoryUnregisterRequest(name=self._memory.region)
            await asyncio.gather(
                self._stub.SystemSharedMemoryUnregister(request, timeout=_TIMEOUT_S), return_exceptions=True
            )
        self._memory.close()
