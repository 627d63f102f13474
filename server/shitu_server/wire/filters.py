"""Filters as messages and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from shitu.v1 import types_pb2 as pb
from shitu_server.errors import InvalidArgumentError
from shitu_server.filters import MOST_DEPTH, MOST_NODES, MOST_VALUES, And, Eq, Filter, In, Not, Or, Range, Scalar

_BOUNDS: Final = ("at_least", "above", "at_most", "below")


def filter_of(message: pb.Filter, field: str = "where") -> Filter:
    """Return the filter that a message holds; its fields and values are checked where the gallery is known.

    Raises:
        InvalidArgumentError: an expression or a value is unset, or it is nested too deeply.
    """
    return _expression(message, field, 1, iter(range(MOST_NODES)))


def filter_message(where: Filter) -> pb.Filter:
    """Return a filter as a message."""
    if isinstance(where, Eq):
        return pb.Filter(equals=pb.FieldEquals(field=where.field, value=_value_message(where.value)))
    if isinstance(where, In):
        return pb.Filter(is_in=pb.FieldIn(field=where.field, values=[_value_message(v) for v in where.values]))
    if isinstance(where, Range):
        bounds = {bound: getattr(where, bound) for bound in _BOUNDS}
        return pb.Filter(range=pb.FieldRange(field=where.field, **bounds))
    if isinstance(where, Not):
        return pb.Filter(negation=filter_message(where.operand))
    operands = pb.FilterList(filters=[filter_message(operand) for operand in where.operands])
    return pb.Filter(all_of=operands) if isinstance(where, And) else pb.Filter(any_of=operands)


def _expression(message: pb.Filter, field: str, depth: int, room: Iterator[int]) -> Filter:
    """Return one expression. `room` ends where there are too many: a message of a few MB could hold a million."""
    if depth > MOST_DEPTH:
        raise InvalidArgumentError(field, f"nested over {MOST_DEPTH} deep")
    if next(room, None) is None:
        raise InvalidArgumentError("where", f"expected at most {MOST_NODES} expressions; came more")
    kind = message.WhichOneof("expression")
    if kind is None:
        raise InvalidArgumentError(
            field, "expected one of equals, is_in, range, all_of, any_of and negation, came none"
        )
    part = f"{field}.{kind}"
    if kind == "equals":
        return Eq(message.equals.field, _value(message.equals.value, f"{part}.value"))
    if kind == "is_in":
        count = len(message.is_in.values)
        if count > MOST_VALUES:
            raise InvalidArgumentError(
                f"{part}.values", f"expected at most {MOST_VALUES} values in a filter, came {count}"
            )
        values = (_value(value, f"{part}.values[{i}]") for i, value in enumerate(message.is_in.values))
        return In(message.is_in.field, tuple(values))
    if kind == "range":
        bounds: dict[str, Any] = {b: getattr(message.range, b) for b in _BOUNDS if message.range.HasField(b)}
        return Range(message.range.field, **bounds)
    if kind == "negation":
        return Not(_expression(message.negation, part, depth + 1, room))
    filters = message.all_of.filters if kind == "all_of" else message.any_of.filters
    operands = tuple(_expression(one, f"{part}.filters[{i}]", depth + 1, room) for i, one in enumerate(filters))
    return And(operands) if kind == "all_of" else Or(operands)


def _value(message: pb.FieldValue, field: str) -> Scalar:
    kind = message.WhichOneof("value")
    if kind is None:
        raise InvalidArgumentError(field, "expected a string, a number or a boolean, came none")
    value: Scalar = getattr(message, kind)
    return value


def _value_message(value: Scalar) -> pb.FieldValue:
    if isinstance(value, bool):
        return pb.FieldValue(boolean=value)
    return pb.FieldValue(string=value) if isinstance(value, str) else pb.FieldValue(number=value)
