"""Searches of many queries, and replies with much metadata: in parts, and beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shitu_server.errors import UnavailableError
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.types import SearchResult, Vectors

T = TypeVar("T")

RETRY_AFTER_S: Final = 0.1

PARTS_AT_ONCE: Final = 8
"""With 64 queries each: half of the queue of searches, so that one search leaves room for others."""


def queries_per_part(limits: GalleryLimits, top_k: int) -> int:
    """Return how many queries one call may hold."""
    return max(1, min(limits.queries_per_call, limits.hits_per_call // max(1, top_k)))


async def search_in_parts(
    search: Callable[[Vectors], Awaitable[SearchResult]], queries: Vectors, part_queries: int
) -> SearchResult:
    """Search any number of queries, a few parts side by side; where one fails, the others end with it.

    The state is the lowest: a write between two parts may be in one of them only, but all up to this one are in all.

    Args:
        search: takes up to `part_queries` rows.
        queries: float32 [n, dimension].
        part_queries: 1 or more.

    Raises:
        UnavailableError: the gallery was deleted and created anew between two parts.
    """
    if len(queries) <= part_queries:
        return await search(queries)
    starts = range(0, len(queries), part_queries)
    places = asyncio.Semaphore(PARTS_AT_ONCE)

    async def one(start: int) -> SearchResult:
        async with places:
            return await search(queries[start : start + part_queries])

    tasks = [asyncio.ensure_future(one(start)) for start in starts]
    try:
        results = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    if len({result.state.generation for result in results}) > 1:
        raise UnavailableError("the gallery was replaced during the search; search again", RETRY_AFTER_S)
    state = min((result.state for result in results), key=lambda state: state.sequence)
    return SearchResult(tuple(hits for result in results for hits in result.hits), state)


async def built(work: Callable[[], T], *, large: bool) -> T:
    """Return what `work` returns; large work goes to a thread, beside which the event loop gets its turn every 5 ms.

    16 KiB of metadata take 2.4 ms to become a Struct and 2.2 ms to be read from one.
    """
    return await asyncio.to_thread(work) if large else work()
