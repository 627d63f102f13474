from __future__ import annotations

import asyncio

import numpy as np
import pytest

from shitu_server.errors import UnavailableError
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.parts import PARTS_AT_ONCE, queries_per_part, search_in_parts
from shitu_server.types import GalleryState, Hit, SearchResult, Vectors

QUERIES = np.arange(150, dtype=np.float32)[:, np.newaxis]


@pytest.mark.parametrize(("top_k", "count"), [(1, 64), (100, 64), (101, 63), (1000, 6), (10_000, 1), (0, 64), (-5, 64)])
def test_a_part_holds_as_many_queries_as_a_call_takes(top_k: int, count: int):
    assert queries_per_part(GalleryLimits(), top_k) == count


async def test_parts_are_joined_in_order_and_the_lowest_state_counts():
    sequences = iter([7, 5, 6])

    async def search(part: Vectors) -> SearchResult:
        state = GalleryState(1, next(sequences))
        await asyncio.sleep(0.001 * state.sequence)
        return SearchResult(tuple((Hit(str(int(row[0])), "l", 1.0, {}),) for row in part), state)

    result = await search_in_parts(search, QUERIES, 64)
    assert [hits[0].item_id for hits in result.hits] == [str(i) for i in range(150)]
    assert result.state == GalleryState(1, 5)


async def test_few_parts_are_searched_at_once_and_none_after_a_failure():
    running, most, begun = 0, 0, 0

    async def search(part: Vectors) -> SearchResult:
        nonlocal running, most, begun
        begun += 1
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0.001)
            if part[0] == 20:
                raise UnavailableError("down")
            return SearchResult(((),), GalleryState(1, 1))
        finally:
            running -= 1

    with pytest.raises(UnavailableError):
        await search_in_parts(search, QUERIES, 1)
    assert (running, most) == (0, PARTS_AT_ONCE)
    assert begun < len(QUERIES)


async def test_a_gallery_that_was_replaced_between_two_parts_is_searched_again():
    generations = iter((1, 2))

    async def search(queries: np.ndarray) -> SearchResult:
        return SearchResult(((),) * len(queries), GalleryState(next(generations), 7))

    with pytest.raises(UnavailableError, match="replaced"):
        await search_in_parts(search, np.zeros((4, 2), dtype=np.float32), part_queries=2)
