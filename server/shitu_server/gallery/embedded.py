"""Galleries in this process."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from shitu_server.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from shitu_server.gallery.batcher import QueryBatcher
from shitu_server.gallery.checks import (
    NAME_PATTERN,
    check_encoder,
    check_name,
    check_range,
    check_text,
    checked_items,
    shown,
    unit_vectors,
)
from shitu_server.gallery.directory import DataDirectory
from shitu_server.gallery.index import Found, check_faiss_packages, prepare_faiss
from shitu_server.gallery.ledger import Ledger, LiveGallery
from shitu_server.gallery.limits import BatchingOptions, GalleryLimits
from shitu_server.gallery.parts import built, queries_per_part, search_in_parts
from shitu_server.gallery.reader import StoreReader
from shitu_server.gallery.store import GalleryStore
from shitu_server.gallery.writer import GroupWriter
from shitu_server.gallery.writes import AddItems, CreateGallery, DeleteGallery, RemoveItems, no_gallery
from shitu_server.types import (
    AddResult,
    GalleryInfo,
    GalleryState,
    Hit,
    Item,
    NewItem,
    Page,
    RemoveResult,
    SearchResult,
    Vectors,
)

T = TypeVar("T")

ROW_TOKEN_PATTERN: Final = re.compile(r"[0-9]{0,18}")
RETRY_READ_AFTER_S: Final = 0.1
INLINE_CHARACTERS: Final = 64 * 1024
"""JSON that is read in about 1 ms."""


class _BatchKey(NamedTuple):
    name: str
    generation: int
    top_k: int


class _Answer(NamedTuple):
    found: Sequence[Found]
    state: GalleryState


class EmbeddedGallery:
    """Implements `types.Gallery` on a data directory.

    Writes go through one thread; searches through another, in batches; reads of pictures and lists through a third.
    """

    def __init__(
        self,
        directory: DataDirectory,
        store: GalleryStore,
        ledger: Ledger,
        limits: GalleryLimits,
        batching: BatchingOptions,
    ) -> None:
        """For `open` only."""
        self._directory = directory
        self._store = store
        self._ledger = ledger
        self._limits = limits
        self._reader = StoreReader(store.path)
        self._reading = ThreadPoolExecutor(1, "gallery-reader")
        self._reads_waiting = 0
        self._searching = ThreadPoolExecutor(
            1, "gallery-search", initializer=prepare_faiss, initargs=(batching.thread_count,)
        )
        self._writer = GroupWriter(ledger, limits)
        self._batcher: QueryBatcher[_BatchKey, _Answer] = QueryBatcher(
            self._search_batch,
            self._searching,
            delay_s=batching.delay_s,
            batch_queries=batching.batch_queries,
            queue_queries=limits.search_queue_queries,
        )

    @classmethod
    async def open(
        cls, path: Path, limits: GalleryLimits | None = None, batching: BatchingOptions | None = None
    ) -> EmbeddedGallery:
        """Lock the directory and load what is there; about 12 s for a million items.

        Raises:
            ConfigurationError: the directory is in use or cannot be written, or the database is broken or newer.
        """
        limits = limits or GalleryLimits()
        check_faiss_packages()
        return cls(*await asyncio.to_thread(_load, path, limits), limits, batching or BatchingOptions())

    async def close(self) -> None:
        """Finish the writes that wait, refuse everything else, and release the directory."""
        await self._batcher.close()
        await self._writer.close()
        await asyncio.to_thread(self._close_files)

    def _close_files(self) -> None:
        self._searching.shutdown()
        self._reading.shutdown()
        self._reader.close()
        self._store.close()
        self._directory.release()

    async def create(
        self, name: str, encoder_fingerprint: str, dimension: int, *, deadline_s: float | None = None
    ) -> GalleryInfo:
        """See `types.Gallery`."""
        check_name(name)
        check_text("encoder_fingerprint", encoder_fingerprint, self._limits.fingerprint_characters)
        check_range("dimension", dimension, self._limits.dimension)
        return await self._writer.write(CreateGallery(name, encoder_fingerprint, dimension), deadline_s)

    async def get(self, name: str, *, deadline_s: float | None = None) -> GalleryInfo:  # noqa: ARG002  # answers at once
        """See `types.Gallery`."""
        return self._live(name).info

    async def list_galleries(
        self,
        page_size: int,
        page_token: str,
        *,
        deadline_s: float | None = None,  # noqa: ARG002  # answers at once
    ) -> Page[GalleryInfo]:
        """See `types.Gallery`. The token is the last name."""
        page_size = self._page_size(page_size)
        if page_token and not NAME_PATTERN.fullmatch(page_token):
            raise bad_page_token()
        galleries = self._ledger.galleries
        names = sorted(name for name in galleries if name > page_token)
        listed = names[:page_size]
        return Page(tuple(galleries[name].info for name in listed), listed[-1] if len(names) > page_size else "")

    async def delete(self, name: str, *, deadline_s: float | None = None) -> None:
        """See `types.Gallery`."""
        self._live(name)
        await self._writer.write(DeleteGallery(name), deadline_s)

    async def add(
        self, name: str, items: Sequence[NewItem], encoder_fingerprint: str, *, deadline_s: float | None = None
    ) -> AddResult:
        """See `types.Gallery`."""
        info = self._live(name).info
        check_encoder(name, info.encoder_fingerprint, encoder_fingerprint)
        checked = checked_items(items, info.dimension, self._limits)
        return await self._writer.write(AddItems(name, info.state.generation, checked), deadline_s)

    async def remove(self, name: str, ids: Sequence[str], *, deadline_s: float | None = None) -> RemoveResult:
        """See `types.Gallery`."""
        generation = self._live(name).info.state.generation
        check_range("ids", len(ids), self._limits.ids_per_call, " ids")
        for i, item_id in enumerate(ids):
            check_text(f"ids[{i}]", item_id, self._limits.id_characters)
        return await self._writer.write(RemoveItems(name, generation, tuple(ids)), deadline_s)

    async def list_items(
        self, name: str, page_size: int, page_token: str, label: str = "", *, deadline_s: float | None = None
    ) -> Page[Item]:
        """See `types.Gallery`. The token is the last row id."""
        generation = self._live(name).info.state.generation
        page_size = self._page_size(page_size)
        if not ROW_TOKEN_PATTERN.fullmatch(page_token):
            raise bad_page_token()
        after = int(page_token or "0")
        return await self._read(lambda: self._reader.page(generation, after, page_size, label), deadline_s)

    async def get_item(self, name: str, item_id: str, *, deadline_s: float | None = None) -> Item:
        """See `types.Gallery`."""
        generation = self._live(name).info.state.generation
        check_text("id", item_id, self._limits.id_characters)
        item = await self._read(lambda: self._reader.item(generation, item_id), deadline_s)
        if item is None:
            raise NotFoundError("item", item_id, f'gallery "{name}" has no item {shown(item_id)}')
        return item

    async def search(
        self,
        name: str,
        queries: Vectors,
        encoder_fingerprint: str,
        *,
        top_k: int,
        min_score: float = -1.0,
        deadline_s: float | None = None,
    ) -> SearchResult:
        """See `types.Gallery`."""
        info = self._live(name).info
        check_encoder(name, info.encoder_fingerprint, encoder_fingerprint)
        check_range("top_k", top_k, self._limits.top_k)
        if not len(queries):
            raise InvalidArgumentError("queries", "expected at least 1 query, came none")
        if not -1 <= min_score <= 1:
            raise InvalidArgumentError("match_threshold", f"expected -1 to 1, came {min_score}")
        units = unit_vectors(queries, info.dimension, lambda row: f"queries[{row}].vector")
        key = _BatchKey(name, info.state.generation, top_k)

        async def search_part(part: Vectors) -> SearchResult:
            answers = await within(self._batcher.submit(key, part, deadline_s), deadline_s)
            found = [[one for one in answer.found if one.score >= min_score] for answer in answers]
            return SearchResult(await self._hits(found), answers[0].state)

        return await search_in_parts(search_part, units, queries_per_part(self._limits, top_k))

    async def _hits(self, found: Sequence[Sequence[Found]]) -> tuple[tuple[Hit, ...], ...]:
        characters = sum(len(one.entry.metadata_json) for row in found for one in row)
        most = self._limits.hits_metadata_characters
        if characters > most:
            raise InvalidArgumentError(
                "top_k",
                f"the hits hold {characters} characters of metadata, over {most} of one call; ask for fewer hits",
            )
        return await built(lambda: tuple(tuple(map(_hit, row)) for row in found), large=characters > INLINE_CHARACTERS)

    def _page_size(self, asked: int) -> int:
        page_size = asked or self._limits.default_page_size
        check_range("page_size", page_size, self._limits.page_size)
        return page_size

    def _live(self, name: str) -> LiveGallery:
        live = self._ledger.galleries.get(name)
        if live is None:
            raise no_gallery(name)
        return live

    def _search_batch(self, key: _BatchKey, queries: Vectors) -> list[_Answer]:
        """Search what is live now: every write that was acknowledged before these queries came is in it."""
        live = self._live(key.name)
        if live.info.state.generation != key.generation:
            raise no_gallery(key.name)
        if live.snapshot is None:
            raise UnavailableError(f'gallery "{key.name}" is being rebuilt')
        found = live.snapshot.search(queries, key.top_k)
        return [_Answer(row, live.info.state) for row in found]

    async def _read(self, read: Callable[[], T], deadline_s: float | None) -> T:
        if self._reads_waiting >= self._limits.read_queue_calls:
            raise OverloadedError(f"{self._reads_waiting} reads wait already", RETRY_READ_AFTER_S)
        self._reads_waiting += 1
        try:
            return await within(asyncio.get_running_loop().run_in_executor(self._reading, read), deadline_s)
        finally:
            self._reads_waiting -= 1


def bad_page_token() -> InvalidArgumentError:
    """Return the error for a token that no list gave out."""
    return InvalidArgumentError("page_token", "expected the next_page_token of the page before, or none")


async def within(work: Awaitable[T], deadline_s: float | None) -> T:
    """Return what `work` returns. Raises DeadlineExceededError once `time.monotonic()` is over `deadline_s`."""
    try:
        return await asyncio.wait_for(work, None if deadline_s is None else deadline_s - time.monotonic())
    except asyncio.TimeoutError as error:
        raise DeadlineExceededError("the deadline passed before the gallery answered") from error


def _hit(found: Found) -> Hit:
    entry = found.entry
    return Hit(entry.item_id, entry.label, found.score, json.loads(entry.metadata_json))


def _load(path: Path, limits: GalleryLimits) -> tuple[DataDirectory, GalleryStore, Ledger]:
    directory = DataDirectory(path)
    try:
        store = GalleryStore(path)
        try:
            return directory, store, Ledger(store, limits)
        except BaseException:
            store.close()
            raise
    except BaseException:
        directory.release()
        raise
