"""Galleries in Milvus, as far as no Milvus is needed; tests/e2e/test_milvus.py and the contract have one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymilvus.grpc_gen import common_pb2

from shitu_server.errors import (
    AlreadyExistsError,
    ConfigurationError,
    InternalError,
    NotFoundError,
    OverloadedError,
    StorageError,
    UnavailableError,
)
from shitu_server.filters import And, Eq, FieldType, In, Not, Or, Range
from shitu_server.gallery.checks import CheckedItem
from shitu_server.gallery.milvus.catalogue import Bound, _bound_of, _decoded, _milvus_alias
from shitu_server.gallery.milvus.expressions import NEVER, expression, filterable, literal
from shitu_server.gallery.milvus.labels import Found, LabelSearch
from shitu_server.gallery.milvus.moments import WriteOrder
from shitu_server.gallery.milvus.rows import Row, columns_of, rows_of
from shitu_server.gallery.milvus.rpc import MilvusConnection
from shitu_server.gallery.milvus.writing import _added, _row_id
from shitu_server.types import Added, GalleryOptions

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        (Eq("label", 'a"b'), r'label == "a\u0022b"'),
        (Eq("id", "x\\\n"), r'id == "x\u005c\u000a"'),
        (Eq("brand", "ü😀"), r'fields["brand"] == "\u00fc\U0001f600"'),
        (Eq("n", 3), 'fields["n"] == 3.0'),
        (Eq("n", NAN), NEVER),
        (Eq("new", value=True), 'fields["new"] == true'),
        (In("n", (1, NAN, 2.5)), 'fields["n"] in [1.0, 2.5]'),
        (In("n", (1, NAN)), 'fields["n"] == 1.0'),
        (Range("n", at_least=1, below=2), 'fields["n"] >= 1.0 and fields["n"] < 2.0'),
        (
            Range("n", above=-INFINITY, at_most=10**400),
            'fields["n"] > -1.7976931348623157e+308 and fields["n"] <= 1.7976931348623157e+308',
        ),
        (Not(Or((Eq("n", 1), And((Eq("n", 2),))))), 'not ((fields["n"] == 1.0) or ((fields["n"] == 2.0)))'),
    ],
)
def test_expressions(where, wanted):
    assert expression(where) == wanted


@given(st.text())
def test_no_character_of_a_text_has_a_meaning(text):
    written = literal(text)
    assert re.fullmatch(r'"([A-Za-z0-9 .,-]|\\u[0-9a-f]{4}|\\U[0-9a-f]{8})*"', written)
    read = re.sub(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})", lambda match: chr(int(match[1] or match[2], 16)), written[1:-1])
    assert read == text


def test_only_declared_fields_can_be_compared():
    metadata = {"n": 2, "big": 10**400, "new": True, "brand": "ü", "other": 1}
    declared = {"n": FieldType.NUMBER, "big": FieldType.NUMBER, "new": FieldType.BOOLEAN, "brand": FieldType.STRING}
    wanted = r'{"n": 2.0, "big": 1.7976931348623157e+308, "new": true, "brand": "\u00fc"}'
    assert filterable(metadata, {**declared, "missing": FieldType.STRING}) == wanted


@given(st.lists(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True), unique=True))
def test_names_are_aliases_of_milvus(names):
    aliases = [_milvus_alias(name) for name in names]
    assert len(set(aliases)) == len(names)
    assert all(re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,254}", alias) for alias in aliases)
    assert [_decoded(alias.removeprefix("shitu_")) for alias in aliases] == names


def test_collection_that_is_none_of_ours():
    class Reply:
        class schema:  # noqa: N801
            name = "theirs"
            description = "some words"

        aliases = ()

    with pytest.raises(StorageError, match=r"theirs.* none of ours"):
        _bound_of(Reply)
    Reply.schema.description = '{"format": 2}'
    with pytest.raises(StorageError, match="later version"):
        _bound_of(Reply)


def test_rows_become_columns_and_rows_again():
    vectors = np.random.default_rng(0).standard_normal((3, 8), dtype=np.float32)
    rows = [Row(f"ü{i}", "l\x00", '{"a":1}', "{}", "ff", 2**60 + i, i, i / 3, vectors[i]) for i in range(3)]
    again = rows_of(columns_of(rows))
    for row, one in zip(rows, again, strict=True):
        np.testing.assert_array_equal(one.vector, row.vector)
        assert [getattr(one, name) for name in vars(one) if name != "vector"] == [
            getattr(row, name) for name in vars(row) if name != "vector"
        ]
    assert rows_of(()) == []


def test_row_ids_grow_with_time_and_place():
    times = [(1_900_000_000_000 << 18) + 5, (1_900_000_000_000 << 18) + 6, (3_700_000_000_000 << 18)]
    row_ids = [_row_id(time, place) for time in times for place in (0, 1, 255)]
    assert row_ids == sorted(set(row_ids))
    assert 0 < row_ids[0] < row_ids[-1] < 2**63


def checked(item_id: str, digest: bytes = b"") -> CheckedItem:
    return CheckedItem(item_id, "l", np.zeros(2, np.float32), "{}", b"", digest)


def test_items_of_a_call_are_told_apart_one_after_another():
    one, two = b"\x01", b"\x02"
    items = [checked("a", one), checked("b", one), checked("a2", two), checked("c"), checked("old", two)]
    twins = {"01": ["old"]}
    assert _added(items, {"old": 1}, {"01": ["old"]}, skip_duplicates=False) == (
        Added(replaced=False, duplicate_of="old"),
        Added(replaced=False, duplicate_of="old"),
        Added(replaced=False),
        Added(replaced=False),
        Added(replaced=True, duplicate_of="a2"),
    )
    skipped = _added(items, {"old": 1}, twins, skip_duplicates=True)
    assert [added.skipped for added in skipped] == [True, True, False, False, True]
    assert not any(added.replaced for added in skipped)
    changed = _added([checked("old", two), checked("new", one)], {"old": 1}, {"01": ["old"]}, skip_duplicates=True)
    assert changed == (Added(replaced=True), Added(replaced=False))


@settings(max_examples=300)
@given(
    st.lists(st.integers(0, 6), max_size=60),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 30),
    st.floats(0, 1),
)
async def test_labels_are_found_by_searches_for_hits(labels, top_k, per_label, first_asked, min_score):
    rows = [Found(str(i), f"l{label}", 1 - i / 64, i, "{}") for i, label in enumerate(labels)]
    searches = 0

    async def find(most: int, where: str) -> Sequence[Found]:
        nonlocal searches
        searches += 1
        named = set(re.findall("l[0-9]", where))
        return [row for row in rows if (row.label in named) != where.startswith("not")][:most]

    found = await LabelSearch(find, top_k, per_label, min_score).found(rows[:first_asked], first_asked)
    best = list(dict.fromkeys(row.label for row in rows))[:top_k]
    wanted = {row for label in best for row in [one for one in rows if one.label == label][:per_label]}
    # The caller cuts by score; what is over it must be there.
    assert [row for row in found if row.score >= min_score] == [
        row for row in rows if row in wanted and row.score >= min_score
    ]
    assert searches <= 14


async def test_writes_to_the_same_items_follow_each_other():
    order, log = WriteOrder(), []

    async def write(name: str, keys: list[str], written: int) -> None:
        async with order.entered(keys) as claim:
            log.append((name, claim.written))
            await asyncio.sleep(0.01)
            claim.written = written

    await asyncio.gather(write("1", ["a", "b"], 10), write("2", ["b", "c"], 20), write("3", ["x"], 30))
    assert log == [("1", 0), ("3", 0), ("2", 10)]
    with pytest.raises(RuntimeError):
        async with order.entered(["c"]):
            raise RuntimeError
    await write("4", ["a", "c"], 40)  # what failed does not hide what was written before
    assert log[-1] == ("4", 20)
    await write("5", ["new"], 50)
    assert log[-1] == ("5", 0)


@pytest.mark.parametrize("address", ["", "127.0.0.1:19530", "ftp://a:1", "http://", "http://a:1/path"])
async def test_address_that_is_none(address):
    with pytest.raises(ConfigurationError, match="milvus_address"):
        MilvusConnection(address)


@pytest.mark.parametrize(
    ("code", "retriable", "error"),
    [
        (100, False, NotFoundError),
        (1600, False, NotFoundError),
        (1602, False, AlreadyExistsError),
        (1, False, UnavailableError),
        (101, False, UnavailableError),
        (4711, True, UnavailableError),
        (10001, False, UnavailableError),
        (1400, False, UnavailableError),
        (8, True, OverloadedError),
        (7, False, StorageError),
        (9, False, StorageError),
        (1100, False, InternalError),
        (0, False, InternalError),  # of versions that had other codes
    ],
)
async def test_refusals_of_milvus_are_translated(code, retriable, error):
    connection = MilvusConnection("http://127.0.0.1:1")
    status = common_pb2.Status(code=code, reason="a secret of the inside", retriable=retriable, error_code=1)
    with pytest.raises(error) as caught:
        connection._check_status(status, "Query", ours=True)
    assert error is StorageError or "secret" not in str(caught.value)
    connection._check_status(common_pb2.Status(), "Query", ours=True)
    await connection.close()


async def test_nobody_listens():
    connection = MilvusConnection("http://127.0.0.1:1")
    with pytest.raises(UnavailableError, match=r"no Milvus at http://127\.0\.0\.1:1"):
        await connection.check()
    await connection.close()


def test_a_gallery_has_a_collection_of_its_own():
    bound = Bound("a-b_c", 7, "e", 8, GalleryOptions(), 0.0, ())
    assert bound.collection == "shitu_a_hb__c_g7"
