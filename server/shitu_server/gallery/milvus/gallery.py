"""`types.Gallery` on a Milvus server."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from typing import Final

from shitu_server.errors import NotFoundError
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
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.milvus.catalogue import Bound, MilvusCatalogue
from shitu_server.gallery.milvus.expressions import ID, among, both, expression, literal
from shitu_server.gallery.milvus.items import Items
from shitu_server.gallery.milvus.moments import Moments, WriteOrder
from shitu_server.gallery.milvus.rows import LABEL
from shitu_server.gallery.milvus.rpc import MilvusConnection
from shitu_server.gallery.milvus.searching import Search
from shitu_server.gallery.milvus.unsupported import Unsupported
from shitu_server.gallery.milvus.writing import Writing
from shitu_server.gallery.parts import queries_per_part, search_in_parts
from shitu_server.gallery.refusals import bad_page_token, made_anew, no_item
from shitu_server.gallery.search_checks import checked_queries
from shitu_server.types import (
    AddResult,
    Capabilities,
    GalleryInfo,
    GalleryOptions,
    GalleryState,
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

CAPABILITIES: Final = Capabilities(
    backend="milvus",
    thumbnails=False,
    lists_oldest_first=False,
    ties_oldest_first=False,
    exact_sequences=False,
    all_or_nothing=False,
    snapshots=False,
    reembedding=False,
    l2=True,
    index_kinds=tuple(IndexKind),
)
LOOK_UPS_AT_ONCE: Final = 16


class MilvusGallery(Unsupported):
    """Implements `types.Gallery` over gRPC. A call while Milvus is down fails at once with UnavailableError.

    Writes of one process to the same item are done one after another. Of two gateways that change an item at the same time the later
    one wins, and either may say that it was the first to add it.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        searches_wait: bool = False,
        limits: GalleryLimits | None = None,
    ) -> None:
        """Connect at the first call, in the event loop that then runs.

        Args:
            address: http://host:port, or https://host:port.
            token: "user:password" or an API key; empty where Milvus asks for none.
            searches_wait: until they see all writes, instead of the writes until all searches see them; see `moments`. The same
                at all gateways.
            limits: of a call; how much is stored is Milvus' business.

        Raises:
            ConfigurationError: the address is none.
        """
        self._connection = MilvusConnection(address, token)
        self._limits = limits or GalleryLimits()
        self._catalogue = MilvusCatalogue(self._connection, self._limits)
        self._moments = Moments(self._connection, searches_wait=searches_wait)
        self._order = WriteOrder()

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._connection.close()

    async def check(self) -> None:
        """Raise UnavailableError unless Milvus is healthy."""
        await self._connection.check()

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
        """See `types.Gallery`. Milvus takes two or three seconds."""
        options = options or GalleryOptions()
        check_name(name)
        check_text("encoder_fingerprint", encoder_fingerprint, self._limits.fingerprint_characters)
        check_range("dimension", dimension, self._limits.dimension)
        check_fields(options.fields, self._limits)
        bound = await self._catalogue.create(name, encoder_fingerprint, dimension, options, deadline_s)
        return await self._info(bound, deadline_s)

    async def get(self, name: str, *, deadline_s: float | None = None) -> GalleryInfo:
        """See `types.Gallery`."""
        return await self._info(await self._catalogue.find(name, deadline_s), deadline_s)

    async def list_galleries(
        self, page_size: int, page_token: str, *, deadline_s: float | None = None
    ) -> Page[GalleryInfo]:
        """See `types.Gallery`. The token is the last name."""
        page_size = self._page_size(page_size)
        if page_token and not NAME_PATTERN.fullmatch(page_token):
            raise bad_page_token()
        names = [name for name in await self._catalogue.names(deadline_s) if name > page_token]
        places = asyncio.Semaphore(LOOK_UPS_AT_ONCE)

        async def looked_up(name: str) -> GalleryInfo | None:
            async with places:
                try:
                    return await self.get(name, deadline_s=deadline_s)
                except NotFoundError:  # deleted meanwhile, or left behind by a crash
                    return None

        infos = await asyncio.gather(*map(looked_up, names[:page_size]))
        token = names[page_size - 1] if len(names) > page_size else ""
        return Page(tuple(info for info in infos if info is not None), token)

    async def delete(self, name: str, *, deadline_s: float | None = None) -> None:
        """See `types.Gallery`."""
        await self._catalogue.delete(name, deadline_s)

    async def set_alias(self, alias: str, gallery: str, *, deadline_s: float | None = None) -> GalleryInfo:
        """See `types.Gallery`."""
        check_name(alias, "alias")
        return await self._info(await self._catalogue.set_alias(alias, gallery, deadline_s), deadline_s)

    async def delete_alias(self, alias: str, *, deadline_s: float | None = None) -> None:
        """See `types.Gallery`."""
        await self._catalogue.delete_alias(alias, deadline_s)

    async def add(
        self,
        name: str,
        items: Sequence[NewItem],
        encoder_fingerprint: str,
        *,
        skip_duplicates: bool = False,
        deadline_s: float | None = None,
    ) -> AddResult:
        """See `types.Gallery`. Thumbnails are not kept; a call that fails may have stored some of the items."""
        bound = await self._catalogue.find(name, deadline_s)
        check_encoder(bound.name, bound.encoder_fingerprint, encoder_fingerprint)
        checked = checked_items(items, bound.dimension, bound.options, self._limits)
        return await self._writing(bound, deadline_s).add(checked, skip_duplicates=skip_duplicates)

    async def update_items(
        self, name: str, updates: Sequence[ItemUpdate], *, deadline_s: float | None = None
    ) -> UpdateResult:
        """See `types.Gallery`."""
        bound = await self._catalogue.find(name, deadline_s)
        return await self._writing(bound, deadline_s).update(checked_updates(updates, bound.options, self._limits))

    async def remove(self, name: str, ids: Sequence[str], *, deadline_s: float | None = None) -> RemoveResult:
        """See `types.Gallery`."""
        bound = await self._catalogue.find(name, deadline_s)
        check_range("ids", len(ids), self._limits.ids_per_call, " ids")
        for i, item_id in enumerate(ids):
            check_text(f"ids[{i}]", item_id, self._limits.id_characters)
        return await self._writing(bound, deadline_s).remove(ids)

    async def list_items(
        self, name: str, page_size: int, page_token: str, label: str = "", *, deadline_s: float | None = None
    ) -> Page[Item]:
        """See `types.Gallery`, but ordered by id. The token is the last id, encoded."""
        bound = await self._catalogue.find(name, deadline_s)
        page_size = self._page_size(page_size)
        after = f"{ID} > {literal(_decoded_token(page_token))}"
        wanted = both(after, among(LABEL, (label,)) if label else "")
        moment = await self._moments.of_read(deadline_s)
        rows = await Items(self._connection, bound, deadline_s).rows(wanted, moment, most=page_size + 1)
        shown = rows[:page_size]
        return Page(tuple(row.item() for row in shown), _token(shown[-1].id) if len(rows) > page_size else "")

    async def get_item(self, name: str, item_id: str, *, deadline_s: float | None = None) -> Item:
        """See `types.Gallery`."""
        bound = await self._catalogue.find(name, deadline_s)
        check_text("id", item_id, self._limits.id_characters)
        moment = await self._moments.of_read(deadline_s)
        items = Items(self._connection, bound, deadline_s)
        rows = await items.rows(among(ID, (item_id,)), moment, vectors=True)
        if not rows:
            raise no_item(name, item_id)
        return rows[0].item()

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
        bound = await self._catalogue.find(name, deadline_s)
        if options.generation not in (0, bound.generation):
            raise made_anew(name)
        check_encoder(bound.name, bound.encoder_fingerprint, encoder_fingerprint)
        kept = checked_queries(queries, bound.dimension, options, bound.options, self._limits)
        where = "" if options.where is None else expression(options.where)
        moment = await self._moments.of_read(deadline_s)
        search = Search(self._connection, self._limits, bound, where, moment, deadline_s)

        async def search_part(part: Vectors) -> SearchResult:
            hits = await search.hits(part, options.top_k, options.min_score, options.per_label)
            return SearchResult(hits, GalleryState(bound.generation, moment))

        return await search_in_parts(search_part, kept, queries_per_part(self._limits, options.most_hits))

    async def _info(self, bound: Bound, deadline_s: float | None) -> GalleryInfo:
        moment = await self._moments.of_read(deadline_s)
        count, index = await asyncio.gather(
            Items(self._connection, bound, deadline_s).count(moment), self._catalogue.index_status(bound, deadline_s)
        )
        return GalleryInfo(
            name=bound.name,
            encoder_fingerprint=bound.encoder_fingerprint,
            dimension=bound.dimension,
            item_count=count,
            state=GalleryState(bound.generation, moment),
            create_time_s=bound.create_time_s,
            options=bound.options,
            aliases=bound.aliases,
            index=index,
        )

    def _writing(self, bound: Bound, deadline_s: float | None) -> Writing:
        return Writing(Items(self._connection, bound, deadline_s), self._moments, self._order)

    def _page_size(self, asked: int) -> int:
        page_size = asked or self._limits.default_page_size
        check_range("page_size", page_size, self._limits.page_size)
        return page_size


def _token(item_id: str) -> str:
    return base64.urlsafe_b64encode(item_id.encode()).decode()


def _decoded_token(token: str) -> str:
    """Return the last id of the page before, empty for the first page. Raises InvalidArgumentError."""
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        raise bad_page_token() from error
