"""Metadata of many items in one file: lines `{"id": ..., "metadata": {...}}`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shitu_client.errors import InputError
from shitu_client.values import parsed_json

_MAX_BYTES: Final = 1024 * 1024 * 1024


def read_metadata(file: Path) -> dict[str, Mapping[str, Any]]:
    """Return metadata by the item's id.

    Raises:
        InputError: a line is something else, or names an id again; the first such line is named.
    """
    if file.is_file() and file.stat().st_size > _MAX_BYTES:
        raise InputError(f"{file}: expected at most {_MAX_BYTES} bytes")
    found: dict[str, Mapping[str, Any]] = {}
    with file.open(encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    item_id, metadata = _entry(line, f"{file}:{number}")
                    if item_id in found:
                        raise InputError(f"{file}:{number}: expected each id once, got {item_id!r} again")
                    found[item_id] = metadata
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: expected UTF-8 text") from error
    return found


def _entry(line: str, where: str) -> tuple[str, Mapping[str, Any]]:
    expected = '{"id": "...", "metadata": {...}}'
    try:
        entry = parsed_json(line)
    except ValueError as error:
        raise InputError(f"{where}: expected {expected}, got {line.strip()[:80]!r}: {error}") from error
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("id"), str)
        or not isinstance(entry.get("metadata"), dict)
    ):
        raise InputError(f"{where}: expected {expected}, got {line.strip()[:80]!r}")
    return entry["id"], entry["metadata"]
