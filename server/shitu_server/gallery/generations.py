"""The writes of generations: one is filled beside the live one, published, and may be rolled back. Restoring fills one too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shitu_server.errors import InvalidArgumentError, NotFoundError, PreconditionError, StorageError
from shitu_server.gallery.checks import CheckedItem, shown
from shitu_server.gallery.gallery_rows import GalleryRow
from shitu_server.gallery.item_rows import StoredItem
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.refusals import made_anew
from shitu_server.gallery.store import GalleryStore
from shitu_server.gallery.writes import (
    Recorded,
    Touched,
    Write,
    check_free,
    check_not_taken,
    hidden,
    live,
    putting,
)
from shitu_server.types import Draft, DraftItem, GalleryOptions


@dataclass(frozen=True)
class BeginDraft(Write[Draft]):
    """Begins a generation for another encoder, or finds the one that was begun for it."""

    name: str
    live: int
    """The generation that it will be compared with."""
    encoder_fingerprint: str
    dimension: int

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[Draft]:  # noqa: ARG002  # one signature for all
        """Raises NotFoundError; UnavailableError where another generation is live."""
        row = live(store, self.name)
        if row.generation != self.live:
            raise made_anew(self.name)
        draft = store.galleries.draft_of(self.name)
        gone: tuple[Touched, ...] = ()
        if draft is not None and not self._is_ours(draft, row):
            gone = (hidden(store, draft),)
            draft = None
        if draft is None:
            draft = store.galleries.insert(
                self.name, self.encoder_fingerprint, self.dimension, row.options, row.create_time_s, as_draft=True
            )
        return Recorded(Draft(draft.generation, draft.item_count, row.item_count), (*gone, Touched(draft)))

    def _is_ours(self, draft: GalleryRow, row: GalleryRow) -> bool:
        wanted = (self.encoder_fingerprint, self.dimension, row.options)
        return (draft.encoder_fingerprint, draft.dimension, draft.options) == wanted


@dataclass(frozen=True)
class AddToDraft(Write[None]):
    """Copies items of the live generation with new vectors; those that changed meanwhile are passed over."""

    name: str
    draft: int
    items: tuple[DraftItem, ...]
    """Their vectors are as the gallery keeps them."""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes while it waits, about."""
        return sum(item.vector.nbytes + 256 for item in self.items)

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[None]:  # noqa: ARG002
        """Raises NotFoundError."""
        draft, row = draft_row(store, self.name, self.draft), live(store, self.name)
        copies = (
            store.items.copy(row.generation, self.draft, item.id, item.sequence, item.vector.astype("<f4").tobytes())
            for item in self.items
        )
        copied = [copy for copy in copies if copy is not None]
        if not copied:
            return Recorded(None)
        after = store.galleries.advance(draft.generation, sum(not stored.replaced for _, stored in copied))
        return Recorded(None, (Touched(after, putting(copied)),))


@dataclass(frozen=True)
class PublishDraft(Write[None]):
    """Makes a draft the live generation; the live one becomes the previous, and the one before that is deleted."""

    name: str
    draft: int
    complete_at: int
    """Number of the last write to the live generation that the draft is known to hold."""

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[None]:  # noqa: ARG002
        """Raises NotFoundError; PreconditionError where there were writes since; StorageError where it has other items."""
        draft, row = draft_row(store, self.name, self.draft), live(store, self.name)
        if row.sequence != self.complete_at:
            raise PreconditionError(
                f'gallery "{self.name}" was written to after its draft was filled; fill it up and publish it again'
            )
        if draft.item_count != row.item_count:
            raise StorageError(
                f'the draft of gallery "{self.name}" holds {draft.item_count} of {row.item_count} items, although it lacks none: '
                "the database is damaged, or this is a bug; discard the draft"
            )
        oldest = store.galleries.previous_of(self.name)
        gone = () if oldest is None else (hidden(store, oldest),)
        retired = store.galleries.retire(row.generation, self.name)
        published = store.galleries.go_live(draft.generation, self.name, row.sequence + 1)
        return Recorded(None, (*gone, Touched(retired), Touched(published)))


@dataclass(frozen=True)
class DiscardDraft(Write[None]):
    """Deletes a draft."""

    name: str
    draft: int

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[None]:  # noqa: ARG002
        """Raises NotFoundError."""
        return Recorded(None, (hidden(store, draft_row(store, self.name, self.draft)),))


