"""The truth and the indexes derived from it, changed together by one thread."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shitu_server.errors import ShituError, StorageError, UnavailableError
from shitu_server.gallery.index import Entry, ExactIndex, IndexSnapshot
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.store import GalleryRow, GalleryStore
from shitu_server.gallery.writes import Recorded, Write, info_of
from shitu_server.types import GalleryInfo

_log = logging.getLogger(__name__)

PURGE_ROWS: Final = 1000
"""About 20 ms, for which other writes wait."""


@dataclass(frozen=True, eq=False)
class LiveGallery:
    """A gallery after some write. It does not change: the next write makes another."""

    info: GalleryInfo
    snapshot: IndexSnapshot | None
    """Exactly the items of `info.state`; None where the index could not follow and is being rebuilt."""


class Ledger:
    """Applies writes. Only the writer's thread calls it; every thread may read `galleries`, which is replaced, never changed."""

    def __init__(self, store: GalleryStore, limits: GalleryLimits) -> None:
        """Build the indexes of all galleries. Raises ConfigurationError where the database is broken."""
        self._store = store
        self._limits = limits
        self._indexes: dict[int, ExactIndex] = {}
        self._stale: set[str] = set()
        self.galleries: Mapping[str, LiveGallery] = {}
        for row in store.galleries():
            self._indexes[row.generation] = self._build(row)
            self._publish(row)

    def apply(self, writes: Sequence[Write[Any]]) -> list[Any | ShituError]:
        """Make writes durable together, then visible; return for each its result or why it was not done.

        A write that is refused does not keep the others; where the disk refuses, none is done.
        """
        self._mend()
        try:
            with self._store.transaction():
                recorded = [self._record(write) for write in writes]
        except StorageError as error:
            _log.error("the disk refuses writes: %s", error.__cause__)
            return [error] * len(writes)
        return [r if isinstance(r, ShituError) else self._reflect(r) for r in recorded]

    def tidy(self) -> bool:
        """Do a little of what is left to do; return whether there may be more."""
        self._mend()
        try:
            with self._store.transaction():
                more = self._store.purge(PURGE_ROWS)
        except StorageError:
            return False  # purged when the disk takes writes again
        return more or bool(self._stale)

    def _record(self, write: Write[Any]) -> Recorded[Any] | ShituError:
        try:
            return write.record(self._store, self._limits)
        except ShituError as error:
            return error

    def _reflect(self, recorded: Recorded[Any]) -> Any | ShituError:
        """Bring the index up to date with a durable write and publish it."""
        row = recorded.gallery
        if recorded.reflect is None:
            self._indexes.pop(row.generation, None)
            self._stale.discard(row.name)
            self.galleries = {name: live for name, live in self.galleries.items() if name != row.name}
            return recorded.result
        index = self._indexes.setdefault(row.generation, ExactIndex(row.dimension))
        if row.name not in self._stale:
            try:
                recorded.reflect(index)
            except Exception:  # noqa: BLE001  # whatever it was, the truth is on disk
                _log.exception("the index of gallery %s could not follow a write, rebuilding it", row.name)
                self._stale.add(row.name)
        self._publish(row)
        self._mend()
        if row.name in self._stale:
            return UnavailableError("the write is stored, but cannot be searched yet; sending it again does no harm")
        return recorded.result

    def _mend(self) -> None:
        """Rebuild the indexes that could not follow."""
        for name in tuple(self._stale):
            try:
                row = self._store.find(name)
                assert row is not None
                self._indexes[row.generation] = self._build(row)
            except Exception:  # noqa: BLE001  # tried again by every write and by `tidy`
                _log.exception("the index of gallery %s cannot be rebuilt", name)
                continue
            self._stale.discard(name)
            self._publish(row)

    def _publish(self, row: GalleryRow) -> None:
        snapshot = None if row.name in self._stale else self._indexes[row.generation].snapshot()
        self.galleries = {**self.galleries, row.name: LiveGallery(info_of(row), snapshot)}

    def _build(self, row: GalleryRow) -> ExactIndex:
        index = ExactIndex(row.dimension)
        for rows in self._store.vectors(row):
            entries = [
                Entry(*fields) for fields in zip(rows.row_ids, rows.item_ids, rows.labels, rows.metadata, strict=True)
            ]
            index.put(entries, rows.vectors)
        return index
