"""GalleryService as a client with the generated stubs sees it: status codes, typed details, defaults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from shitu.v1 import gallery_pb2 as pb
from shitu.v1 import gallery_pb2_grpc
from shitu_server.gallery.embedded import EmbeddedGallery
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.rpc.galleries import GalleryServicer
from shitu_server.rpc.interceptors import ErrorInterceptor
from shitu_server.rpc.item_sources import VectorItems
from shitu_server.wire.galleries import struct_message, vector_message
from shitu_server.wire.statuses import DETAILS_KEY

ENCODER = "encoder-1"
ROWS = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)


@asynccontextmanager
async def serving(
    tmp_path: Path, limits: GalleryLimits | None = None, *, all_or_nothing: bool = False
) -> AsyncIterator[gallery_pb2_grpc.GalleryServiceStub]:
    gallery = await EmbeddedGallery.open(tmp_path / "data")
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    servicer = GalleryServicer(gallery, VectorItems(all_or_nothing=all_or_nothing), limits)
    gallery_pb2_grpc.add_GalleryServiceServicer_to_server(servicer, server)
    address = f"unix:{tmp_path}/service.sock"
    server.add_insecure_port(address)
    await server.start()
    options = (("grpc.max_receive_message_length", 64 << 20),)
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        connected = gallery_pb2_grpc.GalleryServiceStub(channel)
        await connected.CreateGallery(pb.CreateGalleryRequest(name="g", encoder_fingerprint=ENCODER, dimension=8))
        yield connected
    await server.stop(None)
    await gallery.close()


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[gallery_pb2_grpc.GalleryServiceStub]:
    async with serving(tmp_path) as connected:
        yield connected


@pytest.fixture
async def strict_stub(tmp_path: Path) -> AsyncIterator[gallery_pb2_grpc.GalleryServiceStub]:
    """As the gallery process itself: a bad item fails the call."""
    async with serving(tmp_path, all_or_nothing=True) as connected:
        yield connected


def item(item_id: str, row: int = 0, **fields) -> pb.NewItem:
    return pb.NewItem(**{"id": item_id, "label": "label", "vector": vector_message(ROWS[row]), **fields})


def add_request(*items: pb.NewItem, **fields) -> pb.AddItemsRequest:
    return pb.AddItemsRequest(**{"gallery": "g", "items": items, "encoder_fingerprint": ENCODER, **fields})


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    return next(status_pb2.Status.FromString(value) for key, value in error.trailing_metadata() if key == DETAILS_KEY)


def details_of(status: status_pb2.Status) -> dict[str, object]:
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.ResourceInfo)
    return {kind.__name__: found for detail in status.details for kind in kinds if detail.Unpack(found := kind())}


def search_request(query_count: int, **fields) -> pb.SearchRequest:
    queries = [pb.Query(vector=vector_message(ROWS[i % 20])) for i in range(query_count)]
    return pb.SearchRequest(**{"gallery": "g", "queries": queries, "encoder_fingerprint": ENCODER, **fields})


async def _search(stub: gallery_pb2_grpc.GalleryServiceStub, request: pb.SearchRequest) -> pb.SearchResponse:
    return await stub.Search(request)


async def failure(call: grpc.aio.UnaryUnaryCall) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_bad_items_fail_alone(stub):
    nan = ROWS[2].copy()
    nan[0] = np.nan
    request = add_request(
        item("good"),
        item("nan", vector=vector_message(nan)),
        item("short", vector=vector_message(ROWS[0][:5])),
        pb.NewItem(id="picture", label="label", image=b"jpeg"),
        item(""),
        item("good", 3),
        item("also good", 4, image=b"jpeg"),
    )
    reply = await stub.AddItems(request)
    assert [result.id for result in reply.results] == ["good", "nan", "short", "picture", "", "good", "also good"]
    outcomes = [result.WhichOneof("outcome") for result in reply.results]
    assert outcomes == ["added", "error", "error", "error", "error", "error", "added"]
    codes = [result.error.code for result in reply.results]
    assert codes == [0, 3, 9, 3, 3, 3, 0]  # INVALID_ARGUMENT and FAILED_PRECONDITION
    fields = [details_of(reply.results[i].error)["BadRequest"].field_violations[0].field for i in (1, 3, 4, 5)]
    assert fields == ["items[1].vector", "items[3].vector", "items[4].id", "items[5].id"]
    listed = await stub.ListItems(pb.ListItemsRequest(gallery="g"))
    assert [listed_item.id for listed_item in listed.items] == ["good", "also good"]
    stored = await stub.GetItem(pb.GetItemRequest(gallery="g", id="also good"))
    assert stored.item.thumbnail == b"jpeg"
    assert stored.item.vector.dimension == 8


async def test_nothing_is_written_where_all_items_are_bad(stub):
    before = (await stub.GetGallery(pb.GetGalleryRequest(name="g"))).gallery.state
    reply = await stub.AddItems(add_request(item("")))
    assert reply.state == before
    assert reply.results[0].error.code == 3


async def test_search_defaults(stub):
    await stub.AddItems(add_request(*(item(str(i), i) for i in range(20))))
    query = pb.Query(vector=vector_message(ROWS[3]))
    reply = await stub.Search(pb.SearchRequest(gallery="g", queries=[query], encoder_fingerprint=ENCODER))
    assert len(reply.results[0].matches) == 5
    assert reply.results[0].matches[0].item_id == "3"
    close = pb.SearchRequest(gallery="g", queries=[query], encoder_fingerprint=ENCODER, top_k=20, match_threshold=0.999)
    assert [match.item_id for match in (await stub.Search(close)).results[0].matches] == ["3"]


@pytest.mark.parametrize(
    ("method", "request_", "code", "field"),
    [
        ("CreateGallery", pb.CreateGalleryRequest(name="h"), "INVALID_ARGUMENT", "encoder_fingerprint"),
        ("CreateGallery", pb.CreateGalleryRequest(name="h", dimension=3), "INVALID_ARGUMENT", "encoder_fingerprint"),
        ("CreateGallery", pb.CreateGalleryRequest(name="h", encoder_fingerprint="e"), "INVALID_ARGUMENT", "dimension"),
        ("AddItems", add_request(item("a"), encoder_fingerprint=""), "INVALID_ARGUMENT", "encoder_fingerprint"),
        ("AddItems", add_request(), "INVALID_ARGUMENT", "items"),
        ("AddItems", add_request(*[item("a")] * 257), "INVALID_ARGUMENT", "items"),
        ("Search", pb.SearchRequest(gallery="g", encoder_fingerprint=ENCODER), "INVALID_ARGUMENT", "queries"),
        (
            "Search",
            pb.SearchRequest(gallery="g", queries=[pb.Query(image=b"jpeg")], encoder_fingerprint=ENCODER),
            "INVALID_ARGUMENT",
            "queries[0]",
        ),
        (
            "Search",
            pb.SearchRequest(
                gallery="g", queries=[pb.Query(vector=vector_message(ROWS[0]))], encoder_fingerprint=ENCODER, top_k=0
            ),
            "INVALID_ARGUMENT",
            "top_k",
        ),
        ("Search", search_request(65), "INVALID_ARGUMENT", "queries"),
        ("Search", search_request(1, top_k=1001), "INVALID_ARGUMENT", "top_k"),
        ("Search", search_request(64, top_k=101), "INVALID_ARGUMENT", "top_k"),
        ("ListItems", pb.ListItemsRequest(gallery="g", page_size=-1), "INVALID_ARGUMENT", "page_size"),
        ("ListItems", pb.ListItemsRequest(gallery="g", page_token="9" * 30), "INVALID_ARGUMENT", "page_token"),
    ],
)
async def test_wrong_field_is_named(stub, method: str, request_, code: str, field: str):
    error = await failure(getattr(stub, method)(request_))
    assert error.code().name == code
    details = details_of(status_of(error))
    assert details["BadRequest"].field_violations[0].field == field
    assert details["ErrorInfo"].domain == "shitu.v1"


LONG = {"plain": "x" * 20_000, "wide": "\U0001f600" * 5000, "unprintable": "\x01" * 20_000}


@pytest.mark.parametrize("long", LONG.values(), ids=LONG)
@pytest.mark.parametrize(
    ("method", "code", "request_of"),
    [
        ("AddItems", "FAILED_PRECONDITION", lambda text: add_request(item("a"), encoder_fingerprint=text)),
        ("AddItems", "INVALID_ARGUMENT", lambda text: add_request(item(text))),
        ("AddItems", "INVALID_ARGUMENT", lambda text: add_request(item("a", label=text))),
        ("AddItems", "INVALID_ARGUMENT", lambda text: add_request(item("a", metadata=struct_message({text: text})))),
        ("AddItems", "NOT_FOUND", lambda text: add_request(item("a"), gallery=text)),
        ("Search", "FAILED_PRECONDITION", lambda text: search_request(1, encoder_fingerprint=text)),
        ("Search", "NOT_FOUND", lambda text: search_request(1, gallery=text)),
        ("GetItem", "INVALID_ARGUMENT", lambda text: pb.GetItemRequest(gallery="g", id=text)),
        ("GetItem", "NOT_FOUND", lambda text: pb.GetItemRequest(gallery="g", id=text[:256])),
        ("RemoveItems", "INVALID_ARGUMENT", lambda text: pb.RemoveItemsRequest(gallery="g", ids=[text])),
        ("ListItems", "INVALID_ARGUMENT", lambda text: pb.ListItemsRequest(gallery="g", page_token=text)),
        ("ListGalleries", "INVALID_ARGUMENT", lambda text: pb.ListGalleriesRequest(page_token=text)),
        (
            "CreateGallery",
            "INVALID_ARGUMENT",
            lambda text: pb.CreateGalleryRequest(name="h", encoder_fingerprint=text, dimension=8),
        ),
        (
            "CreateGallery",
            "INVALID_ARGUMENT",
            lambda text: pb.CreateGalleryRequest(name=text, encoder_fingerprint="e", dimension=8),
        ),
    ],
)
async def test_long_text_is_cut_in_errors(strict_stub, method: str, code: str, request_of, long: str):
    """Trailers over 8 KiB would be dropped by the transport, and the reason with them."""
    error = await failure(getattr(strict_stub, method)(request_of(long)))
    assert error.code().name == code, error.details()
    status = status_of(error)
    assert status.code == error.code().value[0]
    assert details_of(status)["ErrorInfo"].domain == "shitu.v1"
    assert len(status.SerializeToString()) < 4096


async def test_long_text_of_one_item_fails_it_alone(stub):
    long = "x" * 20_000
    reply = await stub.AddItems(add_request(item(long), item("a", label=long), item("b"), item("b"), item(long, 2)))
    assert [result.error.code for result in reply.results] == [3, 3, 0, 3, 3]
    assert all(len(result.error.SerializeToString()) < 1024 for result in reply.results)


async def test_reply_is_small_however_long_the_ids(stub):
    reply = await stub.AddItems(add_request(*(item("x" * 14_000 + str(i)) for i in range(256))))
    assert {result.error.code for result in reply.results} == {3}
    assert reply.ByteSize() < 256 * 1024


async def test_top_k_of_the_servers_own_limits(tmp_path: Path):
    async with serving(tmp_path, GalleryLimits(top_k=3)) as stub:
        await stub.AddItems(add_request(*(item(str(i), i) for i in range(20))))
        assert len((await stub.Search(search_request(1))).results[0].matches) == 3  # and not the 5 of the default
        error = await failure(stub.Search(search_request(1, top_k=4)))
        assert details_of(status_of(error))["BadRequest"].field_violations[0].field == "top_k"


async def test_search_of_much_metadata_leaves_the_event_loop_its_turn(tmp_path: Path):
    """6400 hits of 16 KiB would fill a message of over 64 MiB and take 15 s to build."""
    metadata = {f"key {i}": i for i in range(1000)}
    async with serving(tmp_path) as stub:
        message = item("", metadata=struct_message(metadata))
        for i in range(100):
            message.id = str(i)
            await stub.AddItems(add_request(message))
        error = await failure(stub.Search(search_request(64, top_k=100)))
        assert details_of(status_of(error))["BadRequest"].field_violations[0].field == "top_k"
        searching = asyncio.ensure_future(_search(stub, search_request(4, top_k=100)))
        longest_s, last_s = 0.0, time.monotonic()
        while not searching.done():
            await asyncio.sleep(0.005)
            longest_s, last_s = max(longest_s, time.monotonic() - last_s), time.monotonic()
        assert sum(len(result.matches) for result in searching.result().results) == 400
        assert longest_s < 0.4  # 0.7 s in the event loop


@pytest.mark.parametrize(
    ("method", "request_", "code", "resource"),
    [
        ("GetGallery", pb.GetGalleryRequest(name="no"), "NOT_FOUND", ("gallery", "no")),
        ("AddItems", add_request(item("a"), gallery="no"), "NOT_FOUND", ("gallery", "no")),
        ("GetGallery", pb.GetGalleryRequest(name="x" * 100_000), "NOT_FOUND", ("gallery", "x" * 80)),
        ("GetItem", pb.GetItemRequest(gallery="g", id="no"), "NOT_FOUND", ("item", "no")),
        (
            "CreateGallery",
            pb.CreateGalleryRequest(name="g", encoder_fingerprint=ENCODER, dimension=8),
            "ALREADY_EXISTS",
            ("gallery", "g"),
        ),
    ],
)
async def test_resource_is_named(stub, method: str, request_, code: str, resource: tuple[str, str]):
    error = await failure(getattr(stub, method)(request_))
    assert error.code().name == code
    named = details_of(status_of(error))["ResourceInfo"]
    assert (named.resource_type, named.resource_name) == resource


async def test_other_encoder_fails_the_precondition(stub):
    error = await failure(stub.AddItems(add_request(item("a"), encoder_fingerprint="other")))
    assert error.code().name == "FAILED_PRECONDITION"
    assert details_of(status_of(error))["ErrorInfo"].reason == "ENCODER_MISMATCH"
