"""Filters on columns against the same filters on one item after the other."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shitu_server.filters import And, Eq, FieldType, Filter, In, Not, Or, Range, check_filter
from shitu_server.gallery.columns import PARSED_CHARACTERS, Columns, Schema
from shitu_server.gallery.recent import CACHED_FILTERS, Recent

FIELDS = {"color": FieldType.STRING, "price": FieldType.NUMBER, "new": FieldType.BOOLEAN}

TEXTS = st.sampled_from(["", "a", "b", "c", "é", "a" * 70])
IDS = st.integers(0, 40).map("item {}".format)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.5, -0.0, 1e300, -1e300, 2**53, 2**53 + 1, 10**400, -(10**400)]),
    st.floats(allow_nan=False),
)
ITEMS = st.lists(
    st.tuples(
        TEXTS,
        st.fixed_dictionaries(
            {}, optional={"color": TEXTS, "price": NUMBERS, "new": st.booleans(), "other": st.lists(TEXTS, max_size=2)}
        ),
    ),
    min_size=1,
    max_size=40,
)


def comparisons() -> st.SearchStrategy[Filter]:
    def values(field: str, of_type: st.SearchStrategy) -> st.SearchStrategy[Filter]:
        several = st.lists(of_type, min_size=1, max_size=12).map(tuple)
        return st.one_of(of_type.map(lambda v: Eq(field, v)), several.map(lambda v: In(field, v)))

    bounds = st.dictionaries(st.sampled_from(["at_least", "above", "at_most", "below"]), NUMBERS, min_size=1)
    return st.one_of(
        values("label", TEXTS),
        values("color", TEXTS),
        values("id", IDS),
        values("price", NUMBERS),
        values("new", st.booleans()),
        bounds.map(lambda given: Range("price", **given)),
    )


FILTERS = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: And(tuple(some))),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: Or(tuple(some))),
    ),
    max_leaves=8,
)


def number(value: float) -> float:
    """Numbers are float64."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def allows(where: Filter, item: dict) -> bool:
    match where:
        case Not(operand):
            return not allows(operand, item)
        case And(operands):
            return all(allows(one, item) for one in operands)
        case Or(operands):
            return any(allows(one, item) for one in operands)
    if where.field not in item:
        return False
    value = item[where.field]
    if where.field == "price":
        value = number(value)
    if isinstance(where, Range):
        return (
            (where.at_least is None or value >= number(where.at_least))
            and (where.above is None or value > number(where.above))
            and (where.at_most is None or value <= number(where.at_most))
            and (where.below is None or value < number(where.below))
        )
    values = where.values if isinstance(where, In) else (where.value,)
    return value in ([number(v) for v in values] if where.field == "price" else values)


def columns_of(items: list, most: int = 100) -> Columns:
    columns = Columns(Schema(FIELDS), 4, most)
    for begin in range(0, len(items), 7):
        part = items[begin : begin + 7]
        ids = [f"item {i}" for i in range(begin, begin + len(part))]
        columns.append(ids, [label for label, _ in part], [json.dumps(metadata) for _, metadata in part])
    return columns


def whole(i: int, label: str, metadata: dict) -> dict:
    return {**metadata, "id": f"item {i}", "label": label}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(items=ITEMS, where=FILTERS)
def test_filters_allow_what_they_say(items: list, where: Filter):
    check_filter(where, FIELDS)
    mask = columns_of(items).view().allowed(where)
    assert mask.tolist() == [allows(where, whole(i, *item)) for i, item in enumerate(items)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(items=ITEMS, changed=ITEMS, where=FILTERS, recoded=st.booleans())
def test_changes_do_not_reach_what_was_seen_before(items: list, changed: list, where: Filter, recoded: bool):
    columns = columns_of(items)
    before = columns.view()
    changed = changed[: len(items)]
    slots = list(range(len(items)))[-len(changed) :]
    columns.change(slots, [label for label, _ in changed], [json.dumps(metadata) for _, metadata in changed])
    columns.append(["item 100"], ["a"], ["{}"])
    if recoded:
        schema = columns._schema
        former, fresh = schema.labels, type(schema.labels)()
        columns.recode("label", former, fresh)
        schema._texts["label"] = fresh
    after = [*items[: len(items) - len(changed)], *changed, ("a", {})]
    wanted = [allows(where, whole(i, *item)) for i, item in enumerate(items)]
    assert before.allowed(where).tolist() == wanted
    ids = [*range(len(items)), 100]
    assert columns.view().allowed(where).tolist() == [
        allows(where, whole(i, *item)) for i, item in zip(ids, after, strict=True)
    ]
    assert before.allowed(where).tolist() == wanted


def test_values_of_another_type_count_as_absent():
    """They cannot come in, but may have been stored before the fields were declared so."""
    schema = Schema(FIELDS)
    columns = Columns(schema, 4, 100)
    odd = ['{"color":1}', '{"price":"1"}', '{"price":true}', '{"new":1}', '{"color":null,"price":null,"new":null}']
    columns.append([str(i) for i in range(5)], [""] * 5, odd)
    view = columns.view()
    for where in (Eq("color", "1"), Eq("price", 1.0), Range("price", at_most=2), Eq("new", True)):
        assert not view.allowed(where).any()
        assert view.allowed(Not(where)).all()


def test_long_metadata_is_parsed_in_pieces():
    columns = Columns(Schema(FIELDS), 4, 100)
    text = "x" * (PARSED_CHARACTERS // 3)
    columns.append([str(i) for i in range(10)], [""] * 10, [json.dumps({"price": i, "much": text}) for i in range(10)])
    assert columns.view().allowed(Range("price", above=6)).tolist() == [False] * 7 + [True] * 3


def test_many_values_are_looked_up():
    columns = columns_of([("a", {"price": i}) for i in range(100)])
    wanted = tuple(float(i) for i in range(0, 300, 3))
    assert np.flatnonzero(columns.view().allowed(In("price", wanted))).tolist() == list(range(0, 100, 3))
    ids = tuple(f"item {i}" for i in range(0, 300, 3))
    assert np.flatnonzero(columns.view().allowed(In("id", ids))).tolist() == list(range(0, 100, 3))


def test_ids_of_equal_hashes_are_told_apart():
    columns = columns_of([("a", {})] * 5)
    columns._hashes.change(slice(None), hash("item 3"))
    assert columns.view().allowed(Eq("id", "item 3")).tolist() == [False, False, False, True, False]


def test_masks_are_kept_and_cannot_be_written_to():
    view = columns_of([("a", {}), ("b", {})]).view()
    mask = view.allowed(Eq("label", "a"))
    assert view.allowed(Eq("label", "a")) is mask
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = False
    for i in range(CACHED_FILTERS):
        view.allowed(Eq("label", str(i)))
    assert view.allowed(Eq("label", "a")) is not mask


def test_the_least_recent_is_forgotten():
    recent: Recent[int] = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (1, None, 3)
