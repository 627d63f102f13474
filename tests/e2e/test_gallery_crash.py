"""SIGKILL of the gallery process while items are added: what was acknowledged is there, and nothing else but whole batches."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from tests.gallery_process import GalleryProcess

from shitu_server.errors import UnavailableError
from shitu_server.gallery.client import GalleryClient
from shitu_server.types import Item, NewItem

_log = logging.getLogger(__name__)

ENCODER = "encoder-1"
DIMENSION = 64
WRITERS = 4


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
    sent, checked, kept, resent = Sent(), set[str](), 0, 0
    process = GalleryProcess(folder)
    try:
        async with process.client() as client:
            await client.create("crash", ENCODER, DIMENSION)
            for _ in range(kills):
                writers = [asyncio.create_task(write_until_killed(client, sent, rng)) for _ in range(WRITERS)]
                await asyncio.sleep(moments.uniform(0.002, 0.25))
                process.kill()
                await asyncio.gather(*writers)
                process.start()
                await process.wait_until_serving(client)
                await check_all(client, sent, checked)
                for batch in (batch for batch in sent.batches if not batch.acknowledged):
                    kept += next(iter(batch.items)) in checked
                    resent += 1
                    await client.add("crash", list(batch.items.values()), ENCODER)  # sending again does no harm
                    batch.acknowledged = True
            await check_all(client, sent, checked)
    finally:
        process.kill()
    _log.info(
        "%d kills, %d batches acknowledged before them, %d not, of which %d were stored whole; %d items compared",
        *(kills, len(sent.batches) - resent, resent, kept, len(checked)),
    )
    assert len(sent.batches) - resent > 5 * kills
    assert resent > kills  # the kills did hit writes


async def test_nothing_is_lost_or_invented_by_kills(tmp_path: Path):
    await crash_again_and_again(tmp_path, kills=8, seed=20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_nothing_is_lost_or_invented_by_a_hundred_kills(tmp_path: Path):
    await crash_again_and_again(tmp_path, kills=100, seed=21)
