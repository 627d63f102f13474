"""Galleries in this process."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from shitu_server.errors import StorageError
from shitu_server.gallery.archiving import Archive
from shitu_server.gallery.catalogue import Catalogue, LiveGallery
from shitu_server.gallery.checks import (
    NAME_PATTERN,
    check_encoder,
    check_fields,
    check_name,
    check_range,
    check_text,
    checked_items,
    checked_updates,
)
from shitu_server.gallery.directory import DataDirectory
from shitu_server.gallery.holds import WriteHolds
from shitu_server.gallery.index import check_faiss_packages
from shitu_server.gallery.ledger import Ledger
from shitu_server.gallery.limits import BatchingOptions, GalleryLimits, IndexOptions
from shitu_server.gallery.reading import ReadQueue
from shitu_server.gallery.rebuilding import Rebuilds
from shitu_server.gallery.refusals import bad_page_token, no_gallery, no_item
from shitu_server.gallery.searching import GallerySearch
from shitu_server.gallery.store import GalleryStore
from shitu_server.gallery.writer import GroupWriter
from shitu_server.gallery.writes import (
    AddItems,
    Binding,
    CreateGallery,
    DeleteAlias,
    DeleteGallery,
    RemoveItems,
    SetAlias,
    UpdateItems,
)
from shitu_server.types import (
    AddResult,
    Capabilities,
    Draft,
    DraftItem,
    GalleryInfo,
    GalleryOptions,
    IndexKind,
    Item,
    ItemUpdate,
    NewItem,
    Page,
    RemoveResult,
    SearchOptions,
    SearchResult,
    UpdateResult,
    Vectors,
)

ROW_TOKEN_PATTERN: Final = re.compile(r"([0-9]{1,18})\.([0-9]{1,18})")
"""Of a generation and the last row that was listed of it."""

CAPABILITIES: Final = Capabilities(
    backend="embedded",
    thumbnails=True,
    lists_oldest_first=True,
    ties_oldest_first=True,
    exact_sequences=True,
    all_or_nothing=True,
    snapshots=True,
    reembedding=True,
    l2=True,
    index_kinds=tuple(IndexKind),
)


class EmbeddedGallery:
    """Implements `types.Gallery` on a data directory.

    Writes go through one thread; searches through another, in batches; reads of pictures and lists through a third; graphs and
    lists for the search are built by a fourth.
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
        self._reads = ReadQueue(store.path, limits.read_queue_calls)
        self._search = GallerySearch(self._catalogue, limits, batching)
        self._writer = GroupWriter(ledger, limits)
        self._holds = WriteHolds()
        self._rebuilds = Rebuilds(self._healthy, self._writer, self._reads, self._holds, limits)
        self._archive = Archive(store.path, self._live, self._writer, limits)

    @classmethod
    async def open(
        cls,
        path: Path,
        limits: GalleryLimits | None = None,
        batching: BatchingOptions | None = None,
        tuning: IndexOptions | None = None,
    ) -> EmbeddedGallery:
        """Lock the directory and load what is there; about 12 s for a million items.

        Raises:
            ConfigurationError: the directory is in use or cannot be written, or the database is broken or newer.
        """
        limits = limits or GalleryLimits()
        check_faiss_packages()
        loop = asyncio.get_running_loop()
        opened: list[EmbeddedGallery] = []

        def wake() -> None:
            for gallery in opened:
                gallery._writer.wake()  # noqa: SLF001  # ours

        def on_built() -> None:  # in the builder's thread
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(wake)

        parts = await asyncio.to_thread(_load, path, limits, tuning or IndexOptions(), on_built)
        opened.append(cls(*parts, limits, batching or BatchingOptions()))
        return opened[0]

    async def close(self) -> None:
        """Finish the writes that wait, refuse everything else, and release the directory."""
        await self._search.close()
        await self._writer.close()
        await asyncio.to_thread(self._close_files)

    def _close_files(self) -> None:
        self._reads.close()
        self._ledger.close()
        self._store.close()
        self._directory.release()

    async def capabilities(self, *, deadline_s: float | None = None) -> Capabilities:  # noqa: ARG002  # answers at once
        """See `types.Gallery`."""
        return CAPABILITIES

    async def create(
        self,
        name: str,
        encoder_fingerprint: str,
        dimension: int,
        options: GalleryOptions | None = None,
        *,
        deadline_s: float | None = None,
    ) -> GalleryInfo:
        """See `types.Gallery`."""
        options = options or GalleryOptions()
        check_name(name)
        check_text("encoder_fingerprint", encoder_fingerprint, self._limits.fingerprint_characters)
        check_range("dimension", dimension, self._limits.dimension)
        check_fields(options.fields, self._limits)
        await self._writer.write(CreateGallery(name, encoder_fingerprint, dimension, options), deadline_s)
        return self._live(name).info

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
        galleries = self._catalogue().galleries
        names = sorted(name for name in galleries if name > page_token)
        listed = names[:page_size]
        return Page(tuple(galleries[name].info for name in listed), listed[-1] if len(names) > page_size else "")

    async def delete(self, name: str, *, deadline_s: float | None = None) -> None:
        """See `types.Gallery`."""
        self._live(name)
        await self._writer.write(DeleteGallery(name), deadline_s)
        self._rebuilds.forget(name)

    async def set_alias(self, alias: str, gallery: str, *, deadline_s: float | None = None) -> GalleryInfo:
        """See `types.Gallery`."""
        check_name(alias, "alias")
        name = self._live(gallery).info.name
        await self._writer.write(SetAlias(alias, name), deadline_s)
        return self._live(name).info

    async def delete_alias(self, alias: str, *, deadline_s: float | None = None) -> None:
        """See `types.Gallery`."""
        await self._writer.write(DeleteAlias(alias), deadline_s)

    async def add(
        self,
        name: str,
        items: Sequence[NewItem],
        encoder_fingerprint: str,
        *,
        skip_duplicates: bool = False,
        deadline_s: float | None = None,
    ) -> AddResult:
        """See `types.Gallery`."""
        await self._holds.passed(self._healthy(name).info.name, deadline_s)
        info = self._healthy(name).info
        check_encoder(info.name, info.encoder_fingerprint, encoder_fingerprint)
        checked = checked_items(items, info.dimension, info.options, self._limits)
        binding = Binding(info.encoder_fingerprint, info.dimension, info.options)
        return await self._writer.write(AddItems(info.name, binding, checked, skip_duplicates), deadline_s)

    async def update_items(
        self, name: str, updates: Sequence[ItemUpdate], *, deadline_s: float | None = None
    ) -> UpdateResult:
        """See `types.Gallery`."""
        info = self._healthy(name).info
        checked = checked_updates(updates, info.options, self._limits)
        await self._holds.passed(info.name, deadline_s)
        return await self._writer.write(UpdateItems(info.name, info.options, checked), deadline_s)

    async def remove(self, name: str, ids: Sequence[str], *, deadline_s: float | None = None) -> RemoveResult:
        """See `types.Gallery`."""
        info = self._healthy(name).info
        check_range("ids", len(ids), self._limits.ids_per_call, " ids")
        for i, item_id in enumerate(ids):
            check_text(f"ids[{i}]", item_id, self._limits.id_characters)
        await self._holds.passed(info.name, deadline_s)
        return await self._writer.write(RemoveItems(info.name, tuple(ids)), deadline_s)

    async def list_items(
        self, name: str, page_size: int, page_token: str, label: str = "", *, deadline_s: float | None = None
    ) -> Page[Item]:
        """See `types.Gallery`. A list that was begun goes on in its generation, while a rollback could bring that back."""
        info = self._live(name).info
        page_size = self._page_size(page_size)
        generation, after = _row_of(page_token) if page_token else (info.state.generation, 0)
        if generation not in (info.state.generation, info.previous_generation):
            raise bad_page_token()
        page = await self._reads.read(lambda reader: reader.page(generation, after, page_size, label), deadline_s)
        return Page(page.entries, page.next_token and f"{generation}.{page.next_token}")

    async def get_item(self, name: str, item_id: str, *, deadline_s: float | None = None) -> Item:
        """See `types.Gallery`."""
        generation = self._live(name).info.state.generation
        check_text("id", item_id, self._limits.id_characters)
        item = await self._reads.read(lambda reader: reader.item(generation, item_id), deadline_s)
        if item is None:
            raise no_item(name, item_id)
        return item

    async def search(
        self,
        name: str,
        queries: Vectors,
        encoder_fingerprint: str,
        options: SearchOptions,
        *,
        deadline_s: float | None = None,
    ) -> SearchResult:
        """See `types.Gallery`."""
        return await self._search.search(name, queries, encoder_fingerprint, options, deadline_s)

    def snapshot(self, name: str, *, deadline_s: float | None = None) -> AsyncGenerator[bytes, None]:
        """See `types.Gallery`."""
        return self._archive.snapshot(name, deadline_s)

    async def restore(
        self, name: str, content: AsyncIterator[bytes], *, deadline_s: float | None = None
    ) -> GalleryInfo:
        """See `types.Gallery`."""
        await self._archive.restore(name, content, deadline_s)
        return self._live(name).info

    async def begin_draft(
        self, name: str, encoder_fingerprint: str, dimension: int, *, deadline_s: float | None = None
    ) -> Draft:
        """See `types.Gallery`."""
        return await self._rebuilds.begin(self._named(name), encoder_fingerprint, dimension, deadline_s)

    async def draft_changes(
        self, name: str, draft: int, most: int, *, deadline_s: float | None = None
    ) -> tuple[Item, ...]:
        """See `types.Gallery`."""
        return await self._rebuilds.changes(self._named(name), draft, most, deadline_s)

    async def add_to_draft(
        self, name: str, draft: int, items: Sequence[DraftItem], *, deadline_s: float | None = None
    ) -> None:
        """See `types.Gallery`."""
        await self._rebuilds.add(self._named(name), draft, items, deadline_s)

    async def hold_writes(
        self,
        name: str,
        draft: int,
        seconds: float,
        *,
        deadline_s: float | None = None,  # noqa: ARG002  # answers at once
    ) -> None:
        """See `types.Gallery`."""
        self._rebuilds.hold(self._named(name), draft, seconds)

    async def publish(self, name: str, draft: int, *, deadline_s: float | None = None) -> GalleryInfo:
        """See `types.Gallery`."""
        name = self._named(name)
        await self._rebuilds.publish(name, draft, deadline_s)
        return self._live(name).info

    async def discard_draft(self, name: str, draft: int, *, deadline_s: float | None = None) -> None:
        """See `types.Gallery`."""
        await self._rebuilds.discard(self._named(name), draft, deadline_s)

    async def rollback(
        self, name: str, *, discard_writes: bool = False, deadline_s: float | None = None
    ) -> GalleryInfo:
        """See `types.Gallery`."""
        name = self._named(name)
        await self._rebuilds.rollback(name, discard_writes=discard_writes, deadline_s=deadline_s)
        return self._live(name).info

    def _page_size(self, asked: int) -> int:
        page_size = asked or self._limits.default_page_size
        check_range("page_size", page_size, self._limits.page_size)
        return page_size

    def _catalogue(self) -> Catalogue:
        return self._ledger.catalogue

    def _named(self, name: str) -> str:
        """Return the gallery's own name."""
        return self._live(name).info.name

    def _live(self, name: str) -> LiveGallery:
        live = self._catalogue().find(name)
        if live is None:
            raise no_gallery(name)
        return live

    def _healthy(self, name: str) -> LiveGallery:
        """Return a gallery whose items are as they were written. Raises NotFoundError, StorageError."""
        live = self._live(name)
        if live.damage:
            raise StorageError(live.damage)
        return live


def _row_of(page_token: str) -> tuple[int, int]:
    """Return generation and row of a token. Raises InvalidArgumentError."""
    numbers = ROW_TOKEN_PATTERN.fullmatch(page_token)
    if numbers is None:
        raise bad_page_token()
    return int(numbers[1]), int(numbers[2])


def _load(
    path: Path, limits: GalleryLimits, tuning: IndexOptions, on_built: Callable[[], None]
) -> tuple[DataDirectory, GalleryStore, Ledger]:
    directory = DataDirectory(path)
    try:
        store = GalleryStore(path)
        try:
            return directory, store, Ledger(store, limits, tuning, on_built)
        except BaseException:
            store.close()
            raise
    except BaseException:
        directory.release()
        raise
