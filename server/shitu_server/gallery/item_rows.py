"""Items as they are stored, each with a checksum: SQLite itself does not notice a bit that the disk flipped."""

# ruff: noqa: S608  # what is put into statements are constants of this module; values go in by parameters

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shitu_server.gallery.checks import CheckedItem, CheckedUpdate
from shitu_server.gallery.gallery_rows import GalleryRow
from shitu_server.types import Metric, Vectors

LOAD_ROWS: Final = 4096
UNIT_TOLERANCE: Final = 1e-3
"""Lengths of stored vectors may differ from 1 by float32 rounding, far less than this."""


class DamagedGalleryError(Exception):
    """Rows of a gallery are not as they were written; the message names the item."""


@dataclass(frozen=True)
class VectorRows:
    """Rows of `items`, oldest first, to build an index from."""

    row_ids: tuple[int, ...]
    item_ids: tuple[str, ...]
    labels: tuple[str, ...]
    metadata: tuple[str, ...]
    vectors: Vectors
    """float32 [n, dimension]."""


@dataclass(frozen=True)
class StoredItem:
    """What became of an item that was written."""

    row_id: int
    replaced: bool


@dataclass(frozen=True)
class Relabelled:
    """An item whose label or metadata were changed."""

    row_id: int
    item_id: str
    label: str
    metadata_json: str


def item_checksum(item_id: str, label: str, metadata_json: str, vector: bytes) -> int:
    """Return the CRC-32 of an item."""
    return zlib.crc32(vector, zlib.crc32(f"{item_id}\0{label}\0{metadata_json}".encode()))


