"""Values that people type, by the types of fields."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

from shitu_client.errors import InputError
from shitu_client.filters import Value

FIELD_TYPES: Final = ("string", "number", "boolean")
_BOOLEANS: Final = {"true": True, "false": False}


def typed_value(text: str, kind: str, field: str) -> Value:
    """Return what was typed for a field of a type.

    Raises:
        InputError: it is no value of the type.
    """
    if kind == "number":
        return _number(text, field)
    if kind == "boolean":
        if text.lower() not in _BOOLEANS:
            raise InputError(f"{field} is true or false, got {text!r}")
        return _BOOLEANS[text.lower()]
    return text


def guessed_value(text: str) -> Any:
    """Return what was typed for a field whose type nobody declared: what JSON makes of it, or the text."""
    try:
        return parsed_json(text)
    except ValueError:
        return text


def parsed_json(text: str) -> Any:
    """Return what JSON says; NaN and infinities, which Python reads, are none of its.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return json.loads(text, parse_constant=_refused)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def field_types(declarations: Sequence[str]) -> dict[str, str]:
    """Return the types of fields that are declared as `name:type`.

    Raises:
        InputError: a declaration is something else, or a field has two.
    """
    fields: dict[str, str] = {}
    for declaration in declarations:
        name, _, kind = declaration.partition(":")
        if not name or kind not in FIELD_TYPES:
            raise InputError(f"--field: expected name:type with the type {_listed(FIELD_TYPES)}, got {declaration!r}")
        if name in fields:
            raise InputError(f"--field: expected each name once, got {name} again")
        fields[name] = kind
    return fields


def _number(text: str, field: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{field} is a number, got {text!r}")
    return number


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
