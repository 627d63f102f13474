"""What is as large as a gallery takes, a real Milvus takes too."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from tests.milvus_server import MilvusServer

from shitu_server.errors import InvalidArgumentError
from shitu_server.filters import Eq, FieldType, In, Not
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.milvus.gallery import MilvusGallery
from shitu_server.types import GalleryOptions, IndexKind, NewItem, SearchOptions

pytestmark = pytest.mark.milvus

LIMITS = GalleryLimits()
LONG = "😀" * 256


@pytest.fixture
async def gallery(milvus: MilvusServer) -> AsyncIterator[MilvusGallery]:
    opened = MilvusGallery(milvus.address, token=milvus.token)
    for left in (await opened.list_galleries(1000, "")).entries:
        await opened.delete(left.name)
    yield opened
    await opened.close()


async def test_largest_call(gallery: MilvusGallery):
    fields = {f"{i}".rjust(64, "f"): FieldType.STRING for i in range(LIMITS.fields)}
    options = GalleryOptions(fields=fields)
    encoder = LONG
    created = await gallery.create("l" * 63 + "-", encoder, LIMITS.dimension, options)
    assert (created.options, created.encoder_fingerprint) == (options, encoder)
    rows = np.random.default_rng(0).standard_normal((LIMITS.items_per_call, LIMITS.dimension), dtype=np.float32)
    text = "字" * (LIMITS.metadata_bytes // 3 - 100)
    metadata = {next(iter(fields)): text}
    items = [NewItem(f"{i:03}".ljust(LIMITS.id_characters, "😀"), LONG, row, metadata) for i, row in enumerate(rows)]
    await gallery.add(created.name, items, encoder)
    search = SearchOptions(20, where=Eq(next(iter(fields)), text))
    found = await gallery.search(created.name, rows[:8], encoder, search)
    assert [hits[0].item_id for hits in found.hits] == [item.id for item in items[:8]]
    assert found.hits[0][0].metadata == metadata
    page = await gallery.list_items(created.name, LIMITS.page_size, "")
    assert [item.id for item in page.entries] == [item.id for item in items]
    with pytest.raises(InvalidArgumentError, match="top_k"):
        await gallery.search(created.name, rows[:20], encoder, SearchOptions(256))
    removed = await gallery.remove(created.name, [item.id for item in items])
    assert len(removed.removed_ids) == len(items)


@pytest.mark.parametrize("kind", list(IndexKind))
async def test_vectors_of_one_number(gallery: MilvusGallery, kind: IndexKind):
    await gallery.create("one", "e", 1, GalleryOptions(index_kind=kind))
    await gallery.add("one", [NewItem("plus", "l", np.ones(1)), NewItem("minus", "l", -np.ones(1))], "e")
    (hits,) = (await gallery.search("one", np.full((1, 1), 7), "e", SearchOptions(5))).hits
    assert [(hit.item_id, hit.score) for hit in hits] == [("plus", 1), ("minus", -1)]


async def test_most_values_and_hits(gallery: MilvusGallery):
    await gallery.create("drinks", "e", 8)
    rows = np.random.default_rng(0).standard_normal((1500, 8), dtype=np.float32)
    for begin in range(0, 1500, 250):
        batch = [NewItem(f"{i}{LONG[:250]}", f"l{i}", rows[i]) for i in range(begin, begin + 250)]
        await gallery.add("drinks", batch, "e")
    where = In("id", tuple(f"{i}{LONG[:250]}" for i in range(1000)))
    for wanted, asked in ((where, 1000), (Not(where), 500)):
        found = await gallery.search("drinks", rows[:1], "e", SearchOptions(1000, where=wanted))
        assert len(found.hits[0]) == asked
    by_label = await gallery.search("drinks", rows[:2], "e", SearchOptions(1000, per_label=6))
    assert [len(hits) for hits in by_label.hits] == [1000, 1000]
    with pytest.raises(InvalidArgumentError):
        await gallery.search("drinks", rows[:1], "e", SearchOptions(1000, per_label=7))
