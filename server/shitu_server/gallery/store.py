"""The truth about galleries: one SQLite database, written by one connection.

All galleries share a database, so that one commit (one fsync) makes the writes of all of them durable together. The connection
of `GalleryStore` is the only one that writes and the only one that checkpoints: SQLite before 3.51.3 can lose writes when two do.
Vectors and pictures stand in separate tables, so that loading the vectors does not read past the pictures.

A row of `galleries` is one generation of a gallery; without a name it is deleted and waits to be purged.
"""

# ruff: noqa: S608  # what is put into statements are constants of this module; values go in by parameters

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from shitu_server.errors import ConfigurationError, StorageError
from shitu_server.gallery.checks import CheckedItem
from shitu_server.types import Vectors

FILE_NAME: Final = "galleries.sqlite3"
FORMAT_VERSION: Final = 1
"""In `PRAGMA user_version`."""
PAGE_SIZE_BYTES: Final = 16384
"""100,000 rows of 512 numbers: 239 MB, loaded in 0.12 s; with SQLite's 4096 they take 415 MB and 0.82 s."""
LOAD_ROWS: Final = 4096
UNIT_TOLERANCE: Final = 1e-3
"""Lengths of stored vectors may differ from 1 by float32 rounding, far less than this."""

_GALLERY_COLUMNS: Final = "generation, name, encoder_fingerprint, dimension, sequence, item_count, create_time_s"

_SCHEMA: Final = f"""
CREATE TABLE galleries (
    generation INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT UNIQUE,
    encoder_fingerprint TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    item_count INTEGER NOT NULL,
    create_time_s REAL NOT NULL
) STRICT;
CREATE TABLE items (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT,
    generation INTEGER NOT NULL REFERENCES galleries,
    item_id TEXT NOT NULL,
    label TEXT NOT NULL,
    metadata TEXT NOT NULL,
    update_time_s REAL NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (generation, item_id)
) STRICT;
CREATE INDEX items_by_age ON items (generation, row_id);
CREATE INDEX items_by_label ON items (generation, label, row_id);
CREATE TABLE thumbnails (
    row_id INTEGER PRIMARY KEY REFERENCES items ON DELETE CASCADE,
    image BLOB NOT NULL
) STRICT;
PRAGMA user_version = {FORMAT_VERSION};
"""


@dataclass(frozen=True)
class GalleryRow:
    """A gallery as it is stored."""

    generation: int
    name: str
    encoder_fingerprint: str
    dimension: int
    sequence: int
    item_count: int
    create_time_s: float


@dataclass(frozen=True)
class VectorRows:
    """Rows of `items`, oldest first, to build an index from."""

    row_ids: tuple[int, ...]
    item_ids: tuple[str, ...]
    labels: tuple[str, ...]
    metadata: tuple[str, ...]
    vectors: Vectors
    """float32 [n, dimension], L2-normalised."""


@dataclass(frozen=True)
class Upserted:
    """What became of an item."""

    row_id: int
    replaced: bool


def damaged(path: Path, error: sqlite3.Error) -> str:
    """Return the message for a database that cannot be read."""
    return (
        f"the gallery database {path} cannot be read: {error}; the file is damaged or its disk fails. "
        f"Restore a copy of {path.parent}, or move that directory away to begin with empty galleries"
    )


