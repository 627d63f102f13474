"""Filters are messages that say what was written, and refuse what cannot be meant."""

from __future__ import annotations

import math

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict

from shitu.v1 import types_pb2
from shitu_client import Condition, field


def tree(condition: Condition) -> dict:
    return MessageToDict(condition.to_message(), preserving_proto_field_name=True)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (field("brand") == "cola", {"equals": {"field": "brand", "value": {"string": "cola"}}}),
        (field("brand") == "", {"equals": {"field": "brand", "value": {"string": ""}}}),
        (field("price") == 2, {"equals": {"field": "price", "value": {"number": 2.0}}}),
        (field("sold") == True, {"equals": {"field": "sold", "value": {"boolean": True}}}),  # noqa: E712
        (field("sold") == False, {"equals": {"field": "sold", "value": {"boolean": False}}}),  # noqa: E712
        (field("price") >= 2, {"range": {"field": "price", "at_least": 2.0}}),
        (field("price") > 0, {"range": {"field": "price", "above": 0.0}}),
        (field("price") <= np.float32(2.5), {"range": {"field": "price", "at_most": 2.5}}),
        (field("price") < np.int64(3), {"range": {"field": "price", "below": 3.0}}),
        (3 > field("price"), {"range": {"field": "price", "below": 3.0}}),  # noqa: SIM300
        (field("price").between(1, 2), {"range": {"field": "price", "at_least": 1.0, "at_most": 2.0}}),
        (field("price").between(2, 2), {"range": {"field": "price", "at_least": 2.0, "at_most": 2.0}}),
        (
            field("brand").is_in(["a", "b"]),
            {"is_in": {"field": "brand", "values": [{"string": "a"}, {"string": "b"}]}},
        ),
        (
            field("brand") != "cola",
            {"negation": {"equals": {"field": "brand", "value": {"string": "cola"}}}},
        ),
    ],
    ids=str,
)
def test_a_comparison(condition, expected):
    assert tree(condition) == expected


def test_combinations():
    cheap, cola, sold = field("price") < 2, field("brand") == "cola", field("sold") == True  # noqa: E712
    assert tree(cheap & cola) == {"all_of": {"filters": [tree(cheap), tree(cola)]}}
    assert tree(cheap | ~cola) == {"any_of": {"filters": [tree(cheap), {"negation": tree(cola)}]}}
    # One level, however many there are: filters may be nested 16 deep.
    assert tree(cheap & cola & sold) == {"all_of": {"filters": [tree(cheap), tree(cola), tree(sold)]}}
    assert tree(cheap & (cola | sold)) == {
        "all_of": {"filters": [tree(cheap), {"any_of": {"filters": [tree(cola), tree(sold)]}}]}
    }
    assert ~~cheap == cheap


def test_conditions_are_values():
    cheap = field("price") < 2
    message = cheap.to_message()
    message.range.below = 5
    assert tree(cheap) == {"range": {"field": "price", "below": 2.0}}
    assert cheap == (field("price") < 2)
    assert len({cheap, field("price") < 2, field("price") < 3}) == 2
    assert Condition.of_message(cheap.to_message()) == cheap
    with pytest.raises(AttributeError):
        cheap.data = b""
    assert "'below': 2.0" in repr(cheap)
    assert isinstance(cheap.to_message(), types_pb2.Filter)


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (lambda: field("price") >= "2", TypeError, "field price: expected a number to compare with >=, got '2' (str)"),
        (lambda: field("price") < True, TypeError, "expected a number to compare with <, got True (bool)"),
        (lambda: field("price") == None, TypeError, "expected a number or a text, True or False, got None"),  # noqa: E711
        (lambda: field("price") == b"x", TypeError, "got b'x' (bytes)"),
        (lambda: field("price") > math.nan, ValueError, "expected a finite number, got nan"),  # noqa: PLW0177
        (lambda: field("price") == 2**53 + 1, ValueError, "up to 2**53"),
        (lambda: field("price") == 10**400, ValueError, "up to 2**53"),
        (lambda: field("price").between(3, 2), ValueError, "expected the least value first, got 3 to 2"),
        (lambda: field("brand").between("a", "b"), TypeError, "expected a number to compare with >=, got 'a'"),
        (lambda: field("brand").is_in("ab"), TypeError, "expected several values, got one text"),
        (lambda: field("brand").is_in([]), ValueError, "expected at least one value"),
        (lambda: field(""), TypeError, "expected the name of a field"),
        (lambda: field(3), TypeError, "expected the name of a field"),
        (lambda: field("a") == 1 and field("b") == 2, TypeError, "with &, | and ~"),
        (lambda: 1 < field("a") < 2, TypeError, "with &, | and ~"),
        (lambda: (field("a") == 1) & "b", TypeError, "unsupported operand"),
        (lambda: hash(field("a")), TypeError, "unhashable"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, kind, said):
    with pytest.raises(kind) as caught:
        make()
    assert said in str(caught.value)
