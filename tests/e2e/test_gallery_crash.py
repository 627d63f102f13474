"""SIGKILL of the gallery process at random moments and at named points of its work: nothing acknowledged is lost, nothing invented."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.dying_gallery import POINTS
from tests.gallery_process import GalleryProcess
from tests.gallery_workload import Workload, listed
from tests.small_disk import grow, small_disk

from shitu_server.errors import DeadlineExceededError, StorageError, UnavailableError
from shitu_server.gallery.client import GalleryClient
from shitu_server.gallery.store import FILE_NAME
from shitu_server.types import NewItem, SearchOptions

REBUILD_POINTS = ["after copy to draft", "after retire", "after going live", "after publish"]

_log = logging.getLogger(__name__)

MOST_ALIVE_S = 8.0
"""After this long a process that did not come to its point is killed from outside."""


async def crash_again_and_again(folder: Path, kills: int, seed: int) -> None:
    """Let a process work and die `kills` times, every second time at a named point, and compare after each."""
    chance = random.Random(seed)
    ends: Counter[str] = Counter()
    process = GalleryProcess(folder, module="tests.dying_gallery")
    try:
        async with process.client() as client:
            workload = Workload(client, seed)
            await workload.prepare()
            for number in range(kills):
                rebuilding = number % 5 > 2  # of five rounds two, one of them with a named point
                point = chance.choice(REBUILD_POINTS if rebuilding else list(POINTS)) if number % 2 else ""
                if point:
                    process.kill()
                    most = 400 if point == "after copy to draft" else 2 if rebuilding else 12
                    process.start(DIE_AT=f"{point}:{chance.randint(1, most)}")
                    await serves_or_died(process, client)
                working = asyncio.ensure_future(workload.run(rebuilding=rebuilding))
                ends[await died(process, point, lifetime_s(chance, rebuilding=rebuilding))] += 1
                await working
                process.kill()
                process.start()
                await process.wait_until_serving(client)
                await workload.check(everything=number % 50 == 49 or number == kills - 1)
    finally:
        process.kill()
    book = workload.book
    summary = (
        f"{kills} kills ({dict(ends)}), acknowledged {dict(book.acknowledged)}, {book.unanswered} calls unanswered"
    )
    _log.warning("%s, of which %d were done; %d items at the end", summary, book.unanswered_kept, len(book.kept))
    assert book.acknowledged.total() > 3 * kills
    assert book.acknowledged["_reembed"] > kills // 50
    assert book.unanswered > kills // 2  # the kills did hit writes


async def serves_or_died(process: GalleryProcess, client: GalleryClient) -> None:
    """Wait for a process that may come to its point while it starts."""
    while process.process.poll() is None:
        with contextlib.suppress(UnavailableError, DeadlineExceededError):
            await client.check()
            return
        await asyncio.sleep(0.02)


def lifetime_s(chance: random.Random, *, rebuilding: bool) -> float:
    """Long enough for a gallery to be made anew, where it shall be; else mostly short."""
    if rebuilding:
        return chance.uniform(0.3, 5)
    return chance.uniform(0.002, 0.3) if chance.random() < 0.8 else chance.uniform(0.3, 1.5)


async def died(process: GalleryProcess, point: str, after_s: float) -> str:
    """Wait until the process died at its point, or kill it; return which."""
    end_s = time.monotonic() + (MOST_ALIVE_S if point else after_s)
    while time.monotonic() < end_s:
        if process.process.poll() is not None:
            return point
        await asyncio.sleep(0.002)
    process.kill()
    return "random"


@pytest.mark.timeout(280)
async def test_nothing_is_lost_or_invented_by_kills(tmp_path: Path):
    await crash_again_and_again(tmp_path, kills=10, seed=20)


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)
async def test_nothing_is_lost_or_invented_by_a_thousand_kills(tmp_path: Path):
    await crash_again_and_again(tmp_path, kills=1000, seed=21)


ROWS = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)


def items(begin: int, count: int, picture: bytes = b"") -> list[NewItem]:
    return [NewItem(f"item-{i}", "l", ROWS[i % 256], {}, picture) for i in range(begin, begin + count)]


@pytest.mark.parametrize("tail", ["garbage", "half a frame", "a frame of an older log"])
async def test_torn_tail_of_the_log_is_passed_over(tmp_path: Path, tail: str):
    """What a power failure leaves behind the last commit: bytes that no commit covers."""
    process = GalleryProcess(tmp_path)
    try:
        async with process.client() as client:
            await client.create("g", "encoder", 64)
            for begin in range(0, 200, 20):
                await client.add("g", items(begin, 20), "encoder")
            process.kill()
            log = process.data_dir / f"{FILE_NAME}-wal"
            content = log.read_bytes()
            frame_bytes = 24 + 16384
            torn = {
                "garbage": np.random.default_rng(1).bytes(50_000),
                "half a frame": content[-frame_bytes : -frame_bytes // 2],
                "a frame of an older log": bytes([1]) + content[32 : 32 + frame_bytes - 1],
            }
            log.write_bytes(content + torn[tail])
            process.start()
            await process.wait_until_serving(client)
            assert await listed(client, "g") == [f"item-{i}" for i in range(200)]
            found = await client.search("g", ROWS[:200], "encoder", SearchOptions(1))
            assert [hits[0].item_id for hits in found.hits] == [f"item-{i}" for i in range(200)]
            await client.add("g", items(200, 20), "encoder")
            assert (await client.get("g")).item_count == 220
    finally:
        process.kill()


async def test_full_disk_refuses_writes_clearly_and_reads_go_on(tmp_path: Path):
    with small_disk(tmp_path / "disk", 6 << 20) as disk:
        process = GalleryProcess(disk)
        try:
            async with process.client() as client:
                await client.create("g", "encoder", 64)
                stored, refusal = 0, None
                while refusal is None and stored < 5000:
                    try:
                        await client.add("g", items(stored, 50, b"x" * 4000), "encoder")
                        stored += 50
                    except StorageError as error:
                        refusal = error.message
                assert refusal is not None
                assert refusal.startswith("nothing was written, the disk of ")
                assert "free space" in refusal
                assert 0 < stored < 5000
                for _ in range(3):  # reads go on, and so do refusals
                    found = await client.search("g", ROWS[:5], "encoder", SearchOptions(1))
                    assert [hits[0].score > 0.999 for hits in found.hits] == [True] * 5
                    assert len(await listed(client, "g")) == stored == (await client.get("g")).item_count
                    assert (await client.get_item("g", "item-7")).thumbnail == b"x" * 4000
                    with pytest.raises(StorageError):
                        await client.add("g", items(stored, 50, b"x" * 40_000), "encoder")
                grow(disk, 64 << 20)
                await client.add("g", items(stored, 50, b"x" * 4000), "encoder")
                process.kill()
                process.start()
                await process.wait_until_serving(client)
                assert await listed(client, "g") == [f"item-{i}" for i in range(stored + 50)]
        finally:
            process.kill()
