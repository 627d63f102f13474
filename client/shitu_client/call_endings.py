"""What the server ended a call with, where gRPC itself does not tell."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import grpc

T = TypeVar("T")

_WAIT_S: Final = 0.5


class CallEnding:
    """Watches a call to which messages are streamed.

    When the server ends such a call, the write that is on its way fails, and grpc.aio gives the call the status INTERNAL for that:
    before or after that of the server, whichever comes first, so that the server's is overwritten at times. The call's callback is
    called for both.
    """

    def __init__(self, call: Any) -> None:
        self._told: asyncio.Future[grpc.aio.AioRpcError] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note)

    async def of(self, error: grpc.RpcError) -> grpc.RpcError:
        """Return what the server says, for an error that the call gave."""
        if not isinstance(error, grpc.aio.AioRpcError) or error.code() != grpc.StatusCode.INTERNAL:
            return error
        done, _ = await asyncio.wait([self._told], timeout=_WAIT_S)
        return self._told.result() if done else error

    def _note(self, call: Any) -> None:
        code = _at_once(call.code())
        if self._told.done() or code in {grpc.StatusCode.INTERNAL, grpc.StatusCode.OK}:
            return
        trailing = _at_once(call.trailing_metadata()) or grpc.aio.Metadata()
        self._told.set_result(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, _at_once(call.details()), None))


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that has nothing to wait for: of a call that is over, before another status comes."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("a call that is over has its status")
