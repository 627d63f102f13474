"""Filters on their way through messages, and what is refused of them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shitu.v1 import types_pb2
from shitu_server.errors import InvalidArgumentError
from shitu_server.filters import And, Eq, FieldType, Filter, In, Not, Or, Range, check_filter
from shitu_server.wire.filters import filter_message, filter_of

FIELDS = {"n": FieldType.NUMBER, "s": FieldType.STRING, "b": FieldType.BOOLEAN}
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
BOUNDS = st.none() | NUMBERS
LEAVES = (
    st.builds(Eq, st.just("n"), NUMBERS)
    | st.builds(Eq, st.sampled_from(["s", "label", "id"]), st.text(max_size=5))
    | st.builds(Eq, st.just("b"), st.booleans())
    | st.builds(In, st.just("s"), st.lists(st.text(max_size=3), min_size=1, max_size=4).map(tuple))
    | st.builds(Range, st.just("n"), at_least=NUMBERS, above=BOUNDS, at_most=BOUNDS, below=BOUNDS)
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=1, max_size=3).map(tuple))
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(FILTERS)
def test_filter_comes_back_as_it_was_sent(where: Filter):
    sent = types_pb2.Filter.FromString(filter_message(where).SerializeToString())
    assert filter_of(sent) == where
    check_filter(where, FIELDS)


def test_types_of_values_are_kept():
    values = [filter_of(filter_message(Eq("x", value))) for value in (1, 1.5, True, "1")]
    assert [type(where.value) for where in values] == [float, float, bool, str]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (Eq("colour", "red"), 'declared fields (label, id, n, s, b), came "colour"'),
        (Eq("n", "1"), "n: expected values of type number, came '1'"),
        (In("s", ("a", True)), "s: expected values of type string, came True"),
        (Range("s", at_least=1), "field that holds numbers"),
        (Range("n", at_least="1"), "numbers"),  # type: ignore[arg-type]
        (Or(()), "at least one operand"),
    ],
)
def test_what_is_wrong_is_said(where: Filter, said: str):
    with pytest.raises(InvalidArgumentError) as caught:
        check_filter(where, FIELDS)
    assert said in caught.value.message


def test_filters_are_limited():
    deep: Filter = Eq("n", 1)
    for _ in range(16):
        deep = Not(deep)
    for where in (deep, And((Eq("n", 1),) * 256), And((In("n", (1,) * 600), In("n", (1,) * 600)))):
        with pytest.raises(InvalidArgumentError):
            check_filter(where, FIELDS)
    check_filter(deep.operand, FIELDS)  # type: ignore[union-attr]


@pytest.mark.parametrize("part", ["filters", "values"])
def test_message_of_too_many_is_refused_before_it_is_taken_apart(part: str):
    """A few MB would hold up the event loop for seconds."""
    one = filter_message(Eq("label", "a"))
    values = [types_pb2.FieldValue(boolean=True)] * 500_000
    inner = types_pb2.Filter(any_of=types_pb2.FilterList(filters=[one] * 200))
    where = {
        "filters": types_pb2.Filter(all_of=types_pb2.FilterList(filters=[inner] * 2000)),
        "values": types_pb2.Filter(is_in=types_pb2.FieldIn(field="label", values=values)),
    }[part]
    begin_s = time.perf_counter()
    with pytest.raises(InvalidArgumentError, match="expected at most"):
        filter_of(where)
    assert time.perf_counter() - begin_s < 0.1
