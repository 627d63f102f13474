"""What every call passes: errors become statuses here and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from shitu_server.errors import DeadlineExceededError, InternalError, InvalidArgumentError, ShituError
from shitu_server.rpc.handlers import Answer, Answers, Context, wrapped
from shitu_server.wire.statuses import DETAILS_KEY, to_status

_log = logging.getLogger(__name__)

_UNREAD_S: Final = 10.0
"""How long a stream is read that is not wanted: about 5 GB on one host."""


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not subscriptable when run
    """Turns ShituError into its status and anything else into INTERNAL, which says nothing about the inside."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the handler of the called method, if there is one."""
        handler = await continuation(details)
        return None if handler is None else wrapped(handler, _guarded_unary, _guarded_stream)


def status_of(error: BaseException) -> status_pb2.Status:
    """Return the status for any exception of a handler; an unexpected one is logged with its traceback."""
    if isinstance(error, ShituError):
        return to_status(error)
    if isinstance(error, DecodeError):
        return to_status(InvalidArgumentError("", "expected a message of this method, got bytes that are none"))
    if isinstance(error, asyncio.TimeoutError):
        return to_status(DeadlineExceededError("the deadline passed before the work was done"))
    _log.error("unexpected error in a handler", exc_info=error)
    return to_status(InternalError("internal error; the server's log has the cause"))


def deadline_of(context: Context) -> float | None:
    """Return the client's deadline as a time of `time.monotonic()`, or None where it set none."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else time.monotonic() + float(remaining_s)


def _guarded_unary(method: Answer) -> Answer:
    async def guarded(request: Any, context: Context) -> Any:
        try:
            return await method(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets a status
            if isinstance(request, AsyncIterator):
                await _passed_over(request)
            await _abort(context, error)

    return guarded


async def _passed_over(requests: AsyncIterator[Any]) -> None:
    """Read what a client still sends: in the middle of it, it would be told "Internal error from Core" instead of the status."""

    async def read() -> None:
        async for _ in requests:
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(), _UNREAD_S)


def _guarded_stream(method: Answers) -> Answers:
    async def guarded(requests: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for response in method(requests, context):
                yield response
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets a status
            await _abort(context, error)

    return guarded


async def _abort(context: Context, error: Exception) -> NoReturn:
    status = status_of(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    await context.abort(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))
    raise AssertionError("abort returned")
