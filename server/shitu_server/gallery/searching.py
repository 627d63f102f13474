"""Searches of galleries in this process: checked, batched with those of other calls, and answered from one moment's items."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import numpy as np

from shitu_server.errors import InvalidArgumentError, StorageError, UnavailableError
from shitu_server.filters import Filter
from shitu_server.gallery.catalogue import Catalogue, LiveGallery
from shitu_server.gallery.checks import check_encoder
from shitu_server.gallery.index import Found, prepare_faiss
from shitu_server.gallery.limits import BatchingOptions, GalleryLimits
from shitu_server.gallery.parts import built, queries_per_part, search_in_parts
from shitu_server.gallery.refusals import made_anew, no_gallery
from shitu_server.gallery.search_checks import checked_queries
from shitu_server.merging import Merger, MergerLimits, places_of
from shitu_server.types import GalleryState, Hit, SearchOptions, SearchResult, Vectors

_JSON: Final = json.JSONDecoder()
"""Its `raw_decode` takes a third of the time of `json.loads`, which first looks what kind of text it is."""
INLINE_CHARACTERS: Final = 64 * 1024
"""JSON that is read in about 1 ms."""


class _BatchKey(NamedTuple):
    name: str
    generation: int
    top_k: int
    where: Filter | None
    per_label: int


class _Answer(NamedTuple):
    found: Sequence[Found]
    state: GalleryState


class GallerySearch:
    """One thread searches, batch after batch."""

    def __init__(self, catalogue: Callable[[], Catalogue], limits: GalleryLimits, batching: BatchingOptions) -> None:
        """Start with a running event loop.

        Args:
            catalogue: what there is at the moment.
            limits: of a search and of what waits.
            batching: of queries.
        """
        self._catalogue = catalogue
        self._limits = limits
        self._executor = ThreadPoolExecutor(
            1, "gallery-search", initializer=prepare_faiss, initargs=(batching.thread_count,)
        )
        self._calls: Merger[_BatchKey, Vectors, Sequence[_Answer]] = Merger(
            "the queue of searches",
            self._batch,
            most_size=lambda _: batching.batch_queries,
            limits=MergerLimits(calls=1, waiting_size=limits.search_queue_queries),
        )

    async def close(self) -> None:
        """Stop; searches that wait get UnavailableError."""
        await self._calls.close(UnavailableError("the gallery is closing"))
        self._executor.shutdown()

    async def search(
        self,
        name: str,
        queries: Vectors,
        encoder_fingerprint: str,
        options: SearchOptions,
        deadline_s: float | None,
    ) -> SearchResult:
        """See `types.Gallery`."""
        info = self._answering(name, options.generation).info
        check_encoder(info.name, info.encoder_fingerprint, encoder_fingerprint)
        kept = checked_queries(queries, info.dimension, options, info.options, self._limits)
        key = _BatchKey(info.name, info.state.generation, options.top_k, options.where, options.per_label)

        async def search_part(part: Vectors) -> SearchResult:
            answers = await self._calls.submit(key, part, len(part), deadline_s)
            found = [_over(options.min_score, answer.found) for answer in answers]
            return SearchResult(await self._hits(found), answers[0].state)

        return await search_in_parts(search_part, kept, queries_per_part(self._limits, options.most_hits))

    async def _batch(
        self,
        key: _BatchKey,
        parts: Sequence[Vectors],
        deadline_s: float | None,  # noqa: ARG002  # what has begun is not interrupted
    ) -> list[Sequence[_Answer]]:
        """Search queries of several calls together: one sgemm over 16 costs little more than one over a single query."""
        queries = np.concatenate(parts)
        searched = asyncio.get_running_loop().run_in_executor(self._executor, self._search_batch, key, queries)
        try:
            answers = await asyncio.shield(searched)
        except asyncio.CancelledError:
            # The thread goes on all the same, and what comes meanwhile gathers until it is free.
            await asyncio.wait([searched])
            raise
        return [answers[place] for place in places_of(parts)]

    def _search_batch(self, key: _BatchKey, queries: Vectors) -> list[_Answer]:
        """Search what is there now: every write that was acknowledged before these queries came is in it."""
        live = self._answering(key.name, key.generation)
        if live.snapshot is None:
            raise UnavailableError(f'gallery "{key.name}" is being rebuilt')
        found = live.snapshot.search(queries, key.top_k, key.where, key.per_label)
        return [_Answer(row, live.info.state) for row in found]

    def _answering(self, name: str, generation: int) -> LiveGallery:
        """Return the gallery, in the generation that is asked for."""
        catalogue = self._catalogue()
        if catalogue.find(name) is None:
            raise no_gallery(name)
        live = catalogue.at(name, generation) if generation else catalogue.find(name)
        if live is None:
            raise made_anew(name)
        if live.damage:
            raise StorageError(live.damage)
        return live

    async def _hits(self, found: Sequence[Sequence[Found]]) -> tuple[tuple[Hit, ...], ...]:
        characters = sum(len(one.entry.metadata_json) for row in found for one in row)
        most = self._limits.hits_metadata_characters
        if characters > most:
            raise InvalidArgumentError(
                "top_k",
                f"the hits hold {characters} characters of metadata, over {most} of one call; ask for fewer hits",
            )
        return await built(lambda: tuple(tuple(map(_hit, row)) for row in found), large=characters > INLINE_CHARACTERS)


def _over(least: float, found: Sequence[Found]) -> Sequence[Found]:
    """Return what scores so much; best first, so that mostly one look tells that all do."""
    if not found or found[-1].score >= least:
        return found
    return [one for one in found if one.score >= least]


def _hit(found: Found) -> Hit:
    entry = found.entry
    metadata, _ = _JSON.raw_decode(entry.metadata_json)
    return Hit(entry.item_id, entry.label, found.score, metadata)
