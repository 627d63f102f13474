"""Rivals that answer queries in turns, so that all see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from shitu_server.types import Vectors

PAIRS: Final = 7
SLICE_S: Final = 1.0
"""Of each of the rivals, in each of the pairs."""
_OURS: Final = ("ours", "side_by_side", "callers")

Rival = Callable[[Vectors], Awaitable[int]]
"""Returns how many queries it answered."""


async def in_turns(rivals: Mapping[str, Rival], queries: Vectors, batch: int) -> dict[str, Any]:
    """Return the queries a second of each rival, and of ours also the ratios to FAISS in the same pair."""
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for search in rivals.values():
        await search(queries[:batch])
    for pair in range(PAIRS):
        names = list(rivals) if pair % 2 else list(rivals)[::-1]
        for name in names:
            rates[name].append(await rate_of(rivals[name], queries, batch, pair))
    figures: dict[str, Any] = {name: quartiles(values) for name, values in rates.items()}
    for name in rivals:
        if name in _OURS:
            ratios = [one / other for one, other in zip(rates[name], rates["faiss"], strict=True)]
            figures[f"{name}_by_faiss"] = quartiles(ratios)
    return figures


async def rate_of(search: Rival, queries: Vectors, batch: int, offset: int) -> float:
    """Return the queries a second of one slice."""
    count, begin_s = 0, time.perf_counter()
    place = offset * batch % (len(queries) - batch)
    while (elapsed_s := time.perf_counter() - begin_s) < SLICE_S or not count:
        count += await search(queries[place : place + batch])
        place = (place + batch) % (len(queries) - batch)
    return count / elapsed_s if elapsed_s else 0.0


def quartiles(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles (exclusive, as all results of searches have them)."""
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "low": low, "high": high}
