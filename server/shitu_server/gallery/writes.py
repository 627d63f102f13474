"""The writes: each records itself in the database and says how the indexes follow. Those of generations are in `generations`."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from shitu_server.errors import StorageError
from shitu_server.gallery.checks import CheckedItem, CheckedUpdate
from shitu_server.gallery.gallery_rows import GalleryRow
from shitu_server.gallery.index import Entry, GalleryIndex
from shitu_server.gallery.item_rows import StoredItem
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.refusals import alias_taken, is_alias, made_anew, name_taken, no_alias, no_gallery
from shitu_server.gallery.store import GalleryStore
from shitu_server.types import Added, AddResult, GalleryOptions, GalleryState, RemoveResult, UpdateResult

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class Touched:
    """A generation that a write changed, as it is after the write."""

    row: GalleryRow
    reflect: Callable[[GalleryIndex], None] | None = None
    """Brings its index up to date; None where no item changed."""


@dataclass(frozen=True)
class Recorded(Generic[R_co]):
    """A write that is in the open transaction."""

    result: R_co
    touched: tuple[Touched, ...] = ()


class Write(ABC, Generic[R_co]):
    """A change of the truth."""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes while it waits, about."""
        return 1024

    @abstractmethod
    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[R_co]:
        """Write to the database, inside a transaction. Raises ShituError only before anything is written."""


@dataclass(frozen=True)
class CreateGallery(Write[None]):
    """Makes an empty gallery."""

    name: str
    encoder_fingerprint: str
    dimension: int
    options: GalleryOptions

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[None]:
        """Raises AlreadyExistsError; StorageError over the limit of galleries."""
        check_free(store, self.name, limits)
        # What is being restored under the name, or was left of that, must not be taken for a draft of this gallery.
        left = store.galleries.draft_of(self.name)
        gone = () if left is None else (hidden(store, left),)
        row = store.galleries.insert(self.name, self.encoder_fingerprint, self.dimension, self.options, time.time())
        return Recorded(None, (*gone, Touched(row)))


@dataclass(frozen=True)
class DeleteGallery(Write[None]):
    """Deletes a gallery with its items, its other generations and its aliases."""

    name: str

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[None]:  # noqa: ARG002  # one signature for all
        """Raises NotFoundError; InvalidArgumentError where an alias is named."""
        galleries = store.galleries
        check_not_alias(store, self.name)
        rows = (live(store, self.name), galleries.draft_of(self.name), galleries.previous_of(self.name))
        galleries.remove_aliases_of(self.name)
        return Recorded(None, tuple(hidden(store, row) for row in rows if row is not None))


@dataclass(frozen=True)
class Binding:
    """What items were checked against."""

    encoder_fingerprint: str
    dimension: int
    options: GalleryOptions


@dataclass(frozen=True)
class AddItems(Write[AddResult]):
    """Adds or replaces items."""

    name: str
    binding: Binding
    items: tuple[CheckedItem, ...]
    skip_duplicates: bool = False

    @property
    def size_bytes(self) -> int:
        """Memory that it takes while it waits, about."""
        return sum(item.size_bytes for item in self.items)

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[AddResult]:
        """Raises NotFoundError; UnavailableError where the gallery was replaced meanwhile; StorageError over the limit of items."""
        row = live(store, self.name)
        if Binding(row.encoder_fingerprint, row.dimension, row.options) != self.binding:
            raise made_anew(self.name)
        if row.item_count + len(self.items) > limits.items_per_gallery < row.item_count + self._new_count(store, row):
            raise StorageError(f'gallery "{self.name}" is full: {row.item_count} of {limits.items_per_gallery} items')
        added: list[Added] = []
        stored: list[tuple[CheckedItem, StoredItem]] = []
        now_s = time.time()
        for item in self.items:
            twin = store.items.twin_of(row.generation, item)
            if twin and self.skip_duplicates:
                added.append(Added(replaced=False, duplicate_of=twin, skipped=True))
                continue
            written = store.items.upsert(row.generation, item, row.sequence + 1, now_s)
            stored.append((item, written))
            added.append(Added(written.replaced, twin))
        if not stored:
            return Recorded(AddResult(tuple(added), state_of(row)))
        after = store.galleries.advance(row.generation, sum(not written.replaced for _, written in stored))
        return Recorded(AddResult(tuple(added), state_of(after)), (Touched(after, putting(stored)),))

    def _new_count(self, store: GalleryStore, row: GalleryRow) -> int:
        return sum(not store.items.has(row.generation, item.id) for item in self.items)


