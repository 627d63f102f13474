"""A server that only reads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc

from shitu_server.errors import PreconditionError
from shitu_server.rpc.draining import OURS
from shitu_server.rpc.handlers import Context, wrapped

READS: Final = frozenset(
    {"GetGallery", "ListGalleries", "ListItems", "GetItem", "Search", "Snapshot", "GetCapabilities"}
)
"""What is not here is refused: a method that is added later is taken for a write."""


class ReadOnlyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not subscriptable when run
    """Refuses every call that may write. Goes behind ErrorInterceptor in the list."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Put a refusal in place of the called method, if it is one of ours that writes."""
        handler = await continuation(details)
        method = details.method
        if handler is None or not method.startswith(OURS) or method.rpartition("/")[2] in READS:
            return handler
        return wrapped(handler, lambda _: _refuse, lambda _: _refuse_stream)


def _refusal() -> PreconditionError:
    return PreconditionError(
        "this gallery process serves snapshots and takes no writes; write to the process that they were made of, then start this "
        "one with newer snapshots"
    )


async def _refuse(_request: Any, _context: Context) -> Any:
    raise _refusal()


async def _refuse_stream(_request: Any, _context: Context) -> AsyncIterator[Any]:
    raise _refusal()
    yield
