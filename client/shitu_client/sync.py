"""Client: AsyncClient for programs without an event loop."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Concatenate, TypeVar

from typing_extensions import ParamSpec

from shitu_client.client import DEFAULT_SERVER, DEFAULT_STALL_TIMEOUT_S, DEFAULT_TIMEOUT_S, AsyncClient

P = ParamSpec("P")
R = TypeVar("R")


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Client, P], R]:
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(method(self._client, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


def _iterating(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[R, None]],
) -> Callable[Concatenate[Client, P], Iterator[R]]:
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        return self._iterate(method(self._client, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


class Client:
    """The methods of AsyncClient, blocking; usable from several threads. An event loop runs in a thread of its own."""

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S,
        connections: int = 1,
    ) -> None:
        """Connect at the first call; arguments as of AsyncClient."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="shitu-client", daemon=True)
        self._thread.start()
        self._client = self._run(_connect(server, timeout_s, stall_timeout_s, connections))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and end the thread."""
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    is_serving = _blocking(AsyncClient.is_serving)
    recognize = _blocking(AsyncClient.recognize)
    recognize_batch = _blocking(AsyncClient.recognize_batch)
    detect = _blocking(AsyncClient.detect)
    embed = _blocking(AsyncClient.embed)
    list_encoders = _blocking(AsyncClient.list_encoders)
    create_gallery = _blocking(AsyncClient.create_gallery)
    get_gallery = _blocking(AsyncClient.get_gallery)
    list_galleries = _blocking(AsyncClient.list_galleries)
    delete_gallery = _blocking(AsyncClient.delete_gallery)
    add_items = _blocking(AsyncClient.add_items)
    update_items = _blocking(AsyncClient.update_items)
    remove_items = _blocking(AsyncClient.remove_items)
    list_items = _blocking(AsyncClient.list_items)
    iterate_items = _iterating(AsyncClient.iterate_items)
    get_item = _blocking(AsyncClient.get_item)
    search = _blocking(AsyncClient.search)
    set_alias = _blocking(AsyncClient.set_alias)
    delete_alias = _blocking(AsyncClient.delete_alias)
    snapshot_gallery = _blocking(AsyncClient.snapshot_gallery)
    restore_gallery = _blocking(AsyncClient.restore_gallery)
    reembed = _iterating(AsyncClient.reembed)
    rollback = _blocking(AsyncClient.rollback)
    capabilities = _blocking(AsyncClient.capabilities)

    def _run(self, work: Coroutine[Any, Any, R]) -> R:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C ends the waiting here; it shall end the call too.
            future.cancel()
            raise

    def _iterate(self, values: AsyncGenerator[R, None]) -> Iterator[R]:
        try:
            while (step := self._run(_next(values))) is not None:
                yield step[0]
        finally:
            # After Ctrl-C the generator may be on its way to its end yet, and needs nobody to close it.
            with suppress(RuntimeError):
                self._run(values.aclose())


async def _connect(server: str, timeout_s: float, stall_timeout_s: float, connections: int) -> AsyncClient:
    # A channel belongs to the loop that runs when it is made.
    return AsyncClient(server, timeout_s=timeout_s, stall_timeout_s=stall_timeout_s, connections=connections)


async def _next(values: AsyncGenerator[R, None]) -> tuple[R] | None:
    """Return the next value, or None after the last: a future cannot hold a StopAsyncIteration."""
    try:
        return (await values.__anext__(),)
    except StopAsyncIteration:
        return None