class ItemRows:
    """The tables `items` and `thumbnails`. Whoever changes them is inside a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def upsert(self, generation: int, item: CheckedItem, sequence: int, update_time_s: float) -> StoredItem:
        """Add an item or replace that of the same id, which keeps its row id and hence its age."""
        execute = self._connection.execute
        key = "SELECT row_id FROM items WHERE generation = ? AND item_id = ?"
        found = execute(key, (generation, item.id)).fetchone()
        vector = item.vector.astype("<f4").tobytes()
        checksum = item_checksum(item.id, item.label, item.metadata_json, vector)
        digest = item.image_digest or None
        values = (item.label, item.metadata_json, update_time_s, vector, sequence, checksum, digest)
        if found is None:
            columns = "label, metadata, update_time_s, vector, sequence, checksum, image_digest, generation, item_id"
            statement = f"INSERT INTO items ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            row_id = execute(statement, (*values, generation, item.id)).lastrowid
            assert row_id is not None
        else:
            row_id = int(found[0])
            changes = (
                "label = ?, metadata = ?, update_time_s = ?, vector = ?, sequence = ?, checksum = ?, image_digest = ?"
            )
            execute(f"UPDATE items SET {changes} WHERE row_id = ?", (*values, row_id))
            execute("DELETE FROM thumbnails WHERE row_id = ?", (row_id,))
        if item.thumbnail:
            statement = "INSERT INTO thumbnails (row_id, image, checksum) VALUES (?, ?, ?)"
            execute(statement, (row_id, item.thumbnail, zlib.crc32(item.thumbnail)))
        return StoredItem(row_id, found is not None)

    def has(self, generation: int, item_id: str) -> bool:
        """Return whether there is an item of that id."""
        query = "SELECT 1 FROM items WHERE generation = ? AND item_id = ?"
        return self._connection.execute(query, (generation, item_id)).fetchone() is not None

    def relabel(self, generation: int, update: CheckedUpdate, sequence: int, update_time_s: float) -> Relabelled | None:
        """Change label or metadata of an item; None where there is none of that id."""
        execute = self._connection.execute
        key = "SELECT row_id, label, metadata, vector FROM items WHERE generation = ? AND item_id = ?"
        found = execute(key, (generation, update.id)).fetchone()
        if found is None:
            return None
        row_id, label, metadata, vector = found
        label = label if update.label is None else update.label
        metadata = metadata if update.metadata_json is None else update.metadata_json
        checksum = item_checksum(update.id, label, metadata, vector)
        execute(
            "UPDATE items SET label = ?, metadata = ?, update_time_s = ?, sequence = ?, checksum = ? WHERE row_id = ?",
            (label, metadata, update_time_s, sequence, checksum, row_id),
        )
        return Relabelled(row_id, update.id, label, metadata)

    def twin_of(self, generation: int, item: CheckedItem) -> str:
        """Return the id of another item that was made of the same picture, or an empty one."""
        if not item.image_digest:
            return ""
        query = "SELECT item_id FROM items WHERE generation = ? AND image_digest = ? AND item_id != ? LIMIT 1"
        found = self._connection.execute(query, (generation, item.image_digest, item.id)).fetchone()
        return "" if found is None else str(found[0])

    def remove(self, generation: int, item_ids: Sequence[str]) -> list[str]:
        """Remove items; return the ids that were there."""
        statement = "DELETE FROM items WHERE generation = ? AND item_id = ?"
        return [i for i in item_ids if self._connection.execute(statement, (generation, i)).rowcount]

    def purge(self, generation: int, row_count: int) -> int:
        """Remove up to `row_count` items of a generation; return how many."""
        rows = "SELECT row_id FROM items WHERE generation = ? ORDER BY row_id LIMIT ?"
        statement = f"DELETE FROM items WHERE row_id IN ({rows})"
        return self._connection.execute(statement, (generation, row_count)).rowcount

    def copy(
        self, source: int, target: int, item_id: str, source_sequence: int, vector: bytes
    ) -> tuple[CheckedItem, StoredItem] | None:
        """Put an item of one generation into another, with another vector and all else the same, its sequence too.

        None where the source has no such item any more, or a newer version of it.
        """
        query = (
            "SELECT label, metadata, image, image_digest, update_time_s FROM items LEFT JOIN thumbnails USING (row_id) "
            "WHERE generation = ? AND item_id = ? AND sequence = ?"
        )
        found = self._connection.execute(query, (source, item_id, source_sequence)).fetchone()
        if found is None:
            return None
        label, metadata, image, digest, update_time_s = found
        numbers = np.frombuffer(vector, dtype="<f4").astype(np.float32, copy=False)
        item = CheckedItem(item_id, label, numbers, metadata, image or b"", digest or b"")
        return item, self.upsert(target, item, source_sequence, update_time_s)

    def changed_since(self, generation: int, sequence: int) -> list[int]:
        """Return the row ids of items that were written after a state."""
        query = "SELECT row_id FROM items WHERE generation = ? AND sequence > ?"
        return [row[0] for row in self._connection.execute(query, (generation, sequence))]

    def vectors(self, gallery: GalleryRow) -> Iterator[VectorRows]:
        """Yield all rows of a generation, oldest first.

        Raises:
            DamagedGalleryError: a row is not as it was written, or rows are missing.
            sqlite3.Error: the database is damaged.
        """
        # In a damaged row the vector may be of any type: made bytes, it is refused by its length.
        vector = "CAST(coalesce(vector, '') AS BLOB)"
        query = f"SELECT row_id, item_id, label, metadata, checksum, {vector} FROM items WHERE generation = ? ORDER BY row_id"
        cursor = self._connection.execute(query, (gallery.generation,))
        count = 0
        while rows := cursor.fetchmany(LOAD_ROWS):
            row_ids, item_ids, labels, metadata, checksums, blobs = zip(*rows, strict=True)
            count += len(rows)
            vectors = _checked_vectors(gallery, item_ids, blobs)
            _check_sums(item_ids, labels, metadata, checksums, blobs)
            yield VectorRows(row_ids, item_ids, labels, metadata, vectors)
        if count != gallery.item_count:
            raise DamagedGalleryError(f"it should hold {gallery.item_count} items, {count} are there")


def _check_sums(
    item_ids: Sequence[str],
    labels: Sequence[str],
    metadata: Sequence[str],
    checksums: Sequence[int | None],
    blobs: Sequence[bytes],
) -> None:
    for item_id, label, text, checksum, blob in zip(item_ids, labels, metadata, checksums, blobs, strict=True):
        # Rows of version 1 have none.
        if checksum is not None and item_checksum(item_id, label, text, blob) != checksum:
            raise DamagedGalleryError(f'item "{item_id}" is not as it was written (its checksum differs)')


def _checked_vectors(gallery: GalleryRow, item_ids: Sequence[str], blobs: Sequence[bytes]) -> Vectors:
    wanted_bytes = 4 * gallery.dimension
    wrong = next((i for i, blob in enumerate(blobs) if len(blob) != wanted_bytes), None)
    if wrong is not None:
        raise DamagedGalleryError(
            f'the vector of item "{item_ids[wrong]}" has {len(blobs[wrong])} bytes, expected {wanted_bytes}'
        )
    vectors = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), -1).astype(np.float32, copy=False)
    lengths = np.einsum("ij,ij->i", vectors, vectors)
    unit = gallery.options.metric is Metric.INNER_PRODUCT
    usable = np.abs(lengths - 1) < UNIT_TOLERANCE if unit else np.isfinite(lengths)  # False for NaN too
    if not usable.all():
        place = int(np.argmin(usable))
        raise DamagedGalleryError(f'the vector of item "{item_ids[place]}" has the squared length {lengths[place]}')
    return vectors
