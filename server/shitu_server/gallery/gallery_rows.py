"""Galleries and their aliases as they are stored."""

# ruff: noqa: S608  # what is put into statements are constants of this module; values go in by parameters

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shitu_server.filters import FieldType
from shitu_server.types import GalleryOptions, IndexKind, Metric

_COLUMNS: Final = (
    "generation, name, draft_of, previous_of, encoder_fingerprint, dimension, metric, index_kind, fields, sequence, "
    "publish_sequence, item_count, create_time_s"
)


@dataclass(frozen=True)
class GalleryRow:
    """One generation of a gallery."""

    generation: int
    name: str
    """Of the gallery, whatever the generation's part in it; empty where it is deleted."""
    is_live: bool
    encoder_fingerprint: str
    dimension: int
    options: GalleryOptions
    sequence: int
    publish_sequence: int
    """Its sequence when it became the live one; 0 where it always was."""
    item_count: int
    create_time_s: float


class GalleryRows:
    """The tables `galleries` and `aliases`. Whoever changes them is inside a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def live(self) -> list[GalleryRow]:
        """Return the live generations, by name."""
        return self._rows("name IS NOT NULL ORDER BY name")

    def drafts(self) -> list[GalleryRow]:
        """Return the generations that are being filled."""
        return self._rows("draft_of IS NOT NULL ORDER BY draft_of")

    def generations(self) -> set[int]:
        """Return all that are there, deleted ones too."""
        return {int(row[0]) for row in self._connection.execute("SELECT generation FROM galleries")}

    def count(self) -> int:
        """Return how many galleries there are."""
        return int(self._connection.execute("SELECT COUNT(name) FROM galleries").fetchone()[0])

    def find(self, name: str) -> GalleryRow | None:
        """Return the live generation of that name."""
        return self._one("name = ?", name)

    def draft_of(self, name: str) -> GalleryRow | None:
        """Return the generation that is being filled beside it."""
        return self._one("draft_of = ?", name)

    def previous_of(self, name: str) -> GalleryRow | None:
        """Return the generation before the live one."""
        return self._one("previous_of = ?", name)

    def previous(self) -> dict[str, int]:
        """Return the generation before the live one, by name; of galleries that have one."""
        query = "SELECT previous_of, generation FROM galleries WHERE previous_of IS NOT NULL"
        return dict(self._connection.execute(query))

    def at(self, generation: int) -> GalleryRow | None:
        """Return a generation."""
        return self._one("generation = ?", generation)

    def insert(
        self,
        name: str,
        encoder_fingerprint: str,
        dimension: int,
        options: GalleryOptions,
        create_time_s: float,
        *,
        as_draft: bool = False,
    ) -> GalleryRow:
        """Add an empty generation, live or to be filled."""
        part = "draft_of" if as_draft else "name"
        columns = (
            f"{part}, encoder_fingerprint, dimension, metric, index_kind, fields, sequence, item_count, create_time_s"
        )
        generation = self._connection.execute(
            f"INSERT INTO galleries ({columns}) VALUES (?, ?, ?, ?, ?, ?, 1, 0, ?)",
            (
                name,
                encoder_fingerprint,
                dimension,
                options.metric.value,
                options.index_kind.value,
                json.dumps({field: kind.value for field, kind in options.fields.items()}),
                create_time_s,
            ),
        ).lastrowid
        assert generation is not None
        return self._there(generation)

    def hide(self, generation: int) -> None:
        """Delete a generation; its rows are purged later, since so many deletes at once would keep other writes waiting."""
        self._connection.execute(
            "UPDATE galleries SET name = NULL, draft_of = NULL, previous_of = NULL WHERE generation = ?", (generation,)
        )

    def advance(self, generation: int, count_change: int) -> GalleryRow:
        """Number a write and return the generation after it."""
        self._connection.execute(
            "UPDATE galleries SET sequence = sequence + 1, item_count = item_count + ? WHERE generation = ?",
            (count_change, generation),
        )
        return self._there(generation)

    def go_live(self, generation: int, name: str, sequence: int) -> GalleryRow:
        """Make a generation the live one of a name that is free, its state numbered `sequence`."""
        self._connection.execute(
            "UPDATE galleries SET name = ?, draft_of = NULL, previous_of = NULL, sequence = ?, publish_sequence = ? "
            "WHERE generation = ?",
            (name, sequence, sequence, generation),
        )
        return self._there(generation)

    def retire(self, generation: int, name: str) -> GalleryRow:
        """Make the live generation the previous one of its name."""
        self._connection.execute(
            "UPDATE galleries SET name = NULL, previous_of = ? WHERE generation = ?", (name, generation)
        )
        return self._there(generation)

    def aliases(self) -> dict[str, str]:
        """Return the gallery's name by alias."""
        return dict(self._connection.execute("SELECT alias, name FROM aliases ORDER BY alias"))

    def set_alias(self, alias: str, name: str) -> None:
        """Make or move an alias."""
        self._connection.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?)", (alias, name))

    def remove_alias(self, alias: str) -> bool:
        """Return whether it was there."""
        return bool(self._connection.execute("DELETE FROM aliases WHERE alias = ?", (alias,)).rowcount)

    def remove_aliases_of(self, name: str) -> None:
        """Remove all aliases of a gallery."""
        self._connection.execute("DELETE FROM aliases WHERE name = ?", (name,))

    def _there(self, generation: int) -> GalleryRow:
        row = self.at(generation)
        assert row is not None
        return row

    def _one(self, condition: str, value: object) -> GalleryRow | None:
        return next(iter(self._rows(condition, value)), None)

    def _rows(self, condition: str, *values: object) -> list[GalleryRow]:
        query = f"SELECT {_COLUMNS} FROM galleries WHERE {condition}"
        return [_row(*columns) for columns in self._connection.execute(query, values)]


def _row(
    generation: int,
    name: str | None,
    draft_of: str | None,
    previous_of: str | None,
    encoder_fingerprint: str,
    dimension: int,
    metric: str,
    index_kind: str,
    fields: str,
    *numbers: Any,
) -> GalleryRow:
    declared: Mapping[str, str] = json.loads(fields)
    options = GalleryOptions(
        Metric(metric), IndexKind(index_kind), {field: FieldType(kind) for field, kind in declared.items()}
    )
    known = name or draft_of or previous_of or ""
    return GalleryRow(generation, known, name is not None, encoder_fingerprint, dimension, options, *numbers)
