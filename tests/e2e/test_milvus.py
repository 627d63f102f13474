"""A real Milvus that is killed, paused and asked by several gateways."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import start_server
from tests.drawn import product_picture, products
from tests.milvus_server import MilvusServer

from shitu_client import Client
from shitu_client import NewItem as NewClientItem
from shitu_server.errors import DeadlineExceededError, NotFoundError, UnavailableError, UnsupportedError
from shitu_server.gallery.milvus.gallery import MilvusGallery
from shitu_server.types import GalleryOptions, IndexKind, Item, NewItem, SearchOptions

pytestmark = pytest.mark.milvus

ENCODER = "encoder-1"
DIMENSION = 64
WRITERS = 4


@asynccontextmanager
async def connected(
    server: MilvusServer, *, searches_wait: bool = False, token: str = ""
) -> AsyncIterator[MilvusGallery]:
    gallery = MilvusGallery(server.address, token=token or server.token, searches_wait=searches_wait)
    try:
        yield gallery
    finally:
        await gallery.close()


@pytest.fixture
async def gallery(milvus: MilvusServer) -> AsyncIterator[MilvusGallery]:
    async with connected(milvus) as opened:
        for left in (await opened.list_galleries(1000, "")).entries:
            await opened.delete(left.name)
        yield opened


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[MilvusServer]:
    server = MilvusServer(tmp_path / "milvus")
    yield server
    server.kill()


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION), dtype=np.float32)


class Writers:
    """Write items of which each is written once, and remove a few of them, until Milvus is gone."""

    def __init__(self, gallery: MilvusGallery, rng: np.random.Generator) -> None:
        self._gallery = gallery
        self._rng = rng
        self._count = 0
        self.sent: dict[str, NewItem] = {}
        self.stored: set[str] = set()
        """Acknowledged."""
        self.unsure: set[str] = set()
        """Ids of which a write was not acknowledged."""

    async def run(self) -> None:
        while True:
            batch = self._batch()
            try:
                await self._gallery.add("crash", batch, ENCODER)
                self.stored.update(item.id for item in batch)
                if self._rng.random() < 0.3:
                    await self._remove(batch[0].id)
            except UnavailableError:
                self.unsure.update({item.id for item in batch} - self.stored)
                return

    async def _remove(self, item_id: str) -> None:
        self.stored.remove(item_id)
        self.unsure.add(item_id)
        await self._gallery.remove("crash", [item_id])
        self.unsure.remove(item_id)

    def _batch(self) -> list[NewItem]:
        self._count += 1
        rows = self._rng.standard_normal((int(self._rng.integers(1, 33)), DIMENSION), dtype=np.float32)
        name = f"batch {self._count}"
        batch = [NewItem(f"{self._count}-{i}", name, row, {"i": i}) for i, row in enumerate(rows)]
        self.sent.update({item.id: item for item in batch})
        return batch


async def everything(gallery: MilvusGallery) -> list[str]:
    ids, token = [], ""
    while True:
        page = await gallery.list_items("crash", 1000, token)
        ids += [item.id for item in page.entries]
        token = page.next_token
        if not token:
            return ids


def same(sent: NewItem, stored: Item) -> bool:
    assert stored.vector is not None
    unit = sent.vector / np.linalg.norm(sent.vector)
    return (stored.label, stored.metadata) == (sent.label, sent.metadata) and np.abs(stored.vector - unit).max() < 1e-6


async def first_count(gallery: MilvusGallery) -> int:
    """The number of items that is told first after a start."""
    end_s = time.monotonic() + 120
    while time.monotonic() < end_s:
        with suppress(UnavailableError):
            return (await gallery.get("crash")).item_count
        await asyncio.sleep(0.1)
    pytest.fail("Milvus did not come back")


async def check_all(gallery: MilvusGallery, writers: Writers, checked: set[str]) -> None:
    ids = await everything(gallery)
    assert len(ids) == len(set(ids))
    assert writers.stored <= set(ids) <= writers.stored | writers.unsure
    new = sorted(set(ids) - checked)
    for begin in range(0, len(new), 64):
        part = new[begin : begin + 64]
        stored = await asyncio.gather(*(gallery.get_item("crash", item_id) for item_id in part))
        assert all(same(writers.sent[item.id], item) for item in stored)
        queries = np.stack([writers.sent[item_id].vector for item_id in part])
        found = await gallery.search("crash", queries, ENCODER, SearchOptions(1))
        assert [hits[0].item_id for hits in found.hits] == part
    checked.update(ids)


@pytest.mark.timeout(600)
async def test_nothing_acknowledged_is_lost_by_kills(mortal: MilvusServer):
    moments, checked = random.Random(3), set[str]()
    async with connected(mortal) as gallery, connected(mortal) as other:
        await gallery.create("crash", ENCODER, DIMENSION)
        writers = Writers(gallery, np.random.default_rng(3))
        for _ in range(3):
            tasks = [asyncio.create_task(writers.run()) for _ in range(WRITERS)]
            await asyncio.sleep(moments.uniform(2, 5))
            mortal.kill()
            await asyncio.gather(*tasks)
            begin_s = time.monotonic()
            for call in (
                gallery.check(),
                gallery.get("crash"),
                other.search("crash", vectors(1), ENCODER, SearchOptions(1)),
            ):
                with pytest.raises(UnavailableError, match="no Milvus at"):
                    await call
            assert time.monotonic() - begin_s < 2
            mortal.start()
            # At a gateway that wrote nothing and so knows of nothing: reads wait until Milvus has caught up.
            assert await first_count(other) >= len(writers.stored)
            await check_all(gallery, writers, checked)
        assert len(writers.stored) > 200
        assert writers.unsure
        await gallery.check()


@pytest.mark.parametrize("searches_wait", [False, True])
async def test_gateways_see_the_writes_of_each_other(
    milvus: MilvusServer, gallery: MilvusGallery, *, searches_wait: bool
):
    await gallery.create("drinks", ENCODER, DIMENSION)
    rows = vectors(15)
    async with (
        connected(milvus, searches_wait=searches_wait) as writer,
        connected(milvus, searches_wait=searches_wait) as reader,
    ):
        for i, row in enumerate(rows):
            added = await writer.add("drinks", [NewItem("one", f"label {i}", row)], ENCODER)
            found = await reader.search("drinks", row[np.newaxis], ENCODER, SearchOptions(5))
            assert [(hit.item_id, hit.label) for hit in found.hits[0]] == [("one", f"label {i}")]
            assert found.state.sequence >= added.state.sequence
            again = await reader.add("drinks", [NewItem("one", f"label {i}", row)], ENCODER)
            assert again.added[0].replaced
        removed = await writer.remove("drinks", ["one"])
        assert (await reader.get("drinks")).item_count == 0
        assert (await reader.get("drinks")).state.sequence >= removed.state.sequence


async def test_writes_to_an_item_at_once_are_told_apart(gallery: MilvusGallery):
    """Of those that add an item at the same time one is the first, and one removes it."""
    await gallery.create("drinks", ENCODER, DIMENSION)
    digest = b"1" * 32
    rows = vectors(8)
    adds = [gallery.add("drinks", [NewItem("one", str(i), row)], ENCODER) for i, row in enumerate(rows)]
    assert sorted(result.added[0].replaced for result in await asyncio.gather(*adds)) == [False] + [True] * 7
    removes = await asyncio.gather(*(gallery.remove("drinks", ["one"]) for _ in range(4)))
    assert sorted(len(result.removed_ids) for result in removes) == [0, 0, 0, 1]
    twins = [NewItem(str(i), "l", row, image_digest=digest) for i, row in enumerate(rows)]
    results = await asyncio.gather(*(gallery.add("drinks", [one], ENCODER, skip_duplicates=True) for one in twins))
    assert sorted(result.added[0].skipped for result in results) == [False] + [True] * 7
    assert (await gallery.get("drinks")).item_count == 1


async def test_a_replaced_item_is_never_gone(milvus: MilvusServer, gallery: MilvusGallery):
    await gallery.create("drinks", ENCODER, DIMENSION)
    rows = vectors(20)
    await gallery.add("drinks", [NewItem(str(i), "v", row) for i, row in enumerate(rows)], ENCODER)
    done = False

    async def search(reader: MilvusGallery) -> int:
        count = 0
        while not done:
            found = await reader.search("drinks", rows, ENCODER, SearchOptions(1))
            assert [hits[0].item_id for hits in found.hits] == [str(i) for i in range(20)]
            assert (await reader.get("drinks")).item_count == 20
            count += 1
        return count

    async with connected(milvus) as one, connected(milvus) as other:
        tasks = [asyncio.create_task(search(reader)) for reader in (one, other)]
        for turn in range(8):
            writes = [
                [NewItem(str(i), f"v{turn}", rows[i]) for i in range(begin, begin + 5)] for begin in range(0, 20, 5)
            ]
            await asyncio.gather(*(gallery.add("drinks", batch, ENCODER) for batch in writes))
        done = True
        assert min(await asyncio.gather(*tasks)) > 50


async def test_alias_moves_at_once_under_searches(milvus: MilvusServer, gallery: MilvusGallery):
    for name in ("old", "new"):
        await gallery.create(name, ENCODER, DIMENSION)
        await gallery.add(name, [NewItem(f"{name} {i}", name, row) for i, row in enumerate(vectors(20))], ENCODER)
    await gallery.set_alias("current", "old")
    moves, moving = 0, False
    seen: list[str] = []

    async def search(reader: MilvusGallery) -> None:
        while moves < 20:
            before = (moves, moving)
            found = await reader.search("current", vectors(3, 1), ENCODER, SearchOptions(20))
            assert [len(hits) for hits in found.hits] == [20] * 3
            (label,) = {hit.label for hits in found.hits for hit in hits}
            if before == (moves, moving) == (moves, False):
                assert label == ("new" if moves % 2 else "old")
            seen.append(label)

    async with connected(milvus) as one, connected(milvus) as other:
        tasks = [asyncio.create_task(search(reader)) for reader in (one, other, gallery)]
        while moves < 20:
            moving = True
            await gallery.set_alias("current", "old" if moves % 2 else "new")
            moves, moving = moves + 1, False
            await asyncio.sleep(0.1)
        await asyncio.gather(*tasks)
    assert min(seen.count("old"), seen.count("new")) > 20


async def test_deadline_is_kept_by_a_milvus_that_does_not_answer(mortal: MilvusServer):
    async with connected(mortal) as gallery:
        await gallery.create("drinks", ENCODER, DIMENSION)
        await gallery.add("drinks", [NewItem("one", "l", vectors(1)[0])], ENCODER)
        mortal.pause()
        try:
            begin_s = time.monotonic()
            calls = [
                gallery.search("drinks", vectors(1), ENCODER, SearchOptions(1), deadline_s=begin_s + 0.3),
                gallery.add("drinks", [NewItem("two", "l", vectors(1)[0])], ENCODER, deadline_s=begin_s + 0.3),
                gallery.get("drinks", deadline_s=begin_s + 0.3),
            ]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - begin_s < 0.6
        finally:
            mortal.go_on()
        assert [type(outcome) for outcome in outcomes] == [DeadlineExceededError] * 3
        found = await gallery.search("drinks", vectors(1), ENCODER, SearchOptions(1))
        assert found.hits[0][0].label == "l"
        with pytest.raises(DeadlineExceededError, match="it is stored"):
            await gallery.add(
                "drinks", [NewItem("late", "l", vectors(1)[0])], ENCODER, deadline_s=time.monotonic() + 0.3
            )
        await asyncio.sleep(1)
        assert (await gallery.get_item("drinks", "late")).id == "late"


async def test_wrong_token_is_told(milvus: MilvusServer):
    async with connected(milvus, token="root:wrong") as gallery:
        with pytest.raises(UnavailableError, match="SHITU_MILVUS_TOKEN"):
            await gallery.get("drinks")


@pytest.mark.parametrize("kind", list(IndexKind))
async def test_every_kind_of_index_is_built_and_searched(gallery: MilvusGallery, kind: IndexKind):
    created = await gallery.create("drinks", ENCODER, DIMENSION, GalleryOptions(index_kind=kind))
    assert created.options.index_kind is kind
    rows = vectors(3000)
    for begin in range(0, 3000, 250):
        batch = [NewItem(str(i), "l", rows[i]) for i in range(begin, begin + 250)]
        await gallery.add("drinks", batch, ENCODER)
    queries = vectors(20, 5)
    result = await gallery.search("drinks", queries, ENCODER, SearchOptions(10))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    best = np.argsort(-(queries @ units.T), axis=1)[:, :10]
    found = [[int(hit.item_id) for hit in hits] for hits in result.hits]
    recall = np.mean([len(set(mine) & set(theirs)) / 10 for mine, theirs in zip(found, best.tolist(), strict=True)])
    assert recall == 1 if kind is IndexKind.FLAT else recall > 0.9
    assert (await gallery.get("drinks")).item_count == 3000


async def test_what_it_cannot_do_is_told(gallery: MilvusGallery):
    capabilities = await gallery.capabilities()
    assert (capabilities.snapshots, capabilities.reembedding, capabilities.thumbnails) == (False,) * 3
    with pytest.raises(UnsupportedError, match="milvus-backup"):
        await anext(gallery.snapshot("drinks"))
    for call in (
        gallery.restore("drinks", gallery.snapshot("drinks")),
        gallery.begin_draft("drinks", ENCODER, 8),
        gallery.draft_changes("drinks", 1, 1),
        gallery.add_to_draft("drinks", 1, []),
        gallery.hold_writes("drinks", 1, 1),
        gallery.publish("drinks", 1),
        gallery.discard_draft("drinks", 1),
        gallery.rollback("drinks"),
    ):
        with pytest.raises(UnsupportedError):
            await call


async def test_what_others_keep_in_milvus_is_left_alone(gallery: MilvusGallery):
    from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

    kind = schema_pb2.DataType
    fields = [
        schema_pb2.FieldSchema(name="id", data_type=kind.Int64, is_primary_key=True),
        schema_pb2.FieldSchema(
            name="vector", data_type=kind.FloatVector, type_params=[common_pb2.KeyValuePair(key="dim", value="8")]
        ),
    ]
    schema = schema_pb2.CollectionSchema(name="theirs", fields=fields).SerializeToString()
    request = milvus_pb2.CreateCollectionRequest(collection_name="theirs", schema=schema)
    await gallery._connection.write("CreateCollection", request, None)
    try:
        assert (await gallery.list_galleries(100, "")).entries == ()
        with pytest.raises(NotFoundError):
            await gallery.get("theirs")
    finally:
        drop = milvus_pb2.DropCollectionRequest(collection_name="theirs")
        await gallery._connection.write("DropCollection", drop, None)


def test_gateways_keep_galleries_in_milvus(milvus: MilvusServer, tmp_path: Path):
    options = ("--workers", "2", "--milvus-address", milvus.address)
    server = start_server(tmp_path, *options, env={"SHITU_MILVUS_TOKEN": milvus.token})
    try:
        server.wait_until_serving()
        with Client(server.address) as client:
            client.create_gallery("served")
            shown = products()[:4]
            items = [NewClientItem(str(i), product.label, product_picture(i, 0)) for i, product in enumerate(shown)]
            assert client.add_items("served", items).failures == ()
            for i, product in enumerate(shown):
                (found,) = client.recognize(product_picture(i, 0), "served", skip_detection=True).objects
                assert (found.label, found.matches[0].item_id) == (product.label, str(i))
            client.delete_gallery("served")
        assert list(tmp_path.rglob("*.sqlite3")) == []
    finally:
        server.stop()
    assert f"galleries at {milvus.address}" in server.log.read_text()
