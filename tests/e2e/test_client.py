"""AsyncClient and Client against a running server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
from tests.drawn import product_picture, products, scene, scene_picture

from shitu_client import (
    AlreadyExistsError,
    AsyncClient,
    Box,
    Client,
    FailedPreconditionError,
    InvalidArgumentError,
    ItemUpdate,
    NewItem,
    NotFoundError,
    Recognition,
    UnavailableError,
    field,
)
from shitu_client.digests import image_digest


@pytest.fixture
def client(server) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture
def gallery(client) -> Iterator[str]:
    name = f"c-{uuid.uuid4().hex[:8]}"
    client.create_gallery(name)
    items = [
        NewItem(f"{index}/{view}", products()[index].label, product_picture(index, view), metadata={"shelf": index})
        for index in range(len(products()))
        for view in range(2)
    ]
    assert client.add_items(name, items).failures == ()
    yield name
    client.delete_gallery(name)


def test_the_whole_way(client, gallery, tmp_path):
    path = tmp_path / "product.jpg"
    path.write_bytes(product_picture(1, 1))
    result = client.recognize(path, gallery, skip_detection=True)
    (found,) = result.objects
    assert found.label == products()[1].label
    assert found.source == "whole_image"
    assert found.matches[0].item_id == "1/1"
    assert found.matches[0].metadata == {"shelf": 1.0}
    assert found.unknown_reason == ""
    assert result.timings_us["total_us"] > 0
    assert '"item_id": "1/1"' in result.to_json()


def test_boxes_of_the_caller(client, gallery):
    boxes = [Box(*(float(value) for value in row)) for row in scene().boxes]
    result = client.recognize(scene_picture(), gallery, boxes=boxes)
    assert [found.source for found in result.objects] == ["requested"] * len(boxes)


def test_detect_and_embed(client):
    detection = client.detect(scene_picture(), detection_threshold=0.1)
    assert (detection.width, detection.height) == (640, 480)
    embedding = client.embed(scene_picture(), boxes=[box for box, _ in detection.objects])
    assert len(embedding.vectors) == len(detection.objects)
    np.testing.assert_allclose(np.linalg.norm(embedding.vectors, axis=1), 1, atol=1e-4)


def test_items_and_galleries(client, gallery):
    info = client.get_gallery(gallery)
    assert info.item_count == 2 * len(products())
    assert info in client.list_galleries()
    page = client.list_items(gallery, page_size=3)
    assert [item.id for item in page.items] == ["0/0", "0/1", "1/0"]
    item = client.get_item(gallery, "0/1")
    assert item.vector is not None
    assert item.thumbnail
    (best, *_) = client.search(gallery, item.vector, encoder_fingerprint=info.encoder_fingerprint, top_k=1)
    assert best.item_id == "0/1"
    assert client.search(gallery, product_picture(0, 1), top_k=1)[0].item_id == "0/1"
    assert client.remove_items(gallery, ["0/1", "nothing"]) == ["0/1"]


def test_errors_are_of_one_tree(client, gallery):
    with pytest.raises(NotFoundError):
        client.get_gallery("nowhere")
    with pytest.raises(AlreadyExistsError):
        client.create_gallery(gallery)
    with pytest.raises(InvalidArgumentError, match="JPEG, PNG, WebP or BMP") as caught:
        client.recognize(b"no picture", gallery)
    assert (caught.value.field, caught.value.reason) == ("image", "INVALID_IMAGE")
    with pytest.raises(FailedPreconditionError):
        client.add_items(gallery, [NewItem("x", "a", vector=[1.0, 2.0])], encoder_fingerprint="another")


def test_a_refused_item_is_named_and_the_others_are_stored(client, gallery):
    added = client.add_items(gallery, [NewItem("good", "a", product_picture(0)), NewItem("bad", "a", b"nothing")])
    assert added.added_ids == ("good",)
    (failure,) = added.failures
    assert failure.id == "bad"
    assert failure.error.field == "items[1].image"
    assert client.get_item(gallery, "good").label == "a"


def test_a_batch_keeps_its_order(client, gallery):
    first, second, third = client.recognize_batch([scene_picture(0), b"broken", scene_picture(1)], gallery)
    assert isinstance(first, Recognition)
    assert isinstance(second, InvalidArgumentError)
    assert isinstance(third, Recognition)


@pytest.fixture
def drinks(client) -> Iterator[str]:
    """Items of three labels with metadata that filters may name."""
    name = f"d-{uuid.uuid4().hex[:8]}"
    client.create_gallery(name, fields={"brand": "string", "price": "number", "sold": "boolean"})
    items = [
        NewItem(f"{index}/{view}", f"label {index}", product_picture(index, view), metadata=metadata)
        for index, metadata in enumerate(({"brand": "cola", "price": 2}, {"brand": "42", "price": 3.5}, {"sold": True}))
        for view in range(2)
    ]
    assert client.add_items(name, items).added_ids == tuple(item.id for item in items)
    yield name
    client.delete_gallery(name)


def ids(matches) -> set[str]:
    return {match.item_id for match in matches}


def test_a_gallery_with_its_options(client):
    name = f"o-{uuid.uuid4().hex[:8]}"
    made = client.create_gallery(name, metric="l2", index="flat", fields={"price": "number", "brand": "string"})
    try:
        assert (made.metric, made.index_kind, made.index.kind) == ("l2", "flat", "flat")
        assert made.fields == {"price": "number", "brand": "string"}
        assert (made.aliases, made.previous_generation, made.item_count) == ((), 0, 0)
        assert made.create_time is not None
        assert client.get_gallery(name) == made
    finally:
        client.delete_gallery(name)
    for wrong in ({"metric": "hamming"}, {"index": "lsh"}, {"fields": {"a": "text"}}, {"fields": {"label": "string"}}):
        with pytest.raises(InvalidArgumentError):
            client.create_gallery(name, **wrong)
    assert name not in {info.name for info in client.list_galleries()}


def test_filters(client, drinks):
    everything = {f"{index}/{view}" for index in range(3) for view in range(2)}
    for condition, expected in {
        None: everything,
        field("brand") == "cola": {"0/0", "0/1"},
        field("brand") != "cola": {"1/0", "1/1", "2/0", "2/1"},
        field("brand") == "42": {"1/0", "1/1"},
        field("price") > 2: {"1/0", "1/1"},
        field("price").between(2, 3): {"0/0", "0/1"},
        field("sold") == True: {"2/0", "2/1"},  # noqa: E712
        field("label").is_in(["label 0", "label 2"]) & (field("id") != "0/0"): {"0/1", "2/0", "2/1"},
        (field("price") < 3) | (field("sold") == True): {"0/0", "0/1", "2/0", "2/1"},  # noqa: E712
        (field("price") > 2) & (field("brand") == "cola"): set(),
    }.items():
        assert ids(client.search(drinks, product_picture(0), top_k=10, where=condition)) == expected, condition
    with pytest.raises(InvalidArgumentError, match="colour"):
        client.search(drinks, product_picture(0), where=field("colour") == "red")
    with pytest.raises(InvalidArgumentError, match="price"):
        client.search(drinks, product_picture(0), where=field("price") == "two")


def test_filters_of_recognition(client, drinks):
    picture, where = product_picture(0), field("brand") != "cola"
    one = client.recognize(picture, drinks, skip_detection=True, where=where, match_threshold=-1.0)
    (batched,) = client.recognize_batch([picture], drinks, skip_detection=True, where=where, match_threshold=-1.0)
    assert isinstance(batched, Recognition)
    for result in (one, batched):
        assert ids(result.objects[0].matches) == {"1/0", "1/1", "2/0", "2/1"}
    grouped = client.recognize(picture, drinks, skip_detection=True, matches_per_label=1, match_threshold=-1.0)
    assert sorted(match.label for match in grouped.objects[0].matches) == ["label 0", "label 1", "label 2"]


async def test_filters_of_a_stream(server, drinks):
    async def pictures():
        yield "a", product_picture(0)

    async with AsyncClient(server.address) as client:
        options = {"skip_detection": True, "where": field("price") > 2, "match_threshold": -1.0}
        async for _, result in client.recognize_stream(pictures(), drinks, **options):
            assert isinstance(result, Recognition)
            assert ids(result.objects[0].matches) == {"1/0", "1/1"}


def test_matches_of_each_label_and_of_an_item(client, drinks):
    grouped = client.search(drinks, product_picture(0), top_k=2, matches_per_label=1)
    assert len({match.label for match in grouped}) == len(grouped) == 2
    like = client.search(drinks, item_id="0/0", top_k=10)
    assert "0/0" not in ids(like)
    assert like[0].item_id == "0/1"
    assert len(like) == 5
    with pytest.raises(NotFoundError):
        client.search(drinks, item_id="nothing")
    for wrong in ({}, {"query": product_picture(0), "item_id": "0/0"}):
        with pytest.raises(InvalidArgumentError, match="expected a picture or a vector, or item_id"):
            client.search(drinks, **wrong)


def test_updates(client, drinks):
    before = client.get_item(drinks, "0/0")
    changes = [
        ItemUpdate("0/0", label="renamed"),
        ItemUpdate("0/1", metadata={"price": 9}),
        ItemUpdate("1/0", metadata={}),
        ItemUpdate("nothing", label="x"),
    ]
    assert client.update_items(drinks, changes) == ["0/0", "0/1", "1/0"]
    after = client.get_item(drinks, "0/0")
    assert (after.label, after.metadata) == ("renamed", {"brand": "cola", "price": 2.0})
    assert after.sequence > before.sequence
    assert after.image_digest == before.image_digest
    np.testing.assert_array_equal(after.vector, before.vector)
    assert client.get_item(drinks, "0/1").label == "label 0"
    assert client.get_item(drinks, "1/0").metadata == {}
    assert ids(client.search(drinks, product_picture(0), where=field("price") > 5)) == {"0/1"}
    assert ids(client.search(drinks, product_picture(0), where=field("label") == "renamed")) == {"0/0"}
    with pytest.raises(InvalidArgumentError, match="price"):
        client.update_items(drinks, [ItemUpdate("0/0", metadata={"price": "dear"})])


def test_duplicates_and_replacements(client, drinks):
    again, copy = NewItem("0/0", "label 0", product_picture(0)), NewItem("copy", "label 0", product_picture(0))
    kept = client.add_items(drinks, [again, copy], skip_duplicates=True)
    assert (kept.added_ids, kept.replaced_ids, kept.failures) == ((), ("0/0",), ())
    assert [(one.id, one.of_id, one.skipped) for one in kept.duplicates] == [("copy", "0/0", True)]
    assert kept.stored_count == 1
    with pytest.raises(NotFoundError):
        client.get_item(drinks, "copy")
    stored = client.add_items(drinks, [copy])
    assert (stored.added_ids, [(one.id, one.of_id, one.skipped) for one in stored.duplicates]) == (
        ("copy",),
        [("copy", "0/0", False)],
    )


def test_parts_of_pictures_and_their_digests(client, drinks):
    picture, box = scene_picture(), Box(*(float(value) for value in scene().boxes[0]))
    items = [
        NewItem("whole", "a", picture),
        NewItem("boxed", "a", picture, box=box),
        NewItem("detected", "a", picture, detect=True),
        NewItem("vector", "a", vector=np.ones(client.get_gallery(drinks).dimension)),
        NewItem("both", "a", picture, box=box, detect=True),
    ]
    fingerprint = client.get_gallery(drinks).encoder_fingerprint
    outcome = client.add_items(drinks, items, encoder_fingerprint=fingerprint)
    assert outcome.added_ids == ("whole", "boxed", "detected", "vector")
    assert [failure.id for failure in outcome.failures] == ["both"]
    stored = {item.id: item.image_digest for item in client.iterate_items(drinks)}
    assert stored["whole"] == image_digest(picture)
    assert stored["boxed"] == image_digest(picture, box=box)
    assert stored["detected"] == image_digest(picture, detect=True)
    assert stored["vector"] == b""
    assert len(stored) == 10


def test_aliases(client, drinks, gallery):
    alias = f"alias-{uuid.uuid4().hex[:8]}"
    assert client.set_alias(alias, drinks).aliases == (alias,)
    assert client.get_gallery(alias).name == drinks
    assert client.search(alias, product_picture(0), top_k=1)[0].label == "label 0"
    assert client.set_alias(alias, gallery).name == gallery
    assert client.get_gallery(drinks).aliases == ()
    assert client.search(alias, product_picture(0), top_k=1)[0].label == products()[0].label
    client.delete_alias(alias)
    with pytest.raises(NotFoundError):
        client.get_gallery(alias)
    with pytest.raises(NotFoundError):
        client.delete_alias(alias)
    with pytest.raises(AlreadyExistsError):
        client.set_alias(gallery, drinks)


def test_a_snapshot_and_its_restore(client, drinks, tmp_path):
    name, told = f"r-{uuid.uuid4().hex[:8]}", []
    size = client.snapshot_gallery(drinks, tmp_path / "drinks.snap", progress=told.append)
    assert size == told[-1] == (tmp_path / "drinks.snap").stat().st_size
    restored = client.restore_gallery(name, tmp_path / "drinks.snap")
    try:
        info = client.get_gallery(drinks)
        assert (restored.name, restored.item_count, restored.fields) == (name, 6, info.fields)
        for item in client.iterate_items(drinks):
            mine, theirs = client.get_item(drinks, item.id), client.get_item(name, item.id)
            assert (mine.label, mine.metadata, mine.thumbnail) == (theirs.label, theirs.metadata, theirs.thumbnail)
            assert mine.image_digest == theirs.image_digest
            np.testing.assert_array_equal(mine.vector, theirs.vector)
        where = field("price") > 2
        assert client.search(name, product_picture(0), where=where) == client.search(
            drinks, product_picture(0), where=where
        )
        with pytest.raises(AlreadyExistsError):
            client.restore_gallery(name, tmp_path / "drinks.snap")
    finally:
        client.delete_gallery(name)


def test_a_damaged_snapshot_makes_no_gallery(client, drinks, tmp_path):
    client.snapshot_gallery(drinks, tmp_path / "whole.snap")
    content = (tmp_path / "whole.snap").read_bytes()
    middle = len(content) // 2
    for damaged in (b"", content[:middle], content[:middle] + b"\0" + content[middle + 1 :], b"no snapshot at all"):
        (tmp_path / "damaged.snap").write_bytes(damaged)
        with pytest.raises(InvalidArgumentError):
            client.restore_gallery("damaged", tmp_path / "damaged.snap")
        with pytest.raises(NotFoundError):
            client.get_gallery("damaged")


def test_what_the_backend_promises(client):
    said = client.capabilities()
    assert said.backend == "embedded"
    assert said.snapshots
    assert said.reembedding
    assert {"flat", "hnsw", "ivf"} <= set(said.index_kinds)


async def test_a_stream(server):
    async def pictures():
        for index in range(6):
            yield str(index), product_picture(index)

    async with AsyncClient(server.address) as client:
        await client.create_gallery("stream")
        try:
            answered = {name: result async for name, result in client.recognize_stream(pictures(), "stream")}
        finally:
            await client.delete_gallery("stream")
    assert set(answered) == {str(index) for index in range(6)}
    assert all(isinstance(result, Recognition) for result in answered.values())


async def test_a_stream_that_is_left_takes_no_more_pictures(server):
    waiting: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def pictures():
        while True:
            yield await waiting.get()

    async with AsyncClient(server.address) as client:
        await client.create_gallery("left")
        try:
            waiting.put_nowait(("0", product_picture(0)))
            stream = client.recognize_stream(pictures(), "left")
            assert (await stream.__anext__())[0] == "0"
            await stream.aclose()
            waiting.put_nowait(("1", product_picture(1)))
            await asyncio.sleep(0.3)
        finally:
            await client.delete_gallery("left")
    assert waiting.qsize() == 1


async def test_what_the_pictures_raise_is_raised_to_the_caller(server, tmp_path):
    async def pictures():
        yield "there", product_picture(0)
        yield "not there", tmp_path / "missing.jpg"

    async with AsyncClient(server.address) as client:
        await client.create_gallery("faulty")
        try:
            answered = []
            with pytest.raises(FileNotFoundError):  # noqa: PT012
                async for name, _ in client.recognize_stream(pictures(), "faulty"):
                    answered.append(name)
        finally:
            await client.delete_gallery("faulty")
    assert answered == ["there"]


def test_nobody_there_is_said_within_the_timeout():
    with Client("127.0.0.1:9", timeout_s=2.0) as client, pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        client.list_galleries()
