"""Shared memory as Triton knows it: registered, and registered again when the server was started anew."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
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

_LEAVE_S: Final = 2.0
_POLL_S: Final = 0.05
_AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})

_log = logging.getLogger(__name__)


class TritonRegion:
    """A segment of this process, as a region of one server; both have the same name, so that none is taken for another."""

    def __init__(self, memory: SharedMemory, stub: Any, address: str) -> None:
        self._memory = memory
        self._stub = stub
        self._address = address
        self._registered = False
        self._was_asked = False
        self._warned = False
        self._registering: asyncio.Task[None] | None = None
        self._next_attempt_s = 0.0

    @property
    def name(self) -> str:
        """Of the region."""
        return self._memory.name

    def place(self, parts: Sequence[NDArray[np.uint8]]) -> Block | None:
        """Copy the parts of a batch where the server reads them; None where they have to go in the message, for now."""
        if self._registered:
            return self._memory.place(parts)
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
        name, size = self._memory.name, self._memory.size
        request = service_pb2.SystemSharedMemoryRegisterRequest(name=name, key=f"/{name}", offset=0, byte_size=size)
        self._was_asked = True
        try:
            await self._stub.SystemSharedMemoryRegister(request, timeout=_TIMEOUT_S)
            self._registered = True
        except grpc.aio.AioRpcError as error:
            # A process that crashed, or an attempt that took too long, may have registered it.
            self._registered = error.code() is grpc.StatusCode.ALREADY_EXISTS
            if not self._registered:
                self._next_attempt_s = time.monotonic() + _PAUSE_S
                self._tell(error)
        finally:
            self._registering = None

    def _tell(self, error: grpc.aio.AioRpcError) -> None:
        """Say once that it is not taken; that the server is away for a moment is said by others."""
        if self._warned or error.code() in _AWAY:
            return
        self._warned = True
        _log.warning(
            "Triton at %s does not take shared memory (%s), pixels go in messages; unset triton_shared_memory where it runs on "
            "another host or as another user",
            self._address,
            error.details(),
        )

    async def close(self) -> None:
        """Take leave of the server. Call it when no call waits any more; what was cancelled may still be in its queue."""
        try:
            if self._registering is not None:
                await self._registering  # cancelled, it might be done all the same
            if self._was_asked:
                await self._unregister()
        finally:
            self._memory.close()

    async def _unregister(self) -> None:
        """Let the server unmap the memory: it refuses that while it still works on what is in there."""
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=self._memory.name)
        end_s = time.monotonic() + _LEAVE_S
        while True:
            try:
                await self._stub.SystemSharedMemoryUnregister(request, timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() in _AWAY:
                    return
                if time.monotonic() >= end_s:
                    _log.warning("Triton at %s keeps %s: %s", self._address, self._memory.name, error.details())
                    return
                await asyncio.sleep(_POLL_S)
            else:
                return
