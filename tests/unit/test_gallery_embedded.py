"""What only the gallery in this process can be made to show: a full disk, full queues, an index that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from shitu_server.errors import ConfigurationError, OverloadedError, StorageError, UnavailableError
from shitu_server.gallery.embedded import EmbeddedGallery
from shitu_server.gallery.index import GalleryIndex
from shitu_server.gallery.item_rows import ItemRows
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.store import GalleryStore
from shitu_server.types import NewItem, SearchOptions

LIMITS = GalleryLimits(gallery_count=2, items_per_gallery=1000, write_queue_calls=4, search_queue_queries=8)
ROWS = np.random.default_rng(0).standard_normal((256, 8)).astype(np.float32)


@pytest.fixture
async def gallery(tmp_path: Path):
    opened = await EmbeddedGallery.open(tmp_path, LIMITS)
    await opened.create("g", "encoder", 8)
    yield opened
    await opened.close()


def items(count: int, thumbnail: bytes = b"") -> list[NewItem]:
    return [NewItem(str(i), "label", ROWS[i], {}, thumbnail) for i in range(count)]


async def found(gallery: EmbeddedGallery) -> list[str]:
    result = await gallery.search("g", ROWS[:1], "encoder", SearchOptions(1000))
    return sorted(hit.item_id for hit in result.hits[0])


async def test_full_disk_refuses_writes_and_reads_go_on(gallery: EmbeddedGallery):
    await gallery.add("g", items(3), "encoder")
    state = (await gallery.get("g")).state
    connection = gallery._store._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StorageError, match="nothing was written"):
        await gallery.add("g", items(200, b"x" * 20_000), "encoder")
    assert await found(gallery) == ["0", "1", "2"]
    assert (await gallery.get("g")).state == state
    connection.execute(f"PRAGMA max_page_count = {pages + 2000}")
    await gallery.add("g", items(200, b"x" * 20_000), "encoder")
    assert len(await found(gallery)) == 200


async def test_index_that_fails_is_rebuilt_from_the_truth(gallery: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch):
    await gallery.add("g", items(3), "encoder")
    put, failures = GalleryIndex.put, [MemoryError("no memory")]

    def fail_once(index: GalleryIndex, *arguments: object) -> None:
        if failures:
            raise failures.pop()
        put(index, *arguments)

    monkeypatch.setattr(GalleryIndex, "put", fail_once)
    added = await gallery.add("g", items(5), "encoder")
    assert [one.replaced for one in added.added] == [True, True, True, False, False]
    assert await found(gallery) == ["0", "1", "2", "3", "4"]


async def test_index_that_cannot_be_rebuilt_is_not_searched(gallery: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise MemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(GalleryIndex, "put", fail)
        with pytest.raises(UnavailableError, match="stored"):
            await gallery.add("g", items(2), "encoder")
        with pytest.raises(UnavailableError, match="being rebuilt"):
            await found(gallery)
    for _ in range(100):
        try:
            assert await found(gallery) == ["0", "1"]
            break
        except UnavailableError:
            await asyncio.sleep(0.05)
    else:
        pytest.fail("the index was not rebuilt")


async def test_writer_survives_a_bug(gallery: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(ItemRows, "upsert", fail)
        patch.setattr(GalleryStore, "purge", fail)
        with pytest.raises(ZeroDivisionError):
            await gallery.add("g", items(1), "encoder")
    await gallery.add("g", items(2), "encoder")
    assert await found(gallery) == ["0", "1"]


async def test_queue_of_writes_is_bounded(gallery: EmbeddedGallery):
    writes = [gallery.add("g", items(1), "encoder") for _ in range(20)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, OverloadedError)]
    assert 0 < len(refused) < 20
    assert all(error.retry_after_s > 0 for error in refused)
    assert await found(gallery) == ["0"]


async def test_queue_of_searches_is_bounded(gallery: EmbeddedGallery):
    searches = [gallery.search("g", ROWS[:4], "encoder", SearchOptions(1)) for _ in range(10)]
    outcomes = await asyncio.gather(*searches, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, OverloadedError)]
    assert len(refused) == 8
    assert all(outcome.retry_after_s > 0 for outcome in refused)


async def test_galleries_and_items_are_limited(gallery: EmbeddedGallery):
    await gallery.create("h", "encoder", 8)
    with pytest.raises(StorageError, match="2 galleries"):
        await gallery.create("i", "encoder", 8)
    for begin in range(0, 900, 100):
        await gallery.add("g", [NewItem(str(begin + i), "label", ROWS[i]) for i in range(100)], "encoder")
    with pytest.raises(StorageError, match="900 of 1000"):
        await gallery.add("g", [NewItem(f"x{i}", "label", ROWS[i]) for i in range(101)], "encoder")


async def test_writes_that_wait_are_done_before_closing(tmp_path: Path):
    gallery = await EmbeddedGallery.open(tmp_path)
    await gallery.create("g", "encoder", 8)
    writes = [asyncio.create_task(gallery.add("g", [item], "encoder")) for item in items(50)]
    await asyncio.sleep(0)
    await gallery.close()
    assert len(await asyncio.gather(*writes)) == 50
    with pytest.raises(UnavailableError):
        await gallery.add("g", items(1), "encoder")
    again = await EmbeddedGallery.open(tmp_path)
    assert (await again.get("g")).item_count == 50
    await again.close()


async def test_directory_in_use_is_refused_and_stays_usable(gallery: EmbeddedGallery, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="in use"):
        await EmbeddedGallery.open(tmp_path)
    await gallery.add("g", items(1), "encoder")
