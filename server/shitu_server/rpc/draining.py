"""Ending a server without losing a call."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

import grpc

from shitu_server.errors import UnavailableError
from shitu_server.rpc.handlers import Answer, Answers, Context, wrapped

OURS: Final = "/shitu."
"""Streams of the health service end with the server only, so they are not waited for."""
QUIET_S: Final = 0.05
"""Requests that gRPC has read but not yet handed out come within this time."""


class DrainInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not subscriptable when run
    """Counts the calls in flight; while draining, refuses new ones with UnavailableError.

    `Server.stop` alone answers requests that it has read but not begun with CANCELLED, which tells a client nothing.
    Goes behind ErrorInterceptor in the list.
    """

    def __init__(self) -> None:
        self._in_flight = 0
        self._draining = False

    async def drain(self, most_s: float) -> None:
        """Refuse new calls and wait until those in flight have ended, at most so long."""
        self._draining = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._quiet(), most_s)

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the handler of the called method, if it is one of ours."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(OURS):
            return handler
        return wrapped(handler, self._counted_unary, self._counted_stream)

    def _counted_unary(self, method: Answer) -> Answer:
        async def counted(request: Any, context: Context) -> Any:
            with self._counted():
                return await method(request, context)

        return counted

    def _counted_stream(self, method: Answers) -> Answers:
        async def counted(requests: Any, context: Context) -> AsyncIterator[Any]:
            with self._counted():
                async for response in method(requests, context):
                    yield response

        return counted

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        if self._draining:
            raise UnavailableError("the server is stopping; another one may take the call")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _quiet(self) -> None:
        quiet = False
        while not quiet:
            await asyncio.sleep(QUIET_S)
            quiet = self._in_flight == 0
