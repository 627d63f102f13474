"""GalleryService's further methods as a client with the generated stubs sees them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from tests.contract.test_gallery_service import ENCODER, ROWS, add_request, details_of, failure, item, status_of, stub

from shitu.v1 import gallery_pb2 as pb
from shitu.v1 import types_pb2
from shitu_server.wire.galleries import struct_message, vector_message

__all__ = ["stub"]


def query(row: int) -> pb.Query:
    return pb.Query(vector=vector_message(ROWS[row]))


def search(*queries: pb.Query, **fields) -> pb.SearchRequest:
    return pb.SearchRequest(**{"gallery": "g", "queries": queries, **fields})


def filter_of(**tree: object) -> types_pb2.Filter:
    return json_format.ParseDict(tree, types_pb2.Filter())


def field_of(error: grpc.aio.AioRpcError) -> str:
    bad = details_of(status_of(error))["BadRequest"]
    return bad.field_violations[0].field


@pytest.fixture
async def filled(stub):
    """Twenty items of four labels in a gallery that declares a number."""
    await stub.DeleteGallery(pb.DeleteGalleryRequest(name="g"))
    fields = [pb.MetadataField(name="n", type=pb.FIELD_TYPE_NUMBER)]
    request = pb.CreateGalleryRequest(
        name="g", encoder_fingerprint=ENCODER, dimension=8, fields=fields, index_kind=pb.INDEX_KIND_HNSW
    )
    created = (await stub.CreateGallery(request)).gallery
    assert (created.metric, created.index_kind) == (pb.METRIC_INNER_PRODUCT, pb.INDEX_KIND_HNSW)
    assert list(created.fields) == fields
    assert (created.index.kind, created.index.building) == (pb.INDEX_KIND_FLAT, False)
    items = [item(str(i), i, label=f"label {i % 4}", metadata=struct_message({"n": i})) for i in range(20)]
    await stub.AddItems(add_request(*items))
    return stub


async def test_search_with_an_item_finds_the_others(filled):
    by_vector = (await filled.Search(search(query(3), encoder_fingerprint=ENCODER, top_k=6))).results[0].matches
    reply = await filled.Search(search(pb.Query(item_id="3"), top_k=5))
    assert [match.item_id for match in reply.results[0].matches] == [m.item_id for m in by_vector if m.item_id != "3"]
    mixed = await filled.Search(search(pb.Query(item_id="3"), query(3), encoder_fingerprint=ENCODER, top_k=5))
    assert mixed.results[0] == reply.results[0]
    assert [match.item_id for match in mixed.results[1].matches] == [m.item_id for m in by_vector][:5]
    error = await failure(filled.Search(search(pb.Query(item_id="no"))))
    assert (error.code(), details_of(status_of(error))["ResourceInfo"].resource_type) == (
        grpc.StatusCode.NOT_FOUND,
        "item",
    )


async def test_search_with_an_item_groups_without_it(filled):
    reply = await filled.Search(search(pb.Query(item_id="3"), top_k=2, matches_per_label=2))
    matches = reply.results[0].matches
    assert "3" not in {match.item_id for match in matches}
    labels = [match.label for match in matches]
    assert len(set(labels)) == 2
    assert max(labels.count(label) for label in labels) == 2


async def test_filters_and_groups_come_through(filled):
    where = filter_of(
        all_of={
            "filters": [
                {"range": {"field": "n", "at_least": 4}},
                {"negation": {"equals": {"field": "label", "value": {"string": "label 1"}}}},
            ]
        }
    )
    reply = await filled.Search(search(query(0), encoder_fingerprint=ENCODER, top_k=20, where=where))
    assert {match.item_id for match in reply.results[0].matches} == {str(i) for i in range(4, 20) if i % 4 != 1}
    grouped = await filled.Search(search(query(0), encoder_fingerprint=ENCODER, top_k=3, matches_per_label=1))
    assert len({match.label for match in grouped.results[0].matches}) == 3 == len(grouped.results[0].matches)


@pytest.mark.parametrize(
    ("tree", "field"),
    [
        ({}, "where"),
        ({"equals": {"field": "n"}}, "where.equals.value"),
        ({"all_of": {"filters": [{}]}}, "where.all_of.filters[0]"),
        ({"is_in": {"field": "n", "values": [{"number": 1}, {}]}}, "where.is_in.values[1]"),
        ({"equals": {"field": "colour", "value": {"string": "red"}}}, "where"),
    ],
)
async def test_filter_that_is_none(filled, tree: dict, field: str):
    request = search(query(0), encoder_fingerprint=ENCODER, where=filter_of(**tree))
    error = await failure(filled.Search(request))
    assert (error.code(), field_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_filter_that_is_nested_too_deeply(filled):
    where = filter_of(equals={"field": "n", "value": {"number": 1}})
    for _ in range(20):
        where = types_pb2.Filter(negation=where)
    error = await failure(filled.Search(search(query(0), encoder_fingerprint=ENCODER, where=where)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "deep" in error.details()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"matches_per_label": -1}, "matches_per_label"),
        ({"matches_per_label": 2000, "top_k": 20}, "top_k"),
        ({"match_threshold": 2}, "match_threshold"),
        ({"match_threshold": -2}, "match_threshold"),
    ],
)
async def test_search_that_asks_for_what_cannot_be(filled, fields: dict, field: str):
    error = await failure(filled.Search(search(query(0), encoder_fingerprint=ENCODER, **fields)))
    assert (error.code(), field_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, field)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"metric": 9}, "metric"),
        ({"index_kind": 9}, "index_kind"),
        ({"fields": [pb.MetadataField(name="a")]}, "fields[0].type"),
        ({"fields": [pb.MetadataField(name="a", type=1), pb.MetadataField(name="a", type=2)]}, "fields[1].name"),
        ({"fields": [pb.MetadataField(name="id", type=1)]}, "fields"),
        ({"fields": [pb.MetadataField(name=f"f{i}", type=1) for i in range(33)]}, "fields"),
    ],
)
async def test_gallery_that_cannot_be_made(stub, fields: dict, field: str):
    request = pb.CreateGalleryRequest(name="h", encoder_fingerprint=ENCODER, dimension=8, **fields)
    error = await failure(stub.CreateGallery(request))
    assert (error.code(), field_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_update_of_label_or_metadata(filled):
    updates = [
        pb.ItemUpdate(id="1", label="new"),
        pb.ItemUpdate(id="2", metadata=struct_message({"n": 99})),
        pb.ItemUpdate(id="no", label="new"),
    ]
    reply = await filled.UpdateItems(pb.UpdateItemsRequest(gallery="g", updates=updates))
    assert list(reply.updated_ids) == ["1", "2"]
    one = (await filled.GetItem(pb.GetItemRequest(gallery="g", id="1"))).item
    two = (await filled.GetItem(pb.GetItemRequest(gallery="g", id="2"))).item
    assert (one.label, one.metadata["n"], two.label, two.metadata["n"]) == ("new", 1, "label 2", 99)
    assert one.sequence == reply.state.sequence
    error = await failure(filled.UpdateItems(pb.UpdateItemsRequest(gallery="g")))
    assert field_of(error) == "updates"


async def test_duplicates_are_told_or_left_out(stub):
    digest = bytes(32)
    first = await stub.AddItems(add_request(item("a", image_digest=digest), item("b", image_digest=digest)))
    assert [result.added.duplicate_of for result in first.results] == ["", "a"]
    again = await stub.AddItems(add_request(item("c", image_digest=digest), item("d"), skip_duplicates=True))
    assert [(result.added.skipped, result.added.duplicate_of) for result in again.results] == [(True, "a"), (False, "")]


async def test_aliases(filled):
    moved = await filled.SetAlias(pb.SetAliasRequest(alias="current", gallery="g"))
    assert (moved.gallery.name, list(moved.gallery.aliases)) == ("g", ["current"])
    reply = await filled.Search(search(query(5), encoder_fingerprint=ENCODER, top_k=1, gallery="current"))
    assert reply.results[0].matches[0].item_id == "5"
    by_item = await filled.Search(search(pb.Query(item_id="5"), top_k=1, gallery="current"))
    assert by_item.results[0].matches[0].item_id != "5"
    await filled.DeleteAlias(pb.DeleteAliasRequest(alias="current"))
    error = await failure(filled.DeleteAlias(pb.DeleteAliasRequest(alias="current")))
    assert details_of(status_of(error))["ResourceInfo"].resource_type == "alias"


async def test_snapshot_and_restore(filled):
    content = b"".join([reply.data async for reply in filled.Snapshot(pb.SnapshotRequest(gallery="g"))])

    async def requests(name: str, parts: list[bytes]) -> AsyncIterator[pb.RestoreRequest]:
        yield pb.RestoreRequest(gallery=name, data=parts[0])
        for part in parts[1:]:
            yield pb.RestoreRequest(data=part)

    halves = [content[: len(content) // 2], content[len(content) // 2 :]]
    restored = (await filled.Restore(requests("h", halves))).gallery
    assert (restored.item_count, restored.fields[0].name, restored.index_kind) == (20, "n", pb.INDEX_KIND_HNSW)
    reply = await filled.Search(search(query(7), encoder_fingerprint=ENCODER, top_k=1, gallery="h"))
    assert reply.results[0].matches[0].item_id == "7"
    error = await failure(filled.Restore(requests("i", halves[:1])))
    assert (error.code(), field_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "data")
    error = await failure(filled.Restore(requests("", halves)))
    assert field_of(error) == "name"


async def test_reembed_needs_a_gateway(filled):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [reply async for reply in filled.Reembed(pb.ReembedRequest(gallery="g"))]
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "gateway" in caught.value.details()


async def test_rollback_without_a_generation_to_go_back_to(filled):
    error = await failure(filled.Rollback(pb.RollbackRequest(gallery="g")))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details_of(status_of(error))["ErrorInfo"].reason == "PRECONDITION"


async def test_capabilities(stub):
    reply = await stub.GetCapabilities(pb.GetCapabilitiesRequest())
    assert (reply.backend, reply.snapshots, reply.reembedding, reply.l2) == ("embedded", True, True, True)
    assert pb.INDEX_KIND_IVF in reply.index_kinds


async def test_an_l2_gallery_keeps_vectors_as_they_come(stub):
    request = pb.CreateGalleryRequest(name="raw", encoder_fingerprint=ENCODER, dimension=8, metric=pb.METRIC_L2)
    await stub.CreateGallery(request)
    rows = ROWS * np.float32(5)
    items = [item(str(i), vector=vector_message(row)) for i, row in enumerate(rows)]
    await stub.AddItems(add_request(*items, gallery="raw"))
    queries = [pb.Query(vector=vector_message(row)) for row in rows]
    asked = search(*queries, gallery="raw", encoder_fingerprint=ENCODER, top_k=2, match_threshold=0.999)
    reply = await stub.Search(asked)
    assert [[match.item_id for match in result.matches] for result in reply.results] == [[str(i)] for i in range(20)]
