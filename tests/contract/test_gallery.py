"""What `types.Gallery` promises, asked of the gallery in this process and of the one behind a socket alike."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.gallery_process import GalleryProcess
from tests.milvus_server import MilvusServer

from shitu_server.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    EncoderMismatchError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from shitu_server.filters import And, Eq, FieldType, Filter, In, Not, Or, Range
from shitu_server.gallery.embedded import EmbeddedGallery
from shitu_server.gallery.limits import IndexOptions
from shitu_server.types import (
    Added,
    Gallery,
    GalleryInfo,
    GalleryOptions,
    GalleryState,
    Hit,
    IndexKind,
    ItemUpdate,
    Metric,
    NewItem,
    SearchOptions,
)

ENCODER = "encoder-1"
DIMENSION = 16
FIELDS = {"n": FieldType.NUMBER, "brand": FieldType.STRING, "new": FieldType.BOOLEAN}


SOON_BUILT = IndexOptions(least_delta_rows=16)
"""Graphs and lists take part in tests of a few items."""


@asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[Gallery]:
    gallery = await EmbeddedGallery.open(folder / "data", tuning=SOON_BUILT)
    try:
        yield gallery
    finally:
        await gallery.close()


@asynccontextmanager
async def remote(folder: Path) -> AsyncIterator[Gallery]:
    process = GalleryProcess(folder)
    try:
        async with process.client() as client:
            yield client
        process.stop()
    finally:
        process.kill()


@asynccontextmanager
async def milvus_of_its_own(folder: Path) -> AsyncIterator[Gallery]:
    from shitu_server.gallery.milvus.gallery import MilvusGallery

    server = MilvusServer(folder)
    gallery = MilvusGallery(server.address, token=server.token)
    try:
        await server.wait_until_loaded(gallery)
        yield gallery
    finally:
        await gallery.close()
        server.kill()


OPENERS = {"embedded": embedded, "process": remote}
IN_MILVUS = pytest.param(milvus_of_its_own, id="milvus", marks=pytest.mark.milvus)
KINDS = {"embedded": IndexKind.FLAT, "hnsw": IndexKind.HNSW, "ivf": IndexKind.IVF, "process": IndexKind.AUTO}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GalleryProcess]:
    """A process that serves all tests which do not end it."""
    running = GalleryProcess(tmp_path_factory.mktemp("process"))
    yield running
    running.stop()


@asynccontextmanager
async def in_milvus(server: MilvusServer) -> AsyncIterator[Gallery]:
    from shitu_server.gallery.milvus.gallery import MilvusGallery

    gallery = MilvusGallery(server.address, token=server.token)
    try:
        yield gallery
    finally:
        await gallery.close()


def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractAsyncContextManager[Gallery]:
    """Open galleries of the kind that a fixture is asked for."""
    if request.param == "process":
        return request.getfixturevalue("process").client()
    return in_milvus(request.getfixturevalue("milvus")) if request.param == "milvus" else embedded(tmp_path)


@asynccontextmanager
async def with_drinks(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Gallery]:
    async with opened(request, tmp_path) as gallery:
        for left in (await gallery.list_galleries(1000, "")).entries:
            await gallery.delete(left.name)
        kind = KINDS.get(request.param, IndexKind.AUTO)
        await gallery.create("drinks", ENCODER, DIMENSION, GalleryOptions(index_kind=kind, fields=FIELDS))
        yield gallery


@pytest.fixture(params=[*KINDS, pytest.param("milvus", marks=pytest.mark.milvus)])
async def gallery(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Gallery]:
    """One with an empty gallery named drinks, which declares some fields."""
    async with with_drinks(request, tmp_path) as prepared:
        yield prepared


def vectors(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION), dtype=np.float32)


def items(count: int, seed: int = 0) -> list[NewItem]:
    rows = vectors(count, seed)
    return [NewItem(f"item-{i}", f"label-{i % 3}", rows[i], {"n": i}, b"jpeg %d" % i) for i in range(count)]


async def reflects(gallery: Gallery, state: GalleryState, written: GalleryState) -> bool:
    """Say whether a state holds a write, and no other, as far as the backend tells."""
    if (await gallery.capabilities()).exact_sequences:
        return state == written
    return state.generation == written.generation and state.sequence >= written.sequence


async def same(gallery: Gallery, info: GalleryInfo, former: GalleryInfo) -> bool:
    """Say whether a gallery is as it was."""
    state, index = former.state, former.index
    return info == former or (
        await reflects(gallery, info.state, state) and dataclasses.replace(info, state=state, index=index) == former
    )


async def test_gallery_lives_from_create_to_delete(gallery: Gallery):
    created = await gallery.get("drinks")
    assert (created.name, created.encoder_fingerprint, created.dimension) == ("drinks", ENCODER, DIMENSION)
    assert created.item_count == 0
    assert abs(created.create_time_s - time.time()) < 60
    with pytest.raises(AlreadyExistsError, match="drinks"):
        await gallery.create("drinks", ENCODER, DIMENSION)
    await gallery.add("drinks", items(5), ENCODER)
    await gallery.delete("drinks")
    for call in (gallery.get("drinks"), gallery.delete("drinks"), gallery.list_items("drinks", 10, "")):
        with pytest.raises(NotFoundError, match="drinks"):
            await call
    again = await gallery.create("drinks", ENCODER, 8)
    assert (again.item_count, again.dimension) == (0, 8)
    assert again.state.generation > created.state.generation


@pytest.mark.parametrize("name", ["", "Drinks", "-drinks", "a b", "a" * 65, "ü", "a\n"])
async def test_gallery_name_that_is_none(gallery: Gallery, name: str):
    with pytest.raises(InvalidArgumentError) as caught:
        await gallery.create(name, ENCODER, DIMENSION)
    assert caught.value.field == "name"


@pytest.mark.parametrize(("encoder", "dimension"), [("", 8), (ENCODER, 0), (ENCODER, -1), (ENCODER, 4097)])
async def test_gallery_without_a_usable_encoder(gallery: Gallery, encoder: str, dimension: int):
    with pytest.raises(InvalidArgumentError):
        await gallery.create("other", encoder, dimension)


async def test_galleries_are_listed_by_name_in_pages(gallery: Gallery):
    for name in ("tea", "beer", "a-1"):
        await gallery.create(name, ENCODER, DIMENSION)
    first = await gallery.list_galleries(3, "")
    assert [info.name for info in first.entries] == ["a-1", "beer", "drinks"]
    last = await gallery.list_galleries(3, first.next_token)
    assert ([info.name for info in last.entries], last.next_token) == (["tea"], "")
    everything = await gallery.list_galleries(0, "")  # as many as the server likes
    assert len(everything.entries) == 4
    for size, token in ((1001, ""), (-1, ""), (10, "NO TOKEN")):
        with pytest.raises(InvalidArgumentError):
            await gallery.list_galleries(size, token)


async def test_item_comes_back_as_it_was_sent(gallery: Gallery):
    metadata = {"price": 1.5, "count": 3, "new": True, "none": None, "tags": ["a", {"b": [1]}], "empty": {}, "no": []}
    vector = vectors(1)[0] * 1000
    await gallery.add("drinks", [NewItem("ü/1", "Cola, 0.5 l", vector, metadata, b"\xff\xd8")], ENCODER)
    item = await gallery.get_item("drinks", "ü/1")
    thumbnail = b"\xff\xd8" if (await gallery.capabilities()).thumbnails else b""
    assert (item.id, item.label, item.metadata, item.thumbnail) == ("ü/1", "Cola, 0.5 l", metadata, thumbnail)
    assert item.vector is not None
    np.testing.assert_allclose(item.vector, vector / np.linalg.norm(vector), atol=1e-6)
    assert abs(item.update_time_s - time.time()) < 60
    with pytest.raises(NotFoundError, match="item"):
        await gallery.get_item("drinks", "unknown")


async def test_items_are_listed_oldest_first_in_pages(gallery: Gallery):  # which is by id here
    await gallery.add("drinks", items(10), ENCODER)
    await gallery.add("drinks", items(2), ENCODER)  # replaced items keep their age
    seen, token = [], ""
    while True:
        page = await gallery.list_items("drinks", 4, token)
        seen += page.entries
        token = page.next_token
        if not token:
            break
    assert [item.id for item in seen] == [f"item-{i}" for i in range(10)]
    assert all(item.vector is None and item.thumbnail == b"" for item in seen)
    labelled = await gallery.list_items("drinks", 100, "", "label-1")
    assert [item.id for item in labelled.entries] == ["item-1", "item-4", "item-7"]
    with pytest.raises(InvalidArgumentError, match="page_token"):
        await gallery.list_items("drinks", 4, "x")


async def test_sending_items_again_changes_nothing_more(gallery: Gallery):
    first = await gallery.add("drinks", items(20), ENCODER)
    before = await gallery.search("drinks", vectors(5, 9), ENCODER, SearchOptions(20))
    again = await gallery.add("drinks", items(20), ENCODER)
    assert [one.replaced for one in first.added] == [False] * 20
    assert [one.replaced for one in again.added] == [True] * 20
    assert again.state.sequence > first.state.sequence
    assert (await gallery.get("drinks")).item_count == 20
    assert (await gallery.search("drinks", vectors(5, 9), ENCODER, SearchOptions(20))).hits == before.hits


async def test_a_write_is_seen_by_the_next_search(gallery: Gallery):
    rows = vectors(30)
    for i in range(30):
        added = await gallery.add("drinks", [NewItem("one", f"label {i}", rows[i])], ENCODER)
        found = await gallery.search("drinks", rows[i : i + 1], ENCODER, SearchOptions(5))
        assert [(hit.item_id, hit.label) for hit in found.hits[0]] == [("one", f"label {i}")]
        assert found.hits[0][0].score == pytest.approx(1, abs=1e-6)
        assert await reflects(gallery, found.state, added.state)
    removed = await gallery.remove("drinks", ["one", "unknown"])
    assert removed.removed_ids == ("one",)
    assert (await gallery.search("drinks", rows, ENCODER, SearchOptions(5))).hits == ((),) * 30


async def test_search_orders_and_cuts_hits(gallery: Gallery):
    await gallery.add("drinks", items(200), ENCODER)
    queries = vectors(4, 7)
    units = vectors(200) / np.linalg.norm(vectors(200), axis=1, keepdims=True)
    scores = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ units.T
    result = await gallery.search("drinks", queries, ENCODER, SearchOptions(7, 0.3))
    for hits, row in zip(result.hits, scores, strict=True):
        best = [i for i in np.argsort(-row)[:7] if row[i] >= 0.3]
        assert [hit.item_id for hit in hits] == [f"item-{i}" for i in best]
        np.testing.assert_allclose([hit.score for hit in hits], row[best], atol=1e-5)
        assert [hit.metadata for hit in hits] == [{"n": i} for i in best]


@pytest.mark.parametrize("top_k", [3, 1000])  # with so many hits a call takes 6 queries only
async def test_any_number_of_queries_is_searched(gallery: Gallery, top_k: int):
    await gallery.add("drinks", items(150), ENCODER)
    added = await gallery.add("drinks", items(1), ENCODER)
    result = await gallery.search("drinks", vectors(150), ENCODER, SearchOptions(top_k))
    assert [hits[0].item_id for hits in result.hits] == [f"item-{i}" for i in range(150)]
    assert {len(hits) for hits in result.hits} == {min(top_k, 150)}
    assert await reflects(gallery, result.state, added.state)
    bad = vectors(150)
    bad[130] = 0
    with pytest.raises(InvalidArgumentError) as caught:
        await gallery.search("drinks", bad, ENCODER, SearchOptions(top_k))
    assert caught.value.field == "queries[130].vector"
    with pytest.raises(NotFoundError):
        await gallery.search("no", vectors(150), ENCODER, SearchOptions(top_k))


async def test_of_equal_scores_the_older_item_comes_first(gallery: Gallery):
    twin = vectors(1)[0]
    names = [f"{name}-{i}" for i in range(20) for name in ("z", "a")]
    await gallery.add("drinks", [NewItem(name, "twin", twin) for name in names], ENCODER)
    result = await gallery.search("drinks", twin[np.newaxis] * 3, ENCODER, SearchOptions(15))
    if (await gallery.capabilities()).ties_oldest_first:
        assert [hit.item_id for hit in result.hits[0]] == names[:15]
    assert len({hit.item_id for hit in result.hits[0]} & set(names)) == 15


async def test_vectors_of_another_encoder_are_refused(gallery: Gallery):
    with pytest.raises(EncoderMismatchError, match="encoder-2"):
        await gallery.add("drinks", items(1), "encoder-2")
    with pytest.raises(EncoderMismatchError, match="encoder-2"):
        await gallery.search("drinks", vectors(1), "encoder-2", SearchOptions(1))
    with pytest.raises(EncoderMismatchError, match="16 numbers, this one has 3"):
        await gallery.add("drinks", [NewItem("a", "b", np.ones(3, np.float32))], ENCODER)
    with pytest.raises(EncoderMismatchError, match="16 numbers, this one has 3"):
        await gallery.search("drinks", np.ones((1, 3), np.float32), ENCODER, SearchOptions(1))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 0])
async def test_vector_without_a_direction(gallery: Gallery, number: float):
    good, bad = vectors(2)
    bad = np.zeros_like(bad)
    bad[3] = number
    with pytest.raises(InvalidArgumentError) as caught:
        await gallery.add("drinks", [NewItem("a", "b", good), NewItem("c", "d", bad)], ENCODER)
    assert caught.value.field == "items[1].vector"
    assert (await gallery.get("drinks")).item_count == 0  # all or none
    with pytest.raises(InvalidArgumentError) as caught:
        await gallery.search("drinks", np.stack([good, bad]), ENCODER, SearchOptions(1))
    assert caught.value.field == "queries[1].vector"


async def test_of_searches_side_by_side_each_is_answered_or_refused_by_itself(gallery: Gallery):
    await gallery.add("drinks", items(10), ENCODER)
    bad = np.zeros((1, 16), np.float32)
    queries = [vectors(1), bad, vectors(3), np.ones((1, 3), np.float32), vectors(2)]
    searches = (gallery.search("drinks", one, ENCODER, SearchOptions(2)) for one in queries)
    first, refused, second, mismatched, third = await asyncio.gather(*searches, return_exceptions=True)
    for found, count in ((first, 1), (second, 3), (third, 2)):
        assert [hits[0].item_id for hits in found.hits] == [f"item-{i}" for i in range(count)]
    assert isinstance(refused, InvalidArgumentError)
    assert refused.field == "queries[0].vector"
    assert isinstance(mismatched, EncoderMismatchError)


async def test_vectors_of_any_length_are_taken(gallery: Gallery):
    rows = vectors(2)
    await gallery.add("drinks", [NewItem("a", "b", rows[0] * 1e-30), NewItem("c", "d", rows[1] * 1e30)], ENCODER)
    result = await gallery.search("drinks", rows * np.float32(1e-20), ENCODER, SearchOptions(1))
    assert [(hits[0].item_id, round(hits[0].score, 5)) for hits in result.hits] == [("a", 1), ("c", 1)]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (NewItem("", "b", vectors(1)[0]), "items[0].id"),
        (NewItem("a" * 257, "b", vectors(1)[0]), "items[0].id"),
        (NewItem("a", "", vectors(1)[0]), "items[0].label"),
        (NewItem("a", "b" * 257, vectors(1)[0]), "items[0].label"),
        (NewItem("a", "b", vectors(1)[0], {"x": "y" * 20_000}), "items[0].metadata"),
        (NewItem("a", "b", vectors(1)[0], {"x": float("nan")}), "items[0].metadata"),
        (NewItem("a", "b", vectors(1)[0], {}, b"x" * 300_000), "items[0].image"),
    ],
)
async def test_item_over_a_limit(gallery: Gallery, item: NewItem, field: str):
    with pytest.raises(InvalidArgumentError) as caught:
        await gallery.add("drinks", [item], ENCODER)
    assert caught.value.field == field


async def test_calls_over_a_limit(gallery: Gallery):
    rows = items(257)
    for call in (
        gallery.add("drinks", rows, ENCODER),
        gallery.add("drinks", [], ENCODER),
        gallery.add("drinks", [rows[0], rows[1], rows[0]], ENCODER),
        gallery.remove("drinks", ["a"] * 1001),
        gallery.remove("drinks", []),
        gallery.search("drinks", vectors(1)[:0], ENCODER, SearchOptions(1)),
        gallery.search("drinks", vectors(1), ENCODER, SearchOptions(0)),
        gallery.search("drinks", vectors(1), ENCODER, SearchOptions(1001)),
        gallery.search("drinks", vectors(1), ENCODER, SearchOptions(1, 1.5)),
    ):
        with pytest.raises(InvalidArgumentError):
            await call


async def test_unknown_gallery(gallery: Gallery):
    for call in (
        gallery.add("no", items(1), ENCODER),
        gallery.remove("no", ["a"]),
        gallery.get_item("no", "a"),
        gallery.search("no", vectors(1), ENCODER, SearchOptions(1)),
    ):
        with pytest.raises(NotFoundError) as caught:
            await call
        assert (caught.value.resource_type, caught.value.resource_name) == ("gallery", "no")


async def test_deadline_that_passed(gallery: Gallery):
    past = time.monotonic() - 1
    for call in (
        gallery.add("drinks", items(1), ENCODER, deadline_s=past),
        gallery.search("drinks", vectors(1), ENCODER, SearchOptions(1), deadline_s=past),
        gallery.get_item("drinks", "item-0", deadline_s=past),
    ):
        with pytest.raises(DeadlineExceededError):
            await call
    assert (await gallery.get("drinks")).item_count == 0


@pytest.mark.parametrize("opener", [*(pytest.param(opener, id=name) for name, opener in OPENERS.items()), IN_MILVUS])
async def test_everything_is_there_after_a_restart(opener, tmp_path: Path):
    async with opener(tmp_path) as gallery:
        await gallery.create("drinks", ENCODER, DIMENSION)
        await gallery.add("drinks", items(50), ENCODER)
        await gallery.remove("drinks", ["item-7"])
        await gallery.add("drinks", [NewItem("item-8", "new", vectors(1, 5)[0])], ENCODER)
        info = await gallery.get("drinks")
        found = await gallery.search("drinks", vectors(5, 9), ENCODER, SearchOptions(49))
    async with opener(tmp_path) as gallery:
        assert await same(gallery, await gallery.get("drinks"), info)
        assert (await gallery.search("drinks", vectors(5, 9), ENCODER, SearchOptions(49))).hits == found.hits
        assert (await gallery.get_item("drinks", "item-8")).label == "new"


async def test_writers_and_readers_together(gallery: Gallery):
    """Each writer sees each of its own writes at once, among the writes of the others."""

    async def write(writer: int) -> None:
        rows = vectors(40, writer)
        for step, row in enumerate(rows):
            item_id = f"{writer}-{step % 10}"
            await gallery.add("drinks", [NewItem(item_id, str(step), row)], ENCODER)
            found = await gallery.search("drinks", row[np.newaxis], ENCODER, SearchOptions(1))
            assert (found.hits[0][0].item_id, found.hits[0][0].label) == (item_id, str(step))
            if step % 10 == 9:
                await gallery.remove("drinks", [item_id])

    await asyncio.gather(*(write(writer) for writer in range(6)))
    assert (await gallery.get("drinks")).item_count == 6 * 9


async def test_gallery_tells_what_it_was_made_with(gallery: Gallery):
    options = GalleryOptions(Metric.INNER_PRODUCT, IndexKind.FLAT, FIELDS)
    created = await gallery.create("tea", ENCODER, DIMENSION, options)
    assert (created.options, created.aliases, created.previous_generation) == (options, (), 0)
    assert await same(gallery, await gallery.get("tea"), created)


@pytest.mark.parametrize("name", ["", "1st", "a-b", "label", "id", "x" * 65, "ü"])
async def test_field_that_cannot_be_declared(gallery: Gallery, name: str):
    with pytest.raises(InvalidArgumentError) as caught:
        await gallery.create("tea", ENCODER, DIMENSION, GalleryOptions(fields={name: FieldType.STRING}))
    assert caught.value.field == "fields"


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"n": "1"}, "n"),
        ({"n": True}, "n"),
        ({"brand": 1}, "brand"),
        ({"new": None}, "new"),
        ({"brand": ["x"]}, "brand"),
    ],
)
async def test_declared_field_of_another_type(gallery: Gallery, metadata: dict, field: str):
    with pytest.raises(InvalidArgumentError) as caught:
        await gallery.add("drinks", [NewItem("a", "b", vectors(1)[0], metadata)], ENCODER)
    assert caught.value.field == f"items[0].metadata.{field}"
    await gallery.add("drinks", items(1), ENCODER)
    with pytest.raises(InvalidArgumentError) as caught:
        await gallery.update_items("drinks", [ItemUpdate("item-0", metadata=metadata)])
    assert caught.value.field == f"updates[0].metadata.{field}"


async def test_update_changes_labels_and_metadata_alone(gallery: Gallery):
    rows = vectors(60)
    await gallery.add("drinks", items(60), ENCODER)
    before = await gallery.get_item("drinks", "item-3")
    changes = [ItemUpdate("item-3", "Fanta"), ItemUpdate("item-4", metadata={"n": 99}), ItemUpdate("unknown", "x")]
    updated = await gallery.update_items("drinks", changes)
    assert updated.updated_ids == ("item-3", "item-4")
    found = await gallery.search("drinks", rows[3:5], ENCODER, SearchOptions(1))
    assert [hits[0] for hits in found.hits] == [
        Hit("item-3", "Fanta", pytest.approx(1, abs=1e-6), {"n": 3}),
        Hit("item-4", "label-1", pytest.approx(1, abs=1e-6), {"n": 99}),
    ]
    assert found.state.sequence >= updated.state.sequence
    after = await gallery.get_item("drinks", "item-3")
    assert (after.label, after.metadata, after.thumbnail) == ("Fanta", {"n": 3}, before.thumbnail)
    np.testing.assert_array_equal(after.vector, before.vector)
    assert (await gallery.get("drinks")).item_count == 60
    assert [item.id for item in (await gallery.list_items("drinks", 10, "", "Fanta")).entries] == ["item-3"]
    with pytest.raises(InvalidArgumentError, match="neither"):
        await gallery.update_items("drinks", [ItemUpdate("item-3")])
    with pytest.raises(InvalidArgumentError, match="differ"):
        await gallery.update_items("drinks", [ItemUpdate("a", "b"), ItemUpdate("a", "c")])


async def test_items_of_one_picture_are_told(gallery: Gallery):
    def of(item_id: str, digest: bytes) -> NewItem:
        return NewItem(item_id, "l", vectors(1)[0], image_digest=digest)

    one, two = b"1" * 32, b"2" * 32
    first = await gallery.add("drinks", [of("a", one), of("b", two), of("c", b"")], ENCODER)
    assert first.added == (Added(replaced=False),) * 3
    again = await gallery.add("drinks", [of("a", one), of("d", one), of("e", b"")], ENCODER, skip_duplicates=True)
    assert again.added == (
        Added(replaced=True),
        Added(replaced=False, duplicate_of="a", skipped=True),
        Added(replaced=False),
    )
    allowed = await gallery.add("drinks", [of("d", one)], ENCODER)
    assert allowed.added == (Added(replaced=False, duplicate_of="a"),)
    nothing = await gallery.add("drinks", [of("f", two)], ENCODER, skip_duplicates=True)
    assert nothing.added[0].skipped
    assert (await gallery.get("drinks")).item_count == 5
    assert (await gallery.get_item("drinks", "d")).image_digest == one
    with pytest.raises(InvalidArgumentError, match="32 bytes"):
        await gallery.add("drinks", [of("g", b"short")], ENCODER)


async def test_alias_stands_for_its_gallery_and_moves_at_once(gallery: Gallery):
    await gallery.create("tea", ENCODER, DIMENSION)
    await gallery.add("tea", [NewItem("green", "tea", vectors(1)[0])], ENCODER)
    assert (await gallery.set_alias("current", "drinks")).aliases == ("current",)
    await gallery.add("current", items(3), ENCODER)
    assert (await gallery.get("current")).name == "drinks"
    assert len((await gallery.search("current", vectors(1), ENCODER, SearchOptions(5))).hits[0]) == 3
    moved = await gallery.set_alias("current", "tea")
    assert (moved.name, moved.aliases) == ("tea", ("current",))
    assert (await gallery.get("drinks")).aliases == ()
    found = await gallery.search("current", vectors(1), ENCODER, SearchOptions(5))
    assert [hit.item_id for hit in found.hits[0]] == ["green"]
    for name in ("drinks", "tea"):
        with pytest.raises(AlreadyExistsError):
            await gallery.set_alias(name, "tea")
    with pytest.raises(AlreadyExistsError):
        await gallery.create("current", ENCODER, DIMENSION)
    with pytest.raises(NotFoundError):
        await gallery.set_alias("other", "no")
    with pytest.raises(InvalidArgumentError):
        await gallery.set_alias("No Name", "tea")
    with pytest.raises(InvalidArgumentError, match="alias"):
        await gallery.delete("current")
    await gallery.delete_alias("current")
    for call in (gallery.get("current"), gallery.delete_alias("current")):
        with pytest.raises(NotFoundError, match="current"):
            await call


async def test_aliases_go_with_their_gallery(gallery: Gallery):
    await gallery.set_alias("current", "drinks")
    await gallery.delete("drinks")
    with pytest.raises(NotFoundError):
        await gallery.get("current")
    await gallery.create("current", ENCODER, DIMENSION)  # the name is free again


BRANDS = ["Cola", 'O"Neill\\', "Zoë", "new\nline", "Cola%", "", "' or 1 = 1 --"]


def holds(where: Filter, item: NewItem) -> bool:
    """Say in plain Python whether a filter lets an item through."""
    if isinstance(where, Not):
        return not holds(where.operand, item)
    if isinstance(where, (And, Or)):
        each = [holds(operand, item) for operand in where.operands]
        return all(each) if isinstance(where, And) else any(each)
    value = {"label": item.label, "id": item.id, **item.metadata}.get(where.field)
    if value is None or isinstance(where, Range):
        return value is not None and lies_between(where, value)
    return value == where.value if isinstance(where, Eq) else value in where.values


def lies_between(where: Range, value: float) -> bool:
    least = where.at_least is None or value >= where.at_least
    above = where.above is None or value > where.above
    most = where.at_most is None or value <= where.at_most
    below = where.below is None or value < where.below
    return least and above and most and below


def described_items(count: int) -> list[NewItem]:
    rows = vectors(count)
    described = []
    for i in range(count):
        metadata = {"n": i / 2, "brand": BRANDS[i % 7], "new": i % 2 == 0}
        left_out = ("n", "brand", "new", "")[i % 4] if i % 3 == 0 else ""
        described.append(
            NewItem(f"item-{i}", f"label-{i % 5}", rows[i], {k: v for k, v in metadata.items() if k != left_out})
        )
    return described


FILTERS = [
    *(Eq("brand", brand) for brand in BRANDS),
    Eq("new", True),
    Eq("new", False),
    Eq("n", 1.5),
    Eq("n", 7),
    Eq("label", "label-3"),
    Eq("id", "item-17"),
    Eq("brand", "nobody's"),
    In("brand", ("Zoë", "new\nline", "nobody's")),
    In("id", tuple(f"item-{i}" for i in range(0, 90, 4))),
    In("n", (1, 2, 2.5)),
    Range("n", at_least=10, below=20),
    Range("n", above=44),
    Range("n", at_most=-1),
    Not(Eq("brand", "Cola")),
    Not(Range("n", above=3)),
    Not(Eq("new", True)),
    And((Eq("new", True), Range("n", at_most=30), Not(Eq("label", "label-1")))),
    Or((Eq("brand", "Zoë"), And((Range("n", above=40), Not(In("label", ("label-0", "label-2"))))))),
    Not(Or((Eq("new", True), Eq("new", False)))),
]


async def test_filters_let_through_what_they_say(gallery: Gallery):
    described = described_items(90)
    await gallery.add("drinks", described, ENCODER)
    await gallery.remove("drinks", ["item-5", "item-6"])
    left = [item for item in described if item.id not in {"item-5", "item-6"}]
    queries = vectors(3, 5)
    units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    scores = {item.id: units @ (item.vector / np.linalg.norm(item.vector)) for item in left}
    for where in FILTERS:
        allowed = [item.id for item in left if holds(where, item)]
        everything = await gallery.search("drinks", queries, ENCODER, SearchOptions(100, where=where))
        best = await gallery.search("drinks", queries, ENCODER, SearchOptions(3, where=where))
        for q in range(3):
            assert {hit.item_id for hit in everything.hits[q]} == set(allowed), where
            wanted = sorted(allowed, key=lambda item_id: -scores[item_id][q])[:3]
            assert [hit.item_id for hit in best.hits[q]] == wanted, where


@pytest.mark.parametrize(
    "where",
    [
        Eq("colour", "red"),
        Eq("n", "1"),
        Eq("brand", 1),
        Eq("new", 1),
        Eq("n", True),
        In("n", ()),
        In("n", tuple(range(1001))),
        Range("brand", at_least=1),
        Range("n"),
        Range("n", at_least=float("nan")),
        And(()),
        Or(()),
        Not(Eq("label", 3)),
        And((Eq("n", 1),) * 300),
    ],
)
async def test_filter_that_makes_no_sense(gallery: Gallery, where: Filter):
    with pytest.raises(InvalidArgumentError) as caught:
        await gallery.search("drinks", vectors(1), ENCODER, SearchOptions(1, where=where))
    assert caught.value.field.partition(".")[0] == "where"


async def test_filters_see_changes_at_once(gallery: Gallery):
    await gallery.add("drinks", described_items(60), ENCODER)
    where = SearchOptions(100, where=Eq("brand", "Fanta"))
    assert (await gallery.search("drinks", vectors(1), ENCODER, where)).hits == ((),)
    await gallery.update_items("drinks", [ItemUpdate("item-9", metadata={"brand": "Fanta"})])
    assert [h.item_id for h in (await gallery.search("drinks", vectors(1), ENCODER, where)).hits[0]] == ["item-9"]
    await gallery.add("drinks", [NewItem("item-10", "l", vectors(1)[0], {"brand": "Fanta"})], ENCODER)
    found = await gallery.search("drinks", vectors(1), ENCODER, where)
    assert {hit.item_id for hit in found.hits[0]} == {"item-9", "item-10"}
    await gallery.remove("drinks", ["item-9"])
    await gallery.update_items("drinks", [ItemUpdate("item-10", metadata={})])
    assert (await gallery.search("drinks", vectors(1), ENCODER, where)).hits == ((),)


@pytest.mark.parametrize("per_label", [1, 3, 50])
async def test_hits_are_grouped_by_label(gallery: Gallery, per_label: int):
    rows = vectors(200)
    await gallery.add("drinks", [NewItem(f"i{i}", f"label-{i % 7}", rows[i]) for i in range(200)], ENCODER)
    queries = vectors(3, 3)
    result = await gallery.search("drinks", queries, ENCODER, SearchOptions(4, per_label=per_label))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for query, hits in zip(queries, result.hits, strict=True):
        order = np.argsort(-(units @ (query / np.linalg.norm(query)))).tolist()
        labels = list(dict.fromkeys(i % 7 for i in order))[:4]
        wanted = {i for label in labels for i in [j for j in order if j % 7 == label][:per_label]}
        assert [hit.item_id for hit in hits] == [f"i{i}" for i in order if i in wanted]


async def test_score_of_an_l2_gallery_is_greatest_for_a_perfect_match(gallery: Gallery):
    rows = vectors(60) * 3
    await gallery.create("raw", ENCODER, DIMENSION, GalleryOptions(Metric.L2))
    await gallery.add("raw", [NewItem(str(i), "l", row) for i, row in enumerate(rows)], ENCODER)
    queries = np.concatenate([rows[:2], vectors(2, 8)])
    result = await gallery.search("raw", queries, ENCODER, SearchOptions(10))
    for query, hits in zip(queries, result.hits, strict=True):
        scores = 1 - ((rows - query).astype(np.float64) ** 2).sum(axis=1) / 2
        order = np.argsort(-scores)[:10]
        assert [hit.item_id for hit in hits] == [str(i) for i in order]
        np.testing.assert_allclose([hit.score for hit in hits], scores[order], rtol=1e-4, atol=1e-3)
    perfect = await gallery.search("raw", rows[:1], ENCODER, SearchOptions(5, min_score=0.99))
    assert [hit.item_id for hit in perfect.hits[0]] == ["0"]
    np.testing.assert_array_equal((await gallery.get_item("raw", "7")).vector, rows[7])
    with pytest.raises(InvalidArgumentError):
        await gallery.add("raw", [NewItem("x", "l", rows[0] * np.float32(np.nan))], ENCODER)
    with pytest.raises(InvalidArgumentError):
        await gallery.search("raw", rows[:1], ENCODER, SearchOptions(1, min_score=1.5))


async def test_l2_of_unit_vectors_scores_as_the_inner_product(gallery: Gallery):
    rows = vectors(50) / np.linalg.norm(vectors(50), axis=1, keepdims=True)
    for name, metric in (("ip", Metric.INNER_PRODUCT), ("l2", Metric.L2)):
        await gallery.create(name, ENCODER, DIMENSION, GalleryOptions(metric))
        await gallery.add(name, [NewItem(str(i), "l", row) for i, row in enumerate(rows)], ENCODER)
    query = vectors(1, 9) / np.linalg.norm(vectors(1, 9))
    by_ip = (await gallery.search("ip", query, ENCODER, SearchOptions(20))).hits[0]
    by_l2 = (await gallery.search("l2", query, ENCODER, SearchOptions(20))).hits[0]
    assert [hit.item_id for hit in by_ip] == [hit.item_id for hit in by_l2]
    np.testing.assert_allclose([hit.score for hit in by_ip], [hit.score for hit in by_l2], atol=1e-5)


async def test_generation_that_is_not_there(gallery: Gallery):
    info = await gallery.get("drinks")
    options = SearchOptions(1, generation=info.state.generation)
    assert (await gallery.search("drinks", vectors(1), ENCODER, options)).state.generation == info.state.generation
    with pytest.raises(UnavailableError, match="made anew"):
        await gallery.search("drinks", vectors(1), ENCODER, SearchOptions(1, generation=10**6))
