"""The four writes: each records itself in the database and says how the index follows."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from shitu_server.errors import AlreadyExistsError, NotFoundError, StorageError
from shitu_server.gallery.checks import MOST_SHOWN, CheckedItem, shown
from shitu_server.gallery.index import Entry, ExactIndex
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.store import GalleryRow, GalleryStore, Upserted
from shitu_server.types import AddResult, GalleryInfo, GalleryState, RemoveResult

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class Recorded(Generic[R_co]):
    """A write that is in the open transaction."""

    result: R_co
    gallery: GalleryRow
    """After the write."""
    reflect: Callable[[ExactIndex], None] | None
    """Brings the index of the gallery up to date; None where the gallery is deleted."""


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
class CreateGallery(Write[GalleryInfo]):
    """Makes an empty gallery."""

    name: str
    encoder_fingerprint: str
    dimension: int

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[GalleryInfo]:
        """Raises AlreadyExistsError; StorageError over the limit of galleries."""
        if store.find(self.name) is not None:
            raise AlreadyExistsError("gallery", self.name, f'gallery "{self.name}" exists already')
        if store.gallery_count() >= limits.gallery_count:
            raise StorageError(f"there are {limits.gallery_count} galleries already, which is the limit; delete one")
        row = store.insert_gallery(self.name, self.encoder_fingerprint, self.dimension, time.time())
        return Recorded(info_of(row), row, lambda _: None)


@dataclass(frozen=True)
class DeleteGallery(Write[None]):
    """Deletes a gallery with its items."""

    name: str

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[None]:  # noqa: ARG002  # one signature for all
        """Raises NotFoundError."""
        row = store.find(self.name)
        if row is None:
            raise no_gallery(self.name)
        store.hide_gallery(row.generation)
        return Recorded(None, row, None)


@dataclass(frozen=True)
class AddItems(Write[AddResult]):
    """Adds or replaces items of a gallery whose dimension they were checked against."""

    name: str
    generation: int
    items: tuple[CheckedItem, ...]

    @property
    def size_bytes(self) -> int:
        """Memory that it takes while it waits, about."""
        return sum(item.size_bytes for item in self.items)

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[AddResult]:
        """Raises NotFoundError; StorageError over the limit of items."""
        row = _unchanged(store, self.name, self.generation)
        if row.item_count + len(self.items) > limits.items_per_gallery:
            raise StorageError(f'gallery "{self.name}" is full: {row.item_count} of {limits.items_per_gallery} items')
        upserted = store.upsert(self.generation, self.items, time.time())
        replaced = tuple(item.replaced for item in upserted)
        after = store.advance(self.generation, replaced.count(False))
        return Recorded(AddResult(replaced, state_of(after)), after, lambda index: self._put(index, upserted))

    def _put(self, index: ExactIndex, upserted: Sequence[Upserted]) -> None:
        entries = [
            Entry(stored.row_id, item.id, item.label, item.metadata_json)
            for stored, item in zip(upserted, self.items, strict=True)
        ]
        index.put(entries, np.stack([item.vector for item in self.items]))


@dataclass(frozen=True)
class RemoveItems(Write[RemoveResult]):
    """Removes those items that are there."""

    name: str
    generation: int
    item_ids: tuple[str, ...]

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[RemoveResult]:  # noqa: ARG002
        """Raises NotFoundError."""
        _unchanged(store, self.name, self.generation)
        removed = tuple(store.remove(self.generation, self.item_ids))
        after = store.advance(self.generation, -len(removed))
        return Recorded(RemoveResult(removed, state_of(after)), after, lambda index: index.remove(removed))


def info_of(row: GalleryRow) -> GalleryInfo:
    """Return a stored gallery as it is listed."""
    return GalleryInfo(
        row.name, row.encoder_fingerprint, row.dimension, row.item_count, state_of(row), row.create_time_s
    )


def state_of(row: GalleryRow) -> GalleryState:
    """Return the state of a stored gallery."""
    return GalleryState(row.generation, row.sequence)


def no_gallery(name: str) -> NotFoundError:
    """Return the error for a gallery that is not there."""
    return NotFoundError("gallery", name[:MOST_SHOWN], f"there is no gallery {shown(name)}")


def _unchanged(store: GalleryStore, name: str, generation: int) -> GalleryRow:
    """Return the gallery unless it was deleted, or replaced by one of its name, while the write waited."""
    row = store.find(name)
    if row is None or row.generation != generation:
        raise no_gallery(name)
    return row
