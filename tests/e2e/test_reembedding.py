"""A gallery of 2,000 pictures gets another encoder while it is searched and written to: real server, real models, real pictures."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from tests.conftest import start_server
from tests.drawn import jpeg
from tests.placed_models import demo_repository, other_weights, place

from shitu_client import AsyncClient, FailedPreconditionError, NewItem
from shitu_models.specs import DEMO_REC

_log = logging.getLogger(__name__)

ITEMS = 2000
SEARCHERS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One that runs the demo encoder and one of other weights."""
    models = demo_repository(tmp_path_factory.mktemp("reembedding") / "models")
    place(models, replace(DEMO_REC, name="other"), other_weights(3))
    options = ("--encoder", "demo_rec", "--encoder", "other", "--workers", "2")
    running = start_server(tmp_path_factory.mktemp("server"), "--model-repository", str(models), *options)
    try:
        running.wait_until_serving()
        yield running
    finally:
        running.stop()


def picture(number: int) -> bytes:
    """Return a small picture of a few coloured fields, different for every number."""
    rng = np.random.default_rng(number)
    fields = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return jpeg(np.kron(fields, np.ones((16, 16, 1), dtype=np.uint8)))


@dataclass
class Seen:
    """What the searchers got."""

    encoders: dict[int, set[str]] = field(default_factory=dict)
    """By generation."""
    missed: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    stale: int = 0
    """Searches that began after a reply of a newer generation had come, and were answered by an older one."""
    newest: int = 0
    newest_came_s: float = 0.0


async def search_on(client: AsyncClient, seen: Seen, done: asyncio.Event, first: int) -> None:
    """Recognise pictures of the gallery; any error ends the test."""
    for number in itertools.count(first, 7):
        if done.is_set():
            return
        begin_s = time.monotonic()
        known = seen.newest
        found = await client.recognize(picture(number % ITEMS), "drinks", skip_detection=True)
        seen.times_s.append(time.monotonic() - begin_s)
        seen.encoders.setdefault(found.gallery_generation, set()).add(found.encoder_fingerprint)
        seen.stale += found.gallery_generation < known
        seen.newest = max(seen.newest, found.gallery_generation)
        best = found.objects[0].best_candidate
        if best is None or best.item_id != str(number % ITEMS):
            seen.missed.append(number % ITEMS)


async def write_on(client: AsyncClient, done: asyncio.Event) -> set[str]:
    """Add and remove pictures; return the ids that must be there at the end."""
    there: set[str] = set()
    for number in itertools.count():
        if done.is_set():
            return there
        item_id = f"extra-{number % 40}"
        if item_id in there:
            assert await client.remove_items("drinks", [item_id]) == [item_id]
            there.discard(item_id)
        else:
            outcome = await client.add_items("drinks", [NewItem(item_id, "extra", picture(10_000 + number))])
            assert not outcome.failures
            there.add(item_id)
        await asyncio.sleep(0.02)
    raise AssertionError


async def test_another_encoder_is_published_under_load(server):
    async with AsyncClient(server.address) as client:
        await client.create_gallery("drinks", encoder="demo_rec")
        pictures = [NewItem(str(number), f"label {number}", picture(number)) for number in range(ITEMS)]
        assert not (await client.add_items("drinks", pictures)).failures
        old = await client.get_gallery("drinks")
        seen, done = Seen(), asyncio.Event()
        searchers = [asyncio.ensure_future(search_on(client, seen, done, first)) for first in range(SEARCHERS)]
        writer = asyncio.ensure_future(write_on(client, done))
        begin_s = time.monotonic()
        progress = [one async for one in client.reembed("drinks", encoder="other")]
        elapsed_s = time.monotonic() - begin_s
        await asyncio.sleep(1)
        done.set()
        await asyncio.gather(*searchers)
        extras = await writer
        new = await client.get_gallery("drinks")
        _log.warning(
            "%d items anew in %.1f s under %d searches (p50 %.0f ms, p99 %.0f ms); generations %s",
            *(
                ITEMS,
                elapsed_s,
                len(seen.times_s),
                1000 * np.median(seen.times_s),
                1000 * np.quantile(seen.times_s, 0.99),
            ),
            seen.encoders,
        )
        published = progress[-1].published
        assert published is not None
        counts = [one.embedded_count for one in progress[:-1]]
        assert counts == sorted(counts)
        assert max(counts) <= progress[-2].item_count
        assert (published.encoder_fingerprint, new.encoder_fingerprint) == (published.encoder_fingerprint,) * 2
        assert published.encoder_fingerprint != old.encoder_fingerprint
        # Each generation was only ever answered with its own encoder, and nobody was sent back to the old one.
        assert seen.encoders == {
            old.generation: {old.encoder_fingerprint},
            new.generation: {new.encoder_fingerprint},
        }
        assert seen.stale == 0
        assert seen.missed == []
        ids = {item.id async for item in client.iterate_items("drinks")}
        assert ids == {str(number) for number in range(ITEMS)} | extras
        with pytest.raises(FailedPreconditionError, match="already"):
            [one async for one in client.reembed("drinks", encoder="other")]
        with pytest.raises(FailedPreconditionError, match="writes came"):
            await client.rollback("drinks")
        back = await client.rollback("drinks", discard_writes=True)
        assert (back.encoder_fingerprint, back.generation) == (old.encoder_fingerprint, old.generation)
        found = await client.recognize(picture(77), "drinks", skip_detection=True)
        assert (found.encoder_fingerprint, found.objects[0].label) == (old.encoder_fingerprint, "label 77")
        forward = await client.rollback("drinks")
        assert forward.encoder_fingerprint == new.encoder_fingerprint
        await client.delete_gallery("drinks")


async def test_reembedding_that_was_broken_off_goes_on(server):
    async with AsyncClient(server.address) as client:
        await client.create_gallery("tea", encoder="demo_rec")
        pictures = [NewItem(str(number), f"label {number}", picture(number)) for number in range(200)]
        assert not (await client.add_items("tea", pictures)).failures
        run = client.reembed("tea", encoder="other")
        async for one in run:
            if one.embedded_count >= 64:
                break
        await run.aclose()
        progress = [one async for one in client.reembed("tea", encoder="other")]
        assert progress[0].embedded_count >= 64
        assert (progress[-1].published.item_count, progress[-1].embedded_count) == (200, 200)
        await client.delete_gallery("tea")
