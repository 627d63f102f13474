from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from shitu.v1 import gallery_pb2, types_pb2
from shitu_server.errors import InvalidArgumentError
from shitu_server.types import GalleryInfo, GalleryState, Hit, Item, SearchResult
from shitu_server.wire.galleries import (
    gallery_message,
    gallery_of,
    item_message,
    item_of,
    metadata_of,
    search_response,
    search_result_of,
    struct_message,
    vector_message,
    vector_of,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_metadata_round_trip(metadata):
    sent = struct_pb2.Struct.FromString(struct_message(metadata).SerializeToString())
    assert metadata_of(sent, "metadata") == metadata


def test_whole_numbers_stay_whole():
    back = metadata_of(struct_message({"n": 3, "x": 1.5, "yes": True}), "metadata")
    assert [type(value) for value in (back["n"], back["x"], back["yes"])] == [int, float, bool]


def test_metadata_nested_too_deeply():
    deep: object = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(InvalidArgumentError, match="nested"):
        struct_message({"deep": deep})
    message = struct_pb2.Struct()
    message.update({"deep": deep})
    with pytest.raises(InvalidArgumentError) as caught:
        metadata_of(message, "items[2].metadata")
    assert caught.value.field == "items[2].metadata"


def test_vector_is_little_endian_float32():
    vector = np.array([1, -2.5, 3e38], np.float32)
    message = vector_message(vector)
    assert message.data == vector.astype("<f4").tobytes()
    np.testing.assert_array_equal(vector_of(message, "vector"), vector)


@pytest.mark.parametrize(("size", "dimension"), [(0, 0), (12, 4), (13, 3), (12, -3), (16, 3), (0, 1)])
def test_vector_of_a_wrong_size(size: int, dimension: int):
    with pytest.raises(InvalidArgumentError) as caught:
        vector_of(types_pb2.Vector(data=b"\0" * size, dimension=dimension), "items[0].vector")
    assert caught.value.field == "items[0].vector"
    assert f"{size} bytes" in caught.value.description


def test_gallery_round_trip():
    info = GalleryInfo("g", "encoder", 512, 7, GalleryState(3, 2**40), 1795474840.652458)
    assert gallery_of(gallery_pb2.Gallery.FromString(gallery_message(info).SerializeToString())) == info


def test_item_round_trip():
    vector = np.array([0.6, 0.8], np.float32)
    item = Item("ü", "label", {"a": [1, None]}, b"jpeg", vector, 1795474840.652458)
    back = item_of(gallery_pb2.Item.FromString(item_message(item).SerializeToString()))
    assert back.vector is not None
    np.testing.assert_array_equal(back.vector, vector)
    assert (back.id, back.label, back.metadata, back.thumbnail, back.update_time_s) == (
        "ü",
        "label",
        {"a": [1, None]},
        b"jpeg",
        1795474840.652458,
    )


def test_search_result_round_trip():
    result = SearchResult(((Hit("a", "l", 0.5, {"n": 1}),), ()), GalleryState(1, 2))
    assert (
        search_result_of(gallery_pb2.SearchResponse.FromString(search_response(result).SerializeToString())) == result
    )
