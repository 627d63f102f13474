"""Conditions that people type: `brand=cola`, `price>=2`, `brand in cola,pepsi`, or a filter as JSON."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Final

from google.protobuf import json_format

from shitu.v1 import types_pb2
from shitu_client.errors import InputError
from shitu_client.filters import Condition, Value, field
from shitu_client.values import typed_value

_ALWAYS_THERE: Final = {"label": "string", "id": "string"}
_COMPARISON: Final = re.compile(
    r"\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"(?:\s+(?P<word>not\s+in|in)\s+|\s*(?P<sign>>=|<=|!=|==|=|>|<)\s*)"
    r"(?P<value>.*?)\s*",
    re.DOTALL,
)
_EQUAL: Final[dict[str, Callable[[Any, Value], Condition]]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_ORDERED: Final[dict[str, Callable[[Any, Value], Condition]]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_FORMS: Final = "NAME=VALUE, NAME!=VALUE, NAME>=NUMBER (or >, <=, <), NAME in VALUE,VALUE, NAME not in VALUE,VALUE, or a filter as JSON"


def condition_of(texts: Sequence[str], fields: Mapping[str, str]) -> Condition | None:
    """Return the condition that all texts hold; None where there is none.

    Args:
        texts: as they were typed.
        fields: names and types that the gallery declares; a text's value is read as the type of its field.

    Raises:
        InputError: a text is no condition, or names a field that there is not.
    """
    conditions = [_condition(text, {**fields, **_ALWAYS_THERE}) for text in texts]
    return reduce(operator.and_, conditions) if conditions else None


def _condition(text: str, fields: Mapping[str, str]) -> Condition:
    if text.lstrip().startswith("{"):
        return _from_json(text)
    parts = _COMPARISON.fullmatch(text)
    if parts is None:
        raise InputError(f"--where: expected {_FORMS}; got {text!r}")
    name, value = parts["name"], parts["value"]
    if name not in fields:
        raise InputError(f"--where {text!r}: the gallery has no field {name}; it has {_described(fields)}")
    if parts["word"]:
        values = [_value(part.strip(), fields[name], name, text) for part in value.split(",")]
        among = field(name).is_in(values)
        return ~among if parts["word"].startswith("not") else among
    return _compared(name, parts["sign"], _value(value, fields[name], name, text), fields[name], text)


def _compared(name: str, sign: str, value: Value, kind: str, text: str) -> Condition:
    if sign in _EQUAL:
        return _EQUAL[sign](field(name), value)
    if kind != "number":
        raise InputError(f"--where {text!r}: {sign} is for numbers, and {name} is a {kind}")
    return _ORDERED[sign](field(name), value)


def _value(text: str, kind: str, name: str, condition: str) -> Value:
    try:
        return typed_value(text, kind, name)
    except InputError as error:
        raise InputError(f"--where {condition!r}: {error}") from error


def _from_json(text: str) -> Condition:
    try:
        message = json_format.Parse(text, types_pb2.Filter())
    except json_format.ParseError as error:
        raise InputError(f"--where: expected a shitu.v1.Filter as JSON, got {text!r}: {error}") from error
    return Condition.of_message(message)


def _described(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in fields.items())
