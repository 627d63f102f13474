"""Reads of items and their pictures from the database, beside the writer."""

# ruff: noqa: S608  # what is put into statements are constants of this module; values go in by parameters

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shitu_server.errors import ConfigurationError, StorageError
from shitu_server.gallery.checks import shown
from shitu_server.gallery.item_rows import item_checksum
from shitu_server.gallery.store import damaged
from shitu_server.types import Item, Metadata, Page

_BYTES: Final = "CAST(coalesce({}, '') AS BLOB)"
"""In a damaged row a value may be of any type: made bytes, it fails its checksum."""
_COLUMNS: Final = "item_id, label, metadata, update_time_s, image_digest, sequence"


PICTURES_BYTES: Final = 16 * 1024 * 1024
"""Of a page of a draft: 64 pictures of the greatest size, a quarter of what a reply may hold."""


@dataclass(frozen=True)
class DraftChanges:
    """What a draft lacks."""

    items: tuple[Item, ...]
    """With thumbnails."""
    last_row_id: int
    sequence: int
    """Of the live generation when this was read."""


class StoreReader:
    """A read-only connection: it never waits for the writer and never checkpoints. One thread uses it at a time."""

    def __init__(self, path: Path) -> None:
        """Open the database, which is there. Raises ConfigurationError where it cannot be opened."""
        self._path = path
        address = f"{path.absolute().as_uri()}?mode=ro"
        try:
            self._connection = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise ConfigurationError(damaged(path, error)) from error

    def close(self) -> None:
        """Close the connection; before the writer's, which checkpoints."""
        self._connection.close()

    def item(self, generation: int, item_id: str) -> Item | None:
        """Return an item with its vector and thumbnail. Raises StorageError where it is not as it was written."""
        query = (
            f"SELECT {_COLUMNS}, {_BYTES.format('vector')}, items.checksum, CAST(image AS BLOB), thumbnails.checksum FROM items "
            "LEFT JOIN thumbnails USING (row_id) WHERE generation = ? AND item_id = ?"
        )
        rows = self._rows(query, (generation, item_id))
        if not rows:
            return None
        *columns, vector, checksum, image, image_checksum = rows[0]
        if checksum not in (None, item_checksum(item_id, columns[1], columns[2], vector)):
            raise self._changed(item_id)
        unit = np.frombuffer(vector, dtype="<f4").astype(np.float32, copy=False)
        return self._item(columns, self._picture(item_id, image, image_checksum), unit)

    def page(self, generation: int, after_row_id: int, page_size: int, label: str) -> Page[Item]:
        """Return items after a row, oldest first, without vectors and thumbnails. The token is the last row id."""
        by_label, values = ("AND label = ?", (label,)) if label else ("", ())
        query = f"SELECT row_id, {_COLUMNS} FROM items WHERE generation = ? AND row_id > ? {by_label} ORDER BY row_id LIMIT ?"
        rows = self._rows(query, (generation, after_row_id, *values, page_size + 1))
        listed = rows[:page_size]
        entries = tuple(self._item(columns, b"", None) for _, *columns in listed)
        return Page(entries, str(listed[-1][0]) if len(rows) > page_size else "")

    def draft_changes(self, live: int, draft: int, since_sequence: int, after_row_id: int, most: int) -> DraftChanges:
        """Return items of the live generation that the draft has not, or not in this version, in the order of their rows.

        Args:
            live: generation to compare with.
            draft: the other.
            since_sequence: look only at items that were written later; 0 looks at all, those of version 1 too, whose number is 0.
            after_row_id: look only at rows behind this one.
            most: items to return; fewer where their pictures are over `PICTURES_BYTES` together, but one at least.
        """
        by = "INDEXED BY items_by_sequence" if since_sequence else ""
        query = (
            f"SELECT l.row_id, {', '.join(f'l.{name}' for name in _COLUMNS.split(', '))}, CAST(image AS BLOB), t.checksum "
            f"FROM items AS l {by} LEFT JOIN items AS d ON d.generation = ? AND d.item_id = l.item_id AND d.sequence = l.sequence "
            "LEFT JOIN thumbnails AS t ON t.row_id = l.row_id "
            "WHERE l.generation = ? AND l.sequence > ? AND l.row_id > ? AND d.row_id IS NULL ORDER BY l.row_id LIMIT ?"
        )
        with self._one_state():
            found = self._rows("SELECT sequence FROM galleries WHERE generation = ?", (live,))
            rows = self._rows(query, (draft, live, since_sequence or -1, after_row_id, most))
        sizes = itertools.accumulate(len(row[-2] or b"") for row in rows)
        rows = rows[: max(1, sum(size <= PICTURES_BYTES for size in sizes))]
        items = tuple(
            self._item(columns, self._picture(columns[0], *image), None)
            for _, *columns, image in ((*row[:-2], row[-2:]) for row in rows)
        )
        return DraftChanges(items, rows[-1][0] if rows else after_row_id, found[0][0] if found else 0)

    def without_thumbnail(self, generation: int) -> int:
        """Return how many items have no picture."""
        query = (
            "SELECT COUNT(*) FROM items WHERE generation = ? "
            "AND NOT EXISTS (SELECT 1 FROM thumbnails WHERE thumbnails.row_id = items.row_id)"
        )
        return int(self._rows(query, (generation,))[0][0])

    @contextlib.contextmanager
    def _one_state(self) -> Iterator[None]:
        """What is read inside is of one moment."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    def _item(self, columns: Sequence[Any], thumbnail: bytes, vector: NDArray[np.float32] | None) -> Item:
        item_id, label, metadata, update_time_s, digest, sequence = columns
        values = self._metadata(item_id, metadata)
        return Item(item_id, label, values, thumbnail, vector, update_time_s, digest or b"", sequence)

    def _picture(self, item_id: str, image: bytes | None, checksum: int | None) -> bytes:
        if image is not None and checksum not in (None, zlib.crc32(image)):
            raise self._changed(item_id)
        return image or b""

    def _changed(self, item_id: str) -> StorageError:
        return StorageError(
            f"the gallery database {self._path} is damaged: item {shown(item_id)} is not as it was written (its checksum "
            "differs); send the item again, or restore a snapshot of the gallery"
        )

    def _metadata(self, item_id: str, text: str) -> Metadata:
        try:
            metadata: Metadata = json.loads(text)
        except ValueError as error:
            problem = f'the metadata of item "{item_id}" is broken; send the item again'
            raise StorageError(f"the gallery database {self._path} is damaged: {problem}") from error
        return metadata

    def _rows(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(damaged(self._path, error)) from error
