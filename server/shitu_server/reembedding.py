"""A gallery gets the vectors of another encoder while it is served: its pictures are embedded anew, then published at once for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shitu_server.admission import patiently
from shitu_server.encoders import ServedEncoder
from shitu_server.errors import InvalidImageError, PreconditionError
from shitu_server.pipeline import Pipeline
from shitu_server.types import DraftItem, Gallery, GalleryInfo, Item

PAGE_ITEMS: Final = 32
"""About the encoders' batch; with thumbnails it is a message of a few MB."""
HOLD_S: Final = 5.0
"""Writes wait so long at most while the last of them are embedded anew: far fewer than a page, unless writers outrun the encoder."""

_WHOLE: Final = np.empty((0, 4), dtype=np.float32)


@dataclass(frozen=True)
class ReembedProgress:
    """How far it has come."""

    embedded_count: int
    item_count: int
    published: GalleryInfo | None = None
    """At the end: the gallery after the publication."""


class Reembedding:
    """One run for one gallery. Whoever stops iterating leaves the draft behind, and the next run goes on with it."""

    def __init__(self, pipeline: Pipeline, gallery: Gallery, encoder: ServedEncoder, deadline_s: float | None) -> None:
        self._pipeline = pipeline
        self._gallery = gallery
        self._encoder = encoder
        self._deadline_s = deadline_s

    async def run(self, name: str) -> AsyncGenerator[ReembedProgress, None]:
        """Yield progress, at last with the published gallery.

        Raises:
            NotFoundError: there is no such gallery, or its draft was discarded by another run.
            PreconditionError: the gallery has the encoder already, an item has no picture, or a picture cannot be embedded.
            StorageError, UnavailableError, OverloadedError, DeadlineExceededError: try again, it goes on.
        """
        info = await self._gallery.get(name, deadline_s=self._deadline_s)
        name = info.name
        if info.encoder_fingerprint == self._encoder.fingerprint:
            raise PreconditionError(f'gallery "{name}" is bound to {self._encoder} already')
        encoder = self._encoder.encoder
        draft = await self._gallery.begin_draft(
            name, encoder.fingerprint, encoder.dimension, deadline_s=self._deadline_s
        )
        done, wanted = draft.item_count, draft.wanted_count
        yield ReembedProgress(done, wanted)
        published = None
        while published is None:
            items = await self._gallery.draft_changes(name, draft.generation, PAGE_ITEMS, deadline_s=self._deadline_s)
            if items:
                await self._embed(name, draft.generation, items)
                done = min(done + len(items), wanted)  # an item that was written to meanwhile is embedded once more
                yield ReembedProgress(done, wanted)
            else:
                published = await self._publish(name, draft.generation)
        yield ReembedProgress(published.item_count, published.item_count, published)

    async def _publish(self, name: str, draft: int) -> GalleryInfo | None:
        """Return the published gallery, or None where writes came in between: they are held back for the next try."""
        try:
            return await self._gallery.publish(name, draft, deadline_s=self._deadline_s)
        except PreconditionError:
            await self._gallery.hold_writes(name, draft, HOLD_S, deadline_s=self._deadline_s)
            return None

    async def _embed(self, name: str, draft: int, items: Sequence[Item]) -> None:
        embedded = await asyncio.gather(*(self._embedded(item) for item in items))
        await self._gallery.add_to_draft(name, draft, embedded, deadline_s=self._deadline_s)

    async def _embedded(self, item: Item) -> DraftItem:
        try:
            embedding = await patiently(
                lambda: self._pipeline.embed(item.thumbnail, _WHOLE, self._encoder, deadline_s=self._deadline_s),
                self._deadline_s,
            )
        except InvalidImageError as error:
            raise PreconditionError(
                f'the picture of item "{item.id}" cannot be embedded ({error.description}); remove the item or add it again, then '
                "try again: what was done is kept"
            ) from error
        return DraftItem(item.id, item.sequence, embedding.vectors[0])