@dataclass(frozen=True)
class UpdateItems(Write[UpdateResult]):
    """Changes labels and metadata of those items that are there."""

    name: str
    options: GalleryOptions
    """What they were checked against."""
    updates: tuple[CheckedUpdate, ...]

    @property
    def size_bytes(self) -> int:
        """Memory that it takes while it waits, about."""
        return sum(update.size_bytes for update in self.updates)

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[UpdateResult]:  # noqa: ARG002
        """Raises NotFoundError; UnavailableError where the gallery was replaced meanwhile."""
        row = live(store, self.name)
        if row.options != self.options:
            raise made_anew(self.name)
        now_s = time.time()
        changed = [store.items.relabel(row.generation, update, row.sequence + 1, now_s) for update in self.updates]
        entries = [Entry(one.row_id, one.item_id, one.label, one.metadata_json) for one in changed if one is not None]
        after = store.galleries.advance(row.generation, 0)
        result = UpdateResult(tuple(entry.item_id for entry in entries), state_of(after))
        return Recorded(result, (Touched(after, lambda index: index.relabel(entries)),))


@dataclass(frozen=True)
class RemoveItems(Write[RemoveResult]):
    """Removes those items that are there."""

    name: str
    item_ids: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Memory that it takes while it waits, about."""
        return sum(map(len, self.item_ids))

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[RemoveResult]:  # noqa: ARG002
        """Raises NotFoundError."""
        removed, touched = self._remove(store, live(store, self.name))
        # From the draft too: nothing is left that would tell it of an item that is no more.
        draft = store.galleries.draft_of(self.name)
        in_draft = () if draft is None else (self._remove(store, draft)[1],)
        return Recorded(RemoveResult(removed, state_of(touched.row)), (touched, *in_draft))

    def _remove(self, store: GalleryStore, row: GalleryRow) -> tuple[tuple[str, ...], Touched]:
        removed = tuple(store.items.remove(row.generation, self.item_ids))
        after = store.galleries.advance(row.generation, -len(removed))
        return removed, Touched(after, lambda index: index.remove(removed))


@dataclass(frozen=True)
class SetAlias(Write[None]):
    """Makes an alias, or moves it."""

    alias: str
    name: str

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[None]:
        """Raises NotFoundError; AlreadyExistsError where the alias is a gallery; StorageError over the limit of aliases."""
        row = live(store, self.name)
        if store.galleries.find(self.alias) is not None:
            raise alias_taken(self.alias)
        aliases = store.galleries.aliases()
        if self.alias not in aliases and len(aliases) >= limits.aliases:
            raise StorageError(f"there are {limits.aliases} aliases already, which is the limit; delete one")
        store.galleries.set_alias(self.alias, self.name)
        return Recorded(None, (Touched(row),))


@dataclass(frozen=True)
class DeleteAlias(Write[None]):
    """Removes an alias; its gallery stays."""

    alias: str

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[None]:  # noqa: ARG002
        """Raises NotFoundError."""
        if not store.galleries.remove_alias(self.alias):
            raise no_alias(self.alias)
        return Recorded(None)


def putting(stored: Sequence[tuple[CheckedItem, StoredItem]]) -> Callable[[GalleryIndex], None]:
    """Return what brings an index up to date with items that were written."""
    entries = [Entry(written.row_id, item.id, item.label, item.metadata_json) for item, written in stored]
    vectors = np.stack([item.vector for item, _ in stored])
    return lambda index: index.put(entries, vectors)


def state_of(row: GalleryRow) -> GalleryState:
    """Return the state of a stored gallery."""
    return GalleryState(row.generation, row.sequence)


def live(store: GalleryStore, name: str) -> GalleryRow:
    """Return the live generation of a gallery. Raises NotFoundError."""
    row = store.galleries.find(name)
    if row is None:
        raise no_gallery(name)
    return row


def check_free(store: GalleryStore, name: str, limits: GalleryLimits) -> None:
    """Raise AlreadyExistsError where a gallery or an alias has the name, StorageError over the limit of galleries."""
    check_not_taken(store, name)
    if name in store.galleries.aliases():
        raise name_taken(name, by_alias=True)
    if store.galleries.count() >= limits.gallery_count:
        raise StorageError(f"there are {limits.gallery_count} galleries already, which is the limit; delete one")


def check_not_taken(store: GalleryStore, name: str) -> None:
    """Raise AlreadyExistsError where a gallery has the name."""
    if store.galleries.find(name) is not None:
        raise name_taken(name, by_alias=False)


def check_not_alias(store: GalleryStore, name: str) -> None:
    """Raise InvalidArgumentError where an alias is named, and the gallery itself must be."""
    target = store.galleries.aliases().get(name)
    if target is not None:
        raise is_alias(name, target)


def hidden(store: GalleryStore, row: GalleryRow) -> Touched:
    """Delete a generation."""
    store.galleries.hide(row.generation)
    after = store.galleries.at(row.generation)
    assert after is not None
    return Touched(after)
