"""The truth about galleries: one SQLite database, written by one connection.

All galleries share a database, so that one commit (one fsync) makes the writes of all of them durable together. The connection
of `GalleryStore` is the only one that writes and the only one that checkpoints: SQLite before 3.51.3 can lose writes when two do.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shitu_server.errors import ConfigurationError, StorageError
from shitu_server.gallery.gallery_rows import GalleryRows
from shitu_server.gallery.item_rows import ItemRows
from shitu_server.gallery.schema import prepare

FILE_NAME: Final = "galleries.sqlite3"


def damaged(path: Path, error: Exception) -> str:
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
            prepare(self._connection, self.path)
            self.identity: Final = str(self._connection.execute("SELECT id FROM identity").fetchone()[0])
        except sqlite3.Error as error:
            raise ConfigurationError(damaged(self.path, error)) from error
        self.galleries: Final = GalleryRows(self._connection)
        self.items: Final = ItemRows(self._connection)

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

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Reads inside raise ConfigurationError where the database is damaged."""
        try:
            yield
        except (sqlite3.Error, ValueError) as error:  # the latter of a metric or a kind that is none
            raise ConfigurationError(damaged(self.path, error)) from error

    def purge(self, row_count: int) -> int | None:
        """Remove up to `row_count` items of a deleted generation. Inside a transaction.

        Returns:
            The generation, where it is gone altogether; 0 where there is more of it; None where there was nothing to remove.
        """
        query = (
            "SELECT generation FROM galleries WHERE name IS NULL AND draft_of IS NULL AND previous_of IS NULL LIMIT 1"
        )
        row = self._connection.execute(query).fetchone()
        if row is None:
            return None
        generation = int(row[0])
        if self.items.purge(generation, row_count) == row_count:
            return 0
        self._connection.execute("DELETE FROM galleries WHERE generation = ?", (generation,))
        return generation
