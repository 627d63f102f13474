"""SIGKILL of the gallery process while items are added: what was acknowledged is there, and nothing else but whole batches."""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from shitu_server.errors import DeadlineExceededError, UnavailableError
from shitu_server.gallery.client import GalleryClient
from shitu_server.types import Item, NewItem

_log = logging.getLogger(__name__)

ENCODER = "encoder-1"
DIMENSION = 64
WRITERS = 4
START_TIMEOUT_S = 30


@dataclass
class GalleryProcess:
    """A gallery process that is killed and started again."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix:{self.folder}/gallery.sock"

    def start(self) -> None:
        command = [sys.executable, "-m", "shitu_server.gallery", "--address", self.address]
        self.process = subprocess.Popen([*command, "--data-dir", str(self.folder)], stderr=subprocess.DEVNULL)

    async def wait_until_serving(self, client: GalleryClient) -> None:
        assert self.process is not None
        end_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end_s:
            try:
                await client.check()
            except (UnavailableError, DeadlineExceededError):
                assert self.process.poll() is None, "the gallery process ended"
                await asyncio.sleep(0.02)
            else:
                return
        pytest.fail("the gallery process did not start")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@dataclass
class Batch:
    """Items that were sent together."""

    items: dict[str, NewItem]
    acknowledged: bool = False


@dataclass
class Sent:
    """What was sent so far."""

    batches: list[Batch] = field(default_factory=list)

    def new_batch(self, rng: np.random.Generator) -> Batch:
        rows = rng.standard_normal((int(rng.integers(1, 33)), DIMENSION), dtype=np.float32)
        number = len(self.batches)
        items = [
            NewItem(f"{number}-{i}", f"label {number}", row, {"batch": number, "i": i}, rng.bytes(200))
            for i, row in enumerate(rows)
        ]
        batch = Batch({item.id: item for item in items})
        self.batches.append(batch)
        return batch


async def write_until_killed(client: GalleryClient, sent: Sent, rng: np.random.Generator) -> None:
    while True:
        batch = sent.new_batch(rng)
        try:
            await client.add("crash", list(batch.items.values()), ENCODER)
        except UnavailableError:
            return
        batch.acknowledged = True


async def everything(client: GalleryClient) -> list[str]:
    ids, token = [], ""
    while True:
        page = await client.list_items("crash", 1000, token)
        ids += [item.id for item in page.entries]
        token = page.next_token
        if not token:
            return ids


def same(sent: NewItem, stored: Item) -> bool:
    assert stored.vector is not None
    unit = sent.vector / np.linalg.norm(sent.vector)
    return (stored.label, stored.metadata, stored.thumbnail) == (sent.label, sent.metadata, sent.thumbnail) and float(
        np.abs(stored.vector - unit).max()
    ) < 1e-6


async def check_all(client: GalleryClient, sent: Sent, checked: set[str]) -> None:
    """Compare all ids with what was sent, and the content of the items that were not compared before."""
    ids = await everything(client)
    assert not [item_id for item_id, count in Counter(ids).items() if count > 1]
    present = set(ids)
    known = {item_id: item for batch in sent.batches for item_id, item in batch.items.items()}
    assert present <= known.keys()
    assert (await client.get("crash")).item_count == len(ids)
    for batch in sent.batches:
        there = present & batch.items.keys()
        assert there == batch.items.keys() or (not there and not batch.acknowledged)
    new = sorted(present - checked)
    for begin in range(0, len(new), 64):
        part = new[begin : begin + 64]
        stored = await asyncio.gather(*(client.get_item("crash", item_id) for item_id in part))
        assert all(same(known[item.id], item) for item in stored)
        queries = np.stack([known[item_id].vector for item_id in part])
        found = await client.search("crash", queries, ENCODER, top_k=1)
        assert [hits[0].item_id for hits in found.hits] == part
    checked |= present


async def crash_again_and_again(folder: Path, kills: int, seed: int) -> None:
    rng, moments = np.random.default_rng(seed), random.Random(seed)
    gallery, sent, checked = GalleryProcess(folder), Sent(), set[str]()
    client = GalleryClient(gallery.address)
    try:
        gallery.start()
        await gallery.wait_until_serving(client)
        await client.create("crash", ENCODER, DIMENSION)
        for _ in range(kills):
            writers = [asyncio.create_task(write_until_killed(client, sent, rng)) for _ in range(WRITERS)]
            await asyncio.sleep(moments.uniform(0.002, 0.25))
            gallery.kill()
            await asyncio.gather(*writers)
            gallery.start()
            await gallery.wait_until_serving(client)
            await check_all(client, sent, checked)
    finally:
        await client.close()
        gallery.kill()
    acknowledged = sum(batch.acknowledged for batch in sent.batches)
    kept = sum(not batch.acknowledged and next(iter(batch.items)) in checked for batch in sent.batches)
    _log.info(
        "%d kills, %d batches sent, %d acknowledged, %d items compared, %d batches of which only the acknowledgement was lost",
        *(kills, len(sent.batches), acknowledged, len(checked), kept),
    )
    assert acknowledged > 5 * kills
    assert len(sent.batches) > acknowledged  # the kills did hit writes


async def test_nothing_is_lost_or_invented_by_kills(tmp_path: Path):
    await crash_again_and_again(tmp_path, kills=8, seed=20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_nothing_is_lost_or_invented_by_a_hundred_kills(tmp_path: Path):
    await crash_again_and_again(tmp_path, kills=100, seed=21)