class GalleryStore:
    """The writing connection. One thread uses it at a time."""

    def __init__(self, directory: Path) -> None:
        """Open the database, or make it.

        Raises:
            ConfigurationError: the file is none of ours, is broken, or was written by a later version.
        """
        self.path: Final = directory / FILE_NAME
        try:
            self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._prepare()
        except sqlite3.Error as error:
            raise ConfigurationError(damaged(self.path, error)) from error

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute(f"PRAGMA page_size = {PAGE_SIZE_BYTES}")
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = ON")
        execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
        version = execute("PRAGMA user_version").fetchone()[0]
        if version > FORMAT_VERSION:
            raise ConfigurationError(
                f"{self.path} has format {version}, this program knows {FORMAT_VERSION}: it was written by a later version; "
                "run that one"
            )
        if version == 0:
            self._connection.executescript(f"BEGIN;{_SCHEMA}COMMIT;")

    def close(self) -> None:
        """Move the log into the database and close it."""
        with contextlib.suppress(sqlite3.Error):  # the log is read at the next start
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the writes inside are on disk when it ends, or none where an exception leaves it.

        Raises:
            StorageError: the disk is full or fails.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            # Subclasses other than OperationalError are misuse of SQLite, hence bugs.
            if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
                raise StorageError(
                    f"nothing was written, the disk of {self.path.parent} refuses: {error}; free space or mend it, then send again"
                ) from error
            raise

    def galleries(self) -> list[GalleryRow]:
        """Return all that are not deleted. Raises ConfigurationError where the database is damaged."""
        query = f"SELECT {_GALLERY_COLUMNS} FROM galleries WHERE name IS NOT NULL ORDER BY name"
        with self._loading():
            return [GalleryRow(*row) for row in self._connection.execute(query)]

    def gallery_count(self) -> int:
        """Return how many galleries are not deleted."""
        return int(self._connection.execute("SELECT COUNT(name) FROM galleries").fetchone()[0])

    def find(self, name: str) -> GalleryRow | None:
        """Return the gallery of that name."""
        query = f"SELECT {_GALLERY_COLUMNS} FROM galleries WHERE name = ?"
        row = self._connection.execute(query, (name,)).fetchone()
        return None if row is None else GalleryRow(*row)

    def insert_gallery(self, name: str, encoder_fingerprint: str, dimension: int, create_time_s: float) -> GalleryRow:
        """Add an empty gallery whose name is free."""
        generation = self._connection.execute(
            "INSERT INTO galleries (name, encoder_fingerprint, dimension, sequence, item_count, create_time_s) "
            "VALUES (?, ?, ?, 1, 0, ?)",
            (name, encoder_fingerprint, dimension, create_time_s),
        ).lastrowid
        assert generation is not None
        return GalleryRow(generation, name, encoder_fingerprint, dimension, 1, 0, create_time_s)

    def hide_gallery(self, generation: int) -> None:
        """Delete a gallery; `purge` removes its rows, since so many deletes at once would keep other writes waiting."""
        self._connection.execute("UPDATE galleries SET name = NULL WHERE generation = ?", (generation,))

    def purge(self, row_count: int) -> bool:
        """Remove up to `row_count` items of deleted galleries; return whether there may be more. Inside a transaction."""
        execute = self._connection.execute
        row = execute("SELECT generation FROM galleries WHERE name IS NULL LIMIT 1").fetchone()
        if row is None:
            return False
        rows = "SELECT row_id FROM items WHERE generation = ? ORDER BY row_id LIMIT ?"
        removed = execute(f"DELETE FROM items WHERE row_id IN ({rows})", (row[0], row_count)).rowcount
        if removed < row_count:
            execute("DELETE FROM galleries WHERE generation = ?", row)
        return True

    def upsert(self, generation: int, items: Sequence[CheckedItem], update_time_s: float) -> list[Upserted]:
        """Add items or replace those of the same id, which keep their row id and hence their age."""
        return [self._upsert(generation, item, update_time_s) for item in items]

    def _upsert(self, generation: int, item: CheckedItem, update_time_s: float) -> Upserted:
        execute = self._connection.execute
        key = "SELECT row_id FROM items WHERE generation = ? AND item_id = ?"
        found = execute(key, (generation, item.id)).fetchone()
        values = (item.label, item.metadata_json, update_time_s, item.vector.astype("<f4").tobytes())
        if found is None:
            columns = "label, metadata, update_time_s, vector, generation, item_id"
            statement = f"INSERT INTO items ({columns}) VALUES (?, ?, ?, ?, ?, ?)"
            row_id = execute(statement, (*values, generation, item.id)).lastrowid
            assert row_id is not None
        else:
            row_id = int(found[0])
            statement = "UPDATE items SET label = ?, metadata = ?, update_time_s = ?, vector = ? WHERE row_id = ?"
            execute(statement, (*values, row_id))
            execute("DELETE FROM thumbnails WHERE row_id = ?", (row_id,))
        if item.thumbnail:
            execute("INSERT INTO thumbnails (row_id, image) VALUES (?, ?)", (row_id, item.thumbnail))
        return Upserted(row_id, found is not None)

    def remove(self, generation: int, item_ids: Sequence[str]) -> list[str]:
        """Remove items; return the ids that were there."""
        statement = "DELETE FROM items WHERE generation = ? AND item_id = ?"
        return [i for i in item_ids if self._connection.execute(statement, (generation, i)).rowcount]

    def advance(self, generation: int, count_change: int) -> GalleryRow:
        """Number a write of a gallery and return the gallery after it."""
        self._connection.execute(
            "UPDATE galleries SET sequence = sequence + 1, item_count = item_count + ? WHERE generation = ?",
            (count_change, generation),
        )
        query = f"SELECT {_GALLERY_COLUMNS} FROM galleries WHERE generation = ?"
        return GalleryRow(*self._connection.execute(query, (generation,)).fetchone())

    def vectors(self, gallery: GalleryRow) -> Iterator[VectorRows]:
        """Yield all rows of a gallery, oldest first.

        Raises:
            ConfigurationError: the database is damaged, a vector has another length, is not finite or not normalised, or rows are
                missing.
        """
        # In a damaged row the vector may be of any type: made bytes, it is refused by its length.
        vector = "CAST(coalesce(vector, '') AS BLOB)"
        query = f"SELECT row_id, item_id, label, metadata, {vector} FROM items WHERE generation = ? ORDER BY row_id"
        with self._loading():
            cursor = self._connection.execute(query, (gallery.generation,))
        count = 0
        while rows := self._fetched(cursor):
            row_ids, item_ids, labels, metadata, blobs = zip(*rows, strict=True)
            count += len(rows)
            yield VectorRows(row_ids, item_ids, labels, metadata, self._checked(gallery, item_ids, blobs))
        if count != gallery.item_count:
            raise ConfigurationError(
                f'{self.path}: gallery "{gallery.name}" should hold {gallery.item_count} items, {count} are there; '
                "the database is broken, restore it from a backup"
            )

    def _fetched(self, cursor: sqlite3.Cursor) -> list[tuple[int, str, str, str, bytes]]:
        with self._loading():
            return cursor.fetchmany(LOAD_ROWS)

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ConfigurationError(damaged(self.path, error)) from error

    def _checked(self, gallery: GalleryRow, item_ids: Sequence[str], blobs: Sequence[bytes]) -> Vectors:
        wanted_bytes = 4 * gallery.dimension
        wrong = next((i for i, blob in enumerate(blobs) if len(blob) != wanted_bytes), None)
        if wrong is not None:
            raise self._broken(gallery, item_ids[wrong], f"{len(blobs[wrong])} bytes, expected {wanted_bytes}")
        vectors = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), -1).astype(np.float32, copy=False)
        lengths = np.einsum("ij,ij->i", vectors, vectors)
        usable = np.abs(lengths - 1) < UNIT_TOLERANCE  # False for NaN too
        if not usable.all():
            wrong = int(np.argmin(usable))
            raise self._broken(gallery, item_ids[wrong], f"squared length {lengths[wrong]}, expected 1")
        return vectors

    def _broken(self, gallery: GalleryRow, item_id: str, problem: str) -> ConfigurationError:
        return ConfigurationError(
            f'{self.path}: the vector of item "{item_id}" in gallery "{gallery.name}" is broken ({problem}); '
            "restore the database from a backup, or remove that row"
        )
