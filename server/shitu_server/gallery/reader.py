"""Reads of items and their pictures from the database, beside the writer."""

# ruff: noqa: S608  # what is put into statements are constants of this module; values go in by parameters

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, Final

import numpy as np

from shitu_server.errors import ConfigurationError, StorageError
from shitu_server.gallery.store import damaged
from shitu_server.types import Item, Metadata, Page

_COLUMNS: Final = "item_id, label, metadata, update_time_s"


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
        """Return an item with its vector and thumbnail."""
        query = (
            f"SELECT {_COLUMNS}, vector, image FROM items LEFT JOIN thumbnails USING (row_id) "
            "WHERE generation = ? AND item_id = ?"
        )
        rows = self._rows(query, (generation, item_id))
        if not rows:
            return None
        found_id, label, metadata, update_time_s, vector, image = rows[0]
        unit = np.frombuffer(vector, dtype="<f4").astype(np.float32, copy=False)
        return Item(found_id, label, self._metadata(found_id, metadata), image or b"", unit, update_time_s)

    def page(self, generation: int, after_row_id: int, page_size: int, label: str) -> Page[Item]:
        """Return items after a row, oldest first, without vectors and thumbnails. The token is the last row id."""
        by_label, values = ("AND label = ?", (label,)) if label else ("", ())
        query = f"SELECT row_id, {_COLUMNS} FROM items WHERE generation = ? AND row_id > ? {by_label} ORDER BY row_id LIMIT ?"
        rows = self._rows(query, (generation, after_row_id, *values, page_size + 1))
        shown = rows[:page_size]
        entries = tuple(
            Item(item_id, name, self._metadata(item_id, metadata), b"", None, update_time_s)
            for _, item_id, name, metadata, update_time_s in shown
        )
        return Page(entries, str(shown[-1][0]) if len(rows) > page_size else "")

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
