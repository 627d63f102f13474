"""Other generations of galleries in this process: drafts that are filled beside the live one and published, or rolled back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shitu_server.errors import EncoderMismatchError, InvalidArgumentError, PreconditionError
from shitu_server.gallery.catalogue import LiveGallery
from shitu_server.gallery.checks import check_range, check_text, check_unique, kept_vectors
from shitu_server.gallery.drafts import DraftProgress
from shitu_server.gallery.generations import AddToDraft, BeginDraft, DiscardDraft, PublishDraft, Rollback, no_draft
from shitu_server.gallery.holds import WriteHolds
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.reading import ReadQueue
from shitu_server.gallery.writer import GroupWriter
from shitu_server.types import Draft, DraftItem, Item, Metric


@dataclass(frozen=True)
class _OpenDraft:
    name: str
    dimension: int
    metric: Metric
    progress: DraftProgress


class Rebuilds:
    """Galleries are named by their own names here, never by an alias."""

    def __init__(
        self,
        live: Callable[[str], LiveGallery],
        writer: GroupWriter,
        reads: ReadQueue,
        holds: WriteHolds,
        limits: GalleryLimits,
    ) -> None:
        """`live` finds a gallery, or raises NotFoundError."""
        self._live = live
        self._writer = writer
        self._reads = reads
        self._holds = holds
        self._limits = limits
        self._drafts: dict[int, _OpenDraft] = {}

    async def begin(self, name: str, encoder_fingerprint: str, dimension: int, deadline_s: float | None) -> Draft:
        """See `types.Gallery.begin_draft`."""
        info = self._live(name).info
        check_text("encoder_fingerprint", encoder_fingerprint, self._limits.fingerprint_characters)
        check_range("dimension", dimension, self._limits.dimension)
        generation = info.state.generation
        missing = await self._reads.read(lambda reader: reader.without_thumbnail(generation), deadline_s)
        if missing:
            raise PreconditionError(
                f'{missing} of {info.item_count} items of gallery "{name}" came as vectors without a picture, which nothing can embed '
                "anew; add them with pictures, or build another gallery and move an alias to it"
            )
        draft = await self._writer.write(BeginDraft(name, generation, encoder_fingerprint, dimension), deadline_s)
        progress = DraftProgress(generation, draft.generation)
        if draft.generation not in self._drafts:
            self.forget(name, before=draft.generation)
        self._drafts[draft.generation] = _OpenDraft(name, dimension, info.options.metric, progress)
        return draft

    async def changes(self, name: str, draft: int, most: int, deadline_s: float | None) -> tuple[Item, ...]:
        """See `types.Gallery.draft_changes`."""
        check_range("most", most, self._limits.items_per_call)
        progress = self._draft(name, draft).progress
        return await self._reads.read(lambda reader: progress.changes(reader, most), deadline_s)

    async def add(self, name: str, draft: int, items: Sequence[DraftItem], deadline_s: float | None) -> None:
        """See `types.Gallery.add_to_draft`."""
        of = self._draft(name, draft)
        check_range("items", len(items), self._limits.items_per_call, " items")
        first_places: dict[str, int] = {}
        for place, item in enumerate(items):
            check_unique(item.id, place, first_places)
            if item.vector.shape != (of.dimension,):
                raise EncoderMismatchError(
                    f"items[{place}].vector: the draft's vectors have {of.dimension} numbers, this one {item.vector.size}"
                )
        rows = np.stack([item.vector for item in items])
        vectors = kept_vectors(rows, of.dimension, of.metric, lambda row: f"items[{row}].vector")
        kept = tuple(DraftItem(item.id, item.sequence, row) for item, row in zip(items, vectors, strict=True))
        await self._writer.write(AddToDraft(name, draft, kept), deadline_s)

    def hold(self, name: str, draft: int, seconds: float) -> None:
        """See `types.Gallery.hold_writes`."""
        self._draft(name, draft)
        if not 0 < seconds <= self._limits.hold_s:
            raise InvalidArgumentError("seconds", f"expected over 0, up to {self._limits.hold_s:g}, came {seconds}")
        self._holds.hold(name, seconds)

    async def publish(self, name: str, draft: int, deadline_s: float | None) -> None:
        """See `types.Gallery.publish`."""
        complete_at = self._draft(name, draft).progress.complete_at
        if not complete_at:
            raise PreconditionError(
                f'the draft of gallery "{name}" is not known to hold all items; ask for its changes'
            )
        await self._writer.write(PublishDraft(name, draft, complete_at), deadline_s)
        self._close(name, draft)

    async def discard(self, name: str, draft: int, deadline_s: float | None) -> None:
        """See `types.Gallery.discard_draft`."""
        await self._writer.write(DiscardDraft(name, draft), deadline_s)
        self._close(name, draft)

    async def rollback(self, name: str, *, discard_writes: bool, deadline_s: float | None) -> None:
        """See `types.Gallery.rollback`."""
        await self._writer.write(Rollback(name, discard_writes), deadline_s)
        self.forget(name)

    def forget(self, name: str, before: float = math.inf) -> None:
        """Forget the drafts of a gallery that are no more, and what was held back for them.

        Args:
            name: of the gallery.
            before: of two calls that begin drafts, the one of the later draft may go on first.
        """
        gone = [draft for draft, other in self._drafts.items() if other.name == name and draft < before]
        for draft in gone:
            self._close(name, draft)
        if before == math.inf:
            self._holds.end(name)

    def _draft(self, name: str, draft: int) -> _OpenDraft:
        found = self._drafts.get(draft)
        if found is None or found.name != name:
            raise no_draft(name, draft)
        return found

    def _close(self, name: str, draft: int) -> None:
        self._drafts.pop(draft, None)
        self._holds.end(name)
