"""AsyncClient and Client against a running server."""

from __future__ import annotations

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
    NewItem,
    NotFoundError,
    Recognition,
    UnavailableError,
)


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
    assert client.add_items(name, items) == []
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
    (failure,) = client.add_items(gallery, [NewItem("good", "a", product_picture(0)), NewItem("bad", "a", b"nothing")])
    assert failure.id == "bad"
    assert failure.error.field == "items[1].image"
    assert client.get_item(gallery, "good").label == "a"


def test_a_batch_keeps_its_order(client, gallery):
    first, second, third = client.recognize_batch([scene_picture(0), b"broken", scene_picture(1)], gallery)
    assert isinstance(first, Recognition)
    assert isinstance(second, InvalidArgumentError)
    assert isinstance(third, Recognition)


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