@dataclass(frozen=True)
class Rollback(Write[None]):
    """Makes the previous generation the live one, and the live one the previous. A draft of the live one is deleted."""

    name: str
    discard_writes: bool

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[None]:  # noqa: ARG002
        """Raises NotFoundError; PreconditionError where there is nothing to go back to, or writes since would be lost."""
        row, previous = live(store, self.name), store.galleries.previous_of(self.name)
        if previous is None:
            raise PreconditionError(f'gallery "{self.name}" has no generation before this one; only Reembed leaves one')
        writes = row.sequence - row.publish_sequence
        if writes and not self.discard_writes:
            raise PreconditionError(
                f'{writes} writes came to gallery "{self.name}" since generation {row.generation} was published, and generation '
                f"{previous.generation} does not hold them; roll back with discard_writes, or do not"
            )
        draft = store.galleries.draft_of(self.name)
        gone = () if draft is None else (hidden(store, draft),)
        return Recorded(None, (*gone, *_exchanged(store, row, previous)))


@dataclass(frozen=True)
class BeginRestore(Write[Draft]):
    """Begins a generation of a gallery that is not there yet, in place of one that nobody goes on with."""

    name: str
    encoder_fingerprint: str
    dimension: int
    options: GalleryOptions
    create_time_s: float

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[Draft]:
        """Raises AlreadyExistsError, StorageError."""
        check_free(store, self.name, limits)
        left = store.galleries.draft_of(self.name)
        gone = () if left is None else (hidden(store, left),)
        row = store.galleries.insert(
            self.name, self.encoder_fingerprint, self.dimension, self.options, self.create_time_s, as_draft=True
        )
        return Recorded(Draft(row.generation, 0, 0), (*gone, Touched(row)))


@dataclass(frozen=True)
class RestoredItem:
    """An item of a snapshot."""

    item: CheckedItem
    sequence: int
    update_time_s: float


@dataclass(frozen=True)
class AddRestored(Write[None]):
    """Puts items of a snapshot into the generation that is being restored."""

    name: str
    draft: int
    items: tuple[RestoredItem, ...]

    @property
    def size_bytes(self) -> int:
        """Memory that it takes while it waits, about."""
        return sum(one.item.size_bytes for one in self.items)

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[None]:  # noqa: ARG002
        """Raises AlreadyExistsError where the name was taken meanwhile; NotFoundError; InvalidArgumentError where an id came before."""
        check_not_taken(store, self.name)
        draft_row(store, self.name, self.draft)
        for one in self.items:
            if store.items.has(self.draft, one.item.id):
                raise InvalidArgumentError(
                    "data", f"expected a snapshot, but item {shown(one.item.id)} comes twice; nothing was restored"
                )
        stored: Sequence[tuple[CheckedItem, StoredItem]] = [
            (one.item, store.items.upsert(self.draft, one.item, one.sequence, one.update_time_s)) for one in self.items
        ]
        after = store.galleries.advance(self.draft, sum(not written.replaced for _, written in stored))
        return Recorded(None, (Touched(after, putting(stored)),))


@dataclass(frozen=True)
class PublishRestored(Write[None]):
    """Makes the restored generation a gallery."""

    name: str
    draft: int
    sequence: int
    """Of the gallery when the snapshot was made."""

    def record(self, store: GalleryStore, limits: GalleryLimits) -> Recorded[None]:
        """Raises AlreadyExistsError, NotFoundError, StorageError."""
        check_free(store, self.name, limits)
        draft_row(store, self.name, self.draft)
        return Recorded(None, (Touched(store.galleries.go_live(self.draft, self.name, self.sequence)),))


def draft_row(store: GalleryStore, name: str, draft: int) -> GalleryRow:
    """Return the draft of a gallery. Raises NotFoundError where it is another one, or none."""
    row = store.galleries.draft_of(name)
    if row is None or row.generation != draft:
        raise no_draft(name, draft)
    return row


def no_draft(name: str, draft: int) -> NotFoundError:
    """Return the error for a draft that is not there."""
    return NotFoundError("draft", str(draft), f'gallery "{name}" has no draft {draft}; it was published or discarded')


def _exchanged(store: GalleryStore, row: GalleryRow, previous: GalleryRow) -> tuple[Touched, Touched]:
    store.galleries.hide(previous.generation)  # its place is taken by the live one, as the live one's by it
    retired = store.galleries.retire(row.generation, row.name)
    return Touched(retired), Touched(store.galleries.go_live(previous.generation, row.name, row.sequence + 1))
