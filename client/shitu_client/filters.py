"""Filters: which items of a gallery may be found.

    from shitu_client.filters import field

    field("brand") == "cola"
    (field("price") >= 2) & ~field("brand").is_in(["cola", "pepsi"])
    field("price").between(2, 3) | (field("on_sale") == True)

A field is one that the gallery declares, or `label` or `id`. A comparison with a field that an item does not have is false, its
negation true: `field("brand") != "cola"` finds the items without a brand too. The server checks that a field is declared and has the
type of the values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Final, Literal, Union

from google.protobuf import json_format

from shitu.v1 import types_pb2

Value = Union[str, bool, float]
"""What a field is compared with; whole numbers are exact up to 2**53."""

_MOST_EXACT: Final = 2**53
_Bound = Literal["at_least", "above", "at_most", "below"]
_SIGNS: Final[dict[_Bound, str]] = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}


@dataclass(frozen=True, repr=False)
class Condition:
    """What holds for the items that may be found; combined with `&`, `|` and `~`. Never changes.

    Made by `field(...)`; the bytes are those of a `shitu.v1.Filter`.
    """

    data: bytes

    @classmethod
    def of_message(cls, message: types_pb2.Filter) -> Condition:
        """Return the condition that a message states."""
        return cls(message.SerializeToString(deterministic=True))

    def to_message(self) -> types_pb2.Filter:
        """Return the condition as it is sent."""
        return types_pb2.Filter.FromString(self.data)

    def __and__(self, other: Condition) -> Condition:
        if not isinstance(other, Condition):
            return NotImplemented
        both = types_pb2.FilterList(filters=[*_parts(self, "all_of"), *_parts(other, "all_of")])
        return Condition.of_message(types_pb2.Filter(all_of=both))

    def __or__(self, other: Condition) -> Condition:
        if not isinstance(other, Condition):
            return NotImplemented
        either = types_pb2.FilterList(filters=[*_parts(self, "any_of"), *_parts(other, "any_of")])
        return Condition.of_message(types_pb2.Filter(any_of=either))

    def __invert__(self) -> Condition:
        message = self.to_message()
        if message.HasField("negation"):
            return Condition.of_message(message.negation)
        return Condition.of_message(types_pb2.Filter(negation=message))

    def __bool__(self) -> bool:
        raise TypeError(
            "a condition is neither true nor false here: combine conditions with &, | and ~ (each comparison in parentheses), not "
            "with `and`, `or` and `not`, and write a < x < b as field(...).between or as two comparisons"
        )

    def __repr__(self) -> str:
        return f"Condition({json_format.MessageToDict(self.to_message())})"


class Field:
    """A field of the items, to be compared with values; see `field`."""

    __hash__ = None  # type: ignore[assignment]  # its == makes a condition
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise TypeError(f"expected the name of a field, got {name!r}")
        self._name = name

    def __eq__(self, value: object) -> Condition:  # type: ignore[override]
        comparison = types_pb2.FieldEquals(field=self._name, value=_value_message(self._name, value))
        return Condition.of_message(types_pb2.Filter(equals=comparison))

    def __ne__(self, value: object) -> Condition:  # type: ignore[override]
        return ~(self == value)

    def __ge__(self, value: float) -> Condition:
        return self._range(at_least=value)

    def __gt__(self, value: float) -> Condition:
        return self._range(above=value)

    def __le__(self, value: float) -> Condition:
        return self._range(at_most=value)

    def __lt__(self, value: float) -> Condition:
        return self._range(below=value)

    def __repr__(self) -> str:
        return f"field({self._name!r})"

    def between(self, least: float, most: float) -> Condition:
        """Return the condition that the field is a number from `least` to `most`, both included."""
        condition = self._range(at_least=least, at_most=most)
        if least > most:
            raise ValueError(f"field {self._name}: expected the least value first, got {least!r} to {most!r}")
        return condition

    def is_in(self, values: Iterable[Value]) -> Condition:
        """Return the condition that the field is one of the values."""
        if isinstance(values, (str, bytes)):
            raise TypeError(f"field {self._name}: expected several values, got one text: {values!r}")
        messages = [_value_message(self._name, value) for value in values]
        if not messages:
            raise ValueError(f"field {self._name}: expected at least one value, got none")
        return Condition.of_message(types_pb2.Filter(is_in=types_pb2.FieldIn(field=self._name, values=messages)))

    def _range(self, **bounds: float) -> Condition:
        message = types_pb2.FieldRange(field=self._name)
        for bound in _SIGNS:
            if bound in bounds:
                setattr(message, bound, _number(self._name, bounds[bound], f"to compare with {_SIGNS[bound]}"))
        return Condition.of_message(types_pb2.Filter(range=message))


def field(name: str) -> Field:
    """Return a field of the items' metadata that the gallery declares, or `label` or `id`, to be compared with values."""
    return Field(name)


def _parts(condition: Condition, kind: Literal["all_of", "any_of"]) -> list[types_pb2.Filter]:
    """Return what a condition of the kind is made of: a & b & c is one list, for filters may not be nested deeply."""
    message = condition.to_message()
    return list(getattr(message, kind).filters) if message.WhichOneof("expression") == kind else [message]


def _value_message(name: str, value: object) -> types_pb2.FieldValue:
    if isinstance(value, str):
        return types_pb2.FieldValue(string=value)
    if isinstance(value, bool):
        return types_pb2.FieldValue(boolean=value)
    return types_pb2.FieldValue(number=_number(name, value, "or a text, True or False"))


def _number(name: str, value: object, purpose: str) -> float:
    # bool is a number to Python; an item's boolean is none to the server.
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"field {name}: expected a number {purpose}, got {value!r} ({type(value).__name__})")
    if isinstance(value, int) and abs(value) > _MOST_EXACT:
        raise ValueError(f"field {name}: expected a whole number up to 2**53, for which numbers are exact, got {value}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"field {name}: expected a finite number, got {value!r}")
    return number
