"""The truth and the indexes derived from it, changed together by one thread."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from shitu_server.errors import ShituError, StorageError, UnavailableError
from shitu_server.gallery.builds import Built, IndexBuilder, IndexFiles
from shitu_server.gallery.catalogue import Catalogue, LiveGallery, info_of
from shitu_server.gallery.gallery_rows import GalleryRow
from shitu_server.gallery.index import Entry, GalleryIndex
from shitu_server.gallery.item_rows import DamagedGalleryError
from shitu_server.gallery.limits import GalleryLimits, IndexOptions
from shitu_server.gallery.store import GalleryStore
from shitu_server.gallery.writes import Recorded, Write

_log = logging.getLogger(__name__)

PURGE_ROWS: Final = 1000
"""About 20 ms, for which other writes wait."""
RETIRED_S: Final = 60.0
"""How long a generation answers after another took its place: calls that began before end by then."""


class Ledger:
    """Applies writes. Only the writer's thread calls it; every thread may read `catalogue`, which is replaced, never changed."""

    def __init__(
        self,
        store: GalleryStore,
        limits: GalleryLimits,
        tuning: IndexOptions,
        on_built: Callable[[], None],
    ) -> None:
        """Build the indexes of all galleries.

        Args:
            store: the truth.
            limits: of galleries.
            tuning: of indexes.
            on_built: called in a thread of its own when `tidy` has an index to take up.

        Raises:
            ConfigurationError: the database is broken.
        """
        self._store = store
        self._limits = limits
        self._tuning = tuning
        self._files = IndexFiles(store.path.parent, store.identity)
        self._builder = IndexBuilder(self._files, on_built)
        self._indexes: dict[int, GalleryIndex] = {}
        self._damage: dict[int, str] = {}
        self._stale: set[int] = set()
        self._retired_until_s: dict[int, float] = {}
        self._outdated = False
        """Readers are shown an index' former status."""
        self._unseen = False
        """Readers are not shown the last writes."""
        self.catalogue = Catalogue()
        with store.loading():
            self._open()

    def close(self) -> None:
        """Build no more indexes."""
        self._builder.close()

    def apply(self, writes: Sequence[Write[Any]]) -> list[Any | ShituError]:
        """Make writes durable together, then visible; return for each its result or why it was not done.

        A write that is refused does not keep the others; where the disk refuses, none is done.
        """
        self._settle()
        try:
            with self._store.transaction():
                outcomes = [self._record(write) for write in writes]
        except StorageError as error:
            _log.error("the disk refuses writes: %s", error.__cause__)
            return [error] * len(writes)
        recorded = [outcome for outcome in outcomes if isinstance(outcome, Recorded)]
        for one in recorded:
            self._reflect(one)
        self._mend()
        self._publish(recorded)
        return [self._answer(outcome) for outcome in outcomes]

    def tidy(self) -> bool:
        """Do a little of what is left to do; return whether there may be more."""
        self._settle()
        self._forget_retired()
        try:
            with self._store.transaction():
                purged = self._store.purge(PURGE_ROWS)
        except StorageError:
            return False  # purged when the disk takes writes again
        if purged:
            self._files.remove(purged)
        return purged is not None or bool(self._stale or self._retired_until_s or self._outdated or self._unseen)

    def _open(self) -> None:
        galleries = self._store.galleries
        live, drafts = galleries.live(), galleries.drafts()
        names = {row.name for row in live}
        self._files.keep_only(galleries.generations())
        for row in live:
            previous = galleries.previous_of(row.name)
            if previous is not None:
                self._files.check(previous.generation, previous.sequence)
        for row in (*live, *(draft for draft in drafts if draft.name in names)):
            self._indexes[row.generation] = self._loaded(row)
        # What was being restored when the process ended has no gallery, and nobody who goes on with it. A full disk may keep it.
        with contextlib.suppress(StorageError), self._store.transaction():
            for draft in drafts:
                if draft.name not in names:
                    galleries.hide(draft.generation)
        self._look_up()
        for row in live:
            self._order_build(row)

    def _record(self, write: Write[Any]) -> Recorded[Any] | ShituError:
        try:
            return write.record(self._store, self._limits)
        except ShituError as error:
            return error

    def _reflect(self, recorded: Recorded[Any]) -> None:
        """Bring the indexes up to date with a durable write."""
        for touched in recorded.touched:
            row = touched.row
            if not row.name:
                self._forget(row.generation)
            elif (
                row.generation not in self._stale
                and row.generation not in self._damage
                and (row.is_live or touched.reflect)
            ):
                try:
                    index = self._index_of(row)
                    if touched.reflect is not None:
                        touched.reflect(index)
                except Exception:  # noqa: BLE001  # whatever it was, the truth is on disk
                    _log.exception("the index of gallery %s could not follow a write, rebuilding it", row.name)
                    self._stale.add(row.generation)

    def _answer(self, outcome: Recorded[Any] | ShituError) -> Any | ShituError:
        if isinstance(outcome, ShituError):
            return outcome
        if self._unseen or any(touched.row.generation in self._stale for touched in outcome.touched):
            return UnavailableError(
                "the write is stored, but cannot be searched yet; look at the gallery before you send it again"
            )
        return outcome.result

    def _settle(self) -> None:
        """Take up what was built, and mend what could not follow."""
        while self._builder.finished:
            built = self._builder.finished.popleft()
            if built.neighbours is None:
                built.index.abandon()
            else:
                built.index.adopt(built.neighbours)
            self._outdated = True
            self._order_next(built)
        self._mend()
        if self._outdated or self._unseen:
            self._publish(())

    def _mend(self) -> None:
        """Rebuild the indexes that could not follow."""
        for generation in tuple(self._stale):
            try:
                row = self._store.galleries.at(generation)
                if row is not None:
                    self._indexes[generation] = self._loaded(row)
                    self._order_build(row)
            except Exception:  # noqa: BLE001  # tried again by every write and by `tidy`
                _log.exception("the index of generation %d cannot be rebuilt", generation)
                continue
            self._stale.discard(generation)
            self._outdated = True

    def _publish(self, recorded: Sequence[Recorded[Any]]) -> None:
        """Show readers what is there now."""
        touched = [one for record in recorded for one in record.touched]
        others = not touched or any(one.reflect is None for one in touched)  # than items
        if others or self._outdated or self._unseen:
            try:
                self._look_up()
            except sqlite3.Error:
                _log.exception("the galleries cannot be listed")
                self._unseen = True
            else:
                self._outdated = self._unseen = False
        else:
            self._refresh([one.row for one in touched])
        for one in touched:
            self._order_build(one.row)

    def _refresh(self, rows: Sequence[GalleryRow]) -> None:
        """Show galleries whose items changed."""
        seen = self.catalogue
        changed = {}
        for row in rows:
            if row.is_live:
                previous = seen.galleries[row.name].info.previous_generation
                changed[row.name] = self._shown(row, seen.aliases, previous)
        self.catalogue = Catalogue({**seen.galleries, **changed}, seen.aliases, seen.retired)

    def _look_up(self) -> None:
        """Show all galleries as they are stored. Raises sqlite3.Error."""
        rows = self._store.galleries.live()
        aliases = self._store.galleries.aliases()
        previous = self._store.galleries.previous()
        galleries = {row.name: self._shown(row, aliases, previous.get(row.name, 0)) for row in rows}
        seen = self.catalogue
        for name, live in seen.galleries.items():
            replaced_by = galleries.get(name)
            if replaced_by is not None and replaced_by.info.previous_generation == live.info.state.generation:
                self._retired_until_s[live.info.state.generation] = time.monotonic() + RETIRED_S
        former = (*seen.retired.values(), *seen.galleries.values())
        self.catalogue = Catalogue(galleries, aliases, self._retired(former, galleries))

    def _retired(
        self, former: Sequence[LiveGallery], galleries: Mapping[str, LiveGallery]
    ) -> Mapping[int, LiveGallery]:
        """Return those that still answer calls which began a moment ago: each before the live one of its name."""
        return {
            live.info.state.generation: live
            for live in former
            if live.info.state.generation in self._retired_until_s
            and live.info.name in galleries
            and galleries[live.info.name].info.previous_generation == live.info.state.generation
        }

    def _shown(self, row: GalleryRow, aliases: Mapping[str, str], previous: int) -> LiveGallery:
        index = self._indexes.get(row.generation) or GalleryIndex(row.dimension, row.options, self._tuning)
        info = info_of(row, index, aliases, previous)
        damage = self._damage.get(row.generation, "")
        usable = not damage and row.generation not in self._stale and row.generation in self._indexes
        return LiveGallery(info, index.snapshot() if usable else None, damage)

    def _order_build(self, row: GalleryRow) -> None:
        index = self._indexes.get(row.generation)
        job = None if index is None else index.wish()
        if index is not None and job is not None:
            # A draft numbers its own writes, its items have the numbers of the live generation: which of them changed since
            # cannot be told by a number, so its index is not kept.
            self._builder.submit(index, row.generation, row.sequence if row.is_live else None, job)
            self._outdated = True

    def _order_next(self, built: Built) -> None:
        """Build what came during a build; nobody may write again."""
        if self._indexes.get(built.generation) is not built.index:
            return  # it was let go of meanwhile
        with contextlib.suppress(sqlite3.Error):  # the next write orders it
            row = self._store.galleries.at(built.generation)
            if row is not None:
                self._order_build(row)

    def _forget_retired(self) -> None:
        """Let go of generations that were live long enough ago."""
        now_s = time.monotonic()
        over = {generation for generation, until_s in self._retired_until_s.items() if until_s <= now_s}
        if not over:
            return
        seen = self.catalogue
        living = {live.info.state.generation for live in seen.galleries.values()}
        for generation in over:
            del self._retired_until_s[generation]
            if generation not in living:
                self._forget(generation)
        self.catalogue = Catalogue(
            seen.galleries, seen.aliases, self._retired(tuple(seen.retired.values()), seen.galleries)
        )

    def _forget(self, generation: int) -> None:
        self._builder.cancel(generation)
        self._indexes.pop(generation, None)
        self._stale.discard(generation)
        self._damage.pop(generation, None)

    def _index_of(self, row: GalleryRow) -> GalleryIndex:
        index = self._indexes.get(row.generation)
        if index is None:
            # As it is now: later writes of the same commit are in the database already. Reflecting them again does no harm.
            now = self._store.galleries.at(row.generation)
            index = self._indexes[row.generation] = self._loaded(row if now is None else now)
        return index

    def _loaded(self, row: GalleryRow) -> GalleryIndex:
        """Build an index from the truth, with the graph or the lists that were kept. Raises sqlite3.Error."""
        index = GalleryIndex(row.dimension, row.options, self._tuning)
        try:
            for rows in self._store.items.vectors(row):
                entries = [
                    Entry(*fields)
                    for fields in zip(rows.row_ids, rows.item_ids, rows.labels, rows.metadata, strict=True)
                ]
                index.put(entries, rows.vectors)
        except DamagedGalleryError as error:
            self._damage[row.generation] = (
                f'gallery "{row.name}" is damaged in {self._store.path}: {error}. Delete the gallery and restore a snapshot of it'
            )
            _log.error("%s", self._damage[row.generation])
            return GalleryIndex(row.dimension, row.options, self._tuning)
        kept = self._files.load(row.generation, row.sequence)
        if kept is not None:
            neighbours, built_at = kept
            index.attach(neighbours, self._store.items.changed_since(row.generation, built_at))
        return index
