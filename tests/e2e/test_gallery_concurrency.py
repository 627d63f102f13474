"""Writers and readers of one gallery process at the same time: no error, nothing stale, and searches about as fast as without writes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.gallery_process import GalleryProcess

from shitu_server.gallery.client import GalleryClient
from shitu_server.types import GalleryOptions, IndexKind, ItemUpdate, NewItem, SearchOptions

_log = logging.getLogger(__name__)

DIMENSION = 512
ITEMS = 12_000
WRITERS, READERS = 4, 8
PAUSE_S = 0.04
"""Between two searches of a reader: 200 searches a second of all, under what two cores can do beside the writers."""
WRITE_PAUSE_S = 0.02
SLICE_S = 3.0
"""Searches with and without writes are timed in turns, so that a machine which changes its speed changes both."""


@dataclass
class Times:
    """Of searches, in seconds."""

    alone: list[float] = field(default_factory=list)
    beside_writes: list[float] = field(default_factory=list)
    writes: int = 0


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


async def filled(client: GalleryClient, kind: IndexKind) -> np.ndarray:
    """Make a gallery; returns its vectors."""
    await client.create("g", "encoder", DIMENSION, GalleryOptions(index_kind=kind))
    vectors = rows(ITEMS, 1)
    for begin in range(0, ITEMS, 250):
        items = [NewItem(f"item-{i}", f"label-{i}", vectors[i]) for i in range(begin, begin + 250)]
        await client.add("g", items, "encoder")
    while (await client.get("g")).index.building:
        await asyncio.sleep(0.1)
    return vectors


async def read_on(client: GalleryClient, vectors: np.ndarray, times: list[float], end_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sequence = 0
    while time.monotonic() < end_s:
        number = int(rng.integers(ITEMS))
        begin_s = time.monotonic()
        found = await client.search("g", vectors[number : number + 1], "encoder", SearchOptions(5))
        times.append(time.monotonic() - begin_s)
        assert found.hits[0][0].item_id == f"item-{number}"
        assert found.state.sequence >= sequence, "a state went back"
        sequence = found.state.sequence
        await asyncio.sleep(PAUSE_S * rng.uniform(0.5, 1.5))


async def write_on(client: GalleryClient, writer: int, end_s: float, numbers: itertools.count[int]) -> int:
    """Add, change, remove, and look at once whether a search sees it."""
    count = 0
    while time.monotonic() < end_s:
        number = next(numbers)
        new = rows(4, 1000 + number)
        ids = [f"new-{writer}-{number}-{i}" for i in range(4)]
        added = await client.add("g", [NewItem(i, "new", row) for i, row in zip(ids, new, strict=True)], "encoder")
        found = await client.search("g", new, "encoder", SearchOptions(1))
        assert [hits[0].item_id for hits in found.hits] == ids, "an acknowledged write was not found"
        assert found.state.sequence >= added.state.sequence
        await client.update_items("g", [ItemUpdate(ids[0], f"changed {number}")])
        changed = await client.search("g", new[:1], "encoder", SearchOptions(1))
        assert changed.hits[0][0].label == f"changed {number}", "an acknowledged change was not found"
        await client.remove("g", ids)
        gone = await client.search("g", new[:1], "encoder", SearchOptions(1))
        assert gone.hits[0][0].item_id != ids[0], "an acknowledged removal was not seen"
        count += 3
        await asyncio.sleep(WRITE_PAUSE_S)
    return count


async def look_on(client: GalleryClient, end_s: float, numbers: itertools.count[int]) -> None:
    """Search as a writer does, and write nothing: what is compared are writes, not more searches."""
    while time.monotonic() < end_s:
        new = rows(4, 1000 + next(numbers))
        for count in (4, 1, 1):
            await client.search("g", new[:count], "encoder", SearchOptions(1))
        await asyncio.sleep(WRITE_PAUSE_S)


async def timed(client: GalleryClient, vectors: np.ndarray, seconds: float) -> Times:
    """Let readers search all the time, and writers write in every second slice of time."""
    times = Times()
    numbers: itertools.count[int] = itertools.count()
    begin_s = time.monotonic()
    for slice_number in itertools.count():
        if time.monotonic() - begin_s >= seconds:
            return times
        writing = slice_number % 2 == 1
        end_s = time.monotonic() + SLICE_S
        into = times.beside_writes if writing else times.alone
        readers = [read_on(client, vectors, into, end_s, 100 * slice_number + n) for n in range(READERS)]
        if writing:
            others = [write_on(client, n, end_s, numbers) for n in range(WRITERS)]
        else:
            others = [look_on(client, end_s, numbers) for _ in range(WRITERS)]
        counts = await asyncio.gather(*readers, *others)
        times.writes += sum(count for count in counts if count is not None)
    raise AssertionError


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[GalleryClient]:
    process = GalleryProcess(folder)
    try:
        async with process.client() as client:
            yield client
        process.stop()
    finally:
        process.kill()


@pytest.mark.parametrize("kind", [IndexKind.FLAT, IndexKind.HNSW])
@pytest.mark.parametrize(
    "seconds", [pytest.param(12.0), pytest.param(120.0, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
async def test_writes_disturb_searches_little_and_are_seen_at_once(tmp_path: Path, kind: IndexKind, seconds: float):
    async with serving(tmp_path) as client:
        vectors = await filled(client, kind)
        times = await timed(client, vectors, seconds)
        assert (await client.get("g")).item_count == ITEMS
    alone, beside = (1000 * np.quantile(part, [0.5, 0.99]) for part in (times.alone, times.beside_writes))
    _log.warning(
        "%s, %d searches alone: p50 %.1f ms, p99 %.1f ms; %d beside %d writes: p50 %.1f ms, p99 %.1f ms: %.2f times",
        *(kind.value, len(times.alone), *alone, len(times.beside_writes), times.writes, *beside, beside[1] / alone[1]),
    )
    assert times.writes > 20
    if seconds > 60:  # in a few seconds a p99 says more about the machine
        assert beside[1] <= 2 * alone[1]
