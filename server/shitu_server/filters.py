"""Which items a search may find: a closed tree of comparisons over an item's label, its id and the declared fields of its metadata.

A comparison with a field that an item does not have is false; `Not` of it is true. There are no other truth values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Union

from shitu_server.errors import InvalidArgumentError

Scalar = Union[str, float, bool]
"""What a declared field holds. Numbers are float64: whole ones are exact up to 2**53."""

LABEL_FIELD: Final = "label"
ID_FIELD: Final = "id"

MOST_NODES: Final = 256
MOST_DEPTH: Final = 16
MOST_VALUES: Final = 1000
"""Of all `In` of a filter together."""


class FieldType(str, Enum):
    """What a declared field of the metadata holds."""

    STRING = "string"
    NUMBER = "number"
    BOOLEAN = "boolean"


Fields = Mapping[str, FieldType]
"""Declared fields of a gallery by name."""

BUILT_IN_FIELDS: Final[Fields] = {LABEL_FIELD: FieldType.STRING, ID_FIELD: FieldType.STRING}
"""Every item has these; no declared field may have their names."""


@dataclass(frozen=True)
class Eq:
    """The field has this value."""

    field: str
    value: Scalar


@dataclass(frozen=True)
class In:
    """The field has one of these values; at least one."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Range:
    """The number lies between the bounds; None is no bound, at least one is given."""

    field: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class And:
    """All hold; at least one."""

    operands: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    """One holds; at least one."""

    operands: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    """The operand does not hold."""

    operand: Filter


Filter = Union[Eq, In, Range, And, Or, Not]


def check_filter(where: Filter, fields: Fields) -> None:
    """Raise InvalidArgumentError unless every comparison is of a field that is there, with values of its type.

    Args:
        where: the tree.
        fields: declared ones; `label` and `id` are always there.
    """
    _Checker({**BUILT_IN_FIELDS, **fields}).check(where, 1)


def type_of(value: object) -> FieldType | None:
    """Return the type of a value of metadata, or None where a declared field cannot hold it."""
    if isinstance(value, bool):
        return FieldType.BOOLEAN
    if isinstance(value, (int, float)):
        return FieldType.NUMBER
    return FieldType.STRING if isinstance(value, str) else None


class _Checker:
    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._nodes = 0
        self._values = 0

    def check(self, where: Filter, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES or depth > MOST_DEPTH:
            raise _wrong(f"expected at most {MOST_NODES} expressions, nested at most {MOST_DEPTH} deep; came more")
        if isinstance(where, Not):
            self.check(where.operand, depth + 1)
        elif isinstance(where, (And, Or)):
            if not where.operands:
                raise _wrong("expected at least one operand of all_of and any_of, came none")
            for operand in where.operands:
                self.check(operand, depth + 1)
        elif isinstance(where, Range):
            self._check_range(where)
        else:
            self._check_values(where)

    def _check_values(self, where: Eq | In) -> None:
        values = (where.value,) if isinstance(where, Eq) else where.values
        self._values += len(values)
        if not values or self._values > MOST_VALUES:
            raise _wrong(f"{where.field}: expected 1 to {MOST_VALUES} values in a filter, came {self._values}")
        wanted = self._type(where.field)
        for value in values:
            if type_of(value) is not wanted:
                raise _wrong(f"{where.field}: expected values of type {wanted.value}, came {value!r}")

    def _check_range(self, where: Range) -> None:
        wanted = self._type(where.field)
        bounds = [bound for bound in (where.at_least, where.above, where.at_most, where.below) if bound is not None]
        if wanted is not FieldType.NUMBER or not bounds or any(type_of(b) is not wanted or b != b for b in bounds):  # noqa: PLR0124
            raise _wrong(
                f"{where.field}: expected one bound at least, all of them numbers, of a field that holds numbers; "
                f"came {bounds} for a {wanted.value}"
            )

    def _type(self, field: str) -> FieldType:
        if field not in self._fields:
            known = ", ".join(self._fields)
            raise _wrong(f'expected one of the declared fields ({known}), came "{field[:80]}"')
        return self._fields[field]


def _wrong(message: str) -> InvalidArgumentError:
    return InvalidArgumentError("where", message)
