"""Filters as Milvus' expressions.

Values stand in them as literals, since templates fail in Milvus 2.3: of text every character but letters and digits of ASCII, blank,
hyphen, dot and comma is escaped by its number, so that none has a meaning of its own.

Items keep the values of declared fields in a column for filters, numbers as float64 always: Milvus compares whole numbers and others
by different rules, and refuses metadata with numbers of more than 308 digits. An item without a value has no key there; Milvus takes a
comparison with it for false, and `not` of it for true, as filters are meant.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from shitu_server.filters import BUILT_IN_FIELDS, And, Eq, Fields, Filter, In, Not, Or, Range, Scalar

ID: Final = "id"
FIELDS: Final = "fields"
"""The column of the values that filters compare."""
NEVER: Final = f'{ID} == ""'
"""No item has an empty id."""

_ESCAPED: Final = re.compile(r"[^A-Za-z0-9 .,-]")


def literal(value: Scalar) -> str:
    """Return a value as it stands in an expression. A number must not be NaN."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{_ESCAPED.sub(_escape, value)}"'
    return repr(number(value))


def number(value: float) -> float:
    """Return a number as float64; the greatest instead of infinity, which neither JSON nor an expression can hold."""
    try:
        wide = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        wide = math.inf if value > 0 else -math.inf
    return wide if math.isnan(wide) else max(-sys.float_info.max, min(wide, sys.float_info.max))


def filterable(metadata: Mapping[str, object], declared: Fields) -> str:
    """Return the JSON of the column for filters: the declared fields that are there, with values of their types."""
    values = {name: metadata[name] for name in declared if name in metadata}
    return json.dumps(
        {
            name: number(v) if isinstance(v, (int, float)) and not isinstance(v, bool) else v
            for name, v in values.items()
        }
    )


def among(column: str, values: Sequence[Scalar]) -> str:
    """Return the expression for a column that has one of the values; NaN equals nothing."""
    texts = [literal(value) for value in values if value == value]  # noqa: PLR0124
    if not texts:
        return NEVER
    return f"{column} == {texts[0]}" if len(texts) == 1 else f"{column} in [{', '.join(texts)}]"


def expression(where: Filter) -> str:
    """Return the expression for a filter that `check_filter` let pass."""
    if isinstance(where, Not):
        return f"not ({expression(where.operand)})"
    if isinstance(where, (And, Or)):
        operator = " and " if isinstance(where, And) else " or "
        return operator.join(f"({expression(operand)})" for operand in where.operands)
    column = where.field if where.field in BUILT_IN_FIELDS else f'{FIELDS}["{where.field}"]'
    if isinstance(where, Eq):
        return among(column, (where.value,))
    return among(column, where.values) if isinstance(where, In) else _between(column, where)


def both(*expressions: str) -> str:
    """Return the expression for all that are not empty; empty where none is."""
    given = [one for one in expressions if one]
    return " and ".join(f"({one})" for one in given) if len(given) > 1 else "".join(given)


def _between(column: str, where: Range) -> str:
    bounds = ((">=", where.at_least), (">", where.above), ("<=", where.at_most), ("<", where.below))
    return " and ".join(f"{column} {operator} {literal(bound)}" for operator, bound in bounds if bound is not None)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004  # the Basic Multilingual Plane
