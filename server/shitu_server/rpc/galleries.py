"""GalleryService over `types.Gallery`: the same servicer in the gateways and in the gallery process."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final

from shitu.v1 import gallery_pb2 as pb
from shitu.v1 import gallery_pb2_grpc
from shitu_server.errors import EncoderMismatchError, InvalidArgumentError, ShituError
from shitu_server.gallery.checks import check_encoder, check_range, check_unique, checked_item
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.parts import built
from shitu_server.gallery.refusals import made_anew
from shitu_server.rpc.handlers import Context
from shitu_server.rpc.interceptors import deadline_of
from shitu_server.rpc.item_queries import resolved
from shitu_server.rpc.item_sources import EncoderIdentity, ItemSource, MaybeItem
from shitu_server.types import AddResult, Gallery, GalleryInfo, NewItem, SearchOptions, SearchResult
from shitu_server.wire.filters import filter_of
from shitu_server.wire.galleries import (
    added_message,
    gallery_message,
    item_message,
    item_update_of,
    search_response,
    state_message,
)
from shitu_server.wire.options import capabilities_message, options_of
from shitu_server.wire.statuses import to_status

DEFAULT_TOP_K: Final = 5
INLINE_HITS: Final = 10
"""With 16 KiB of metadata each they take 24 ms to become messages; more are made beside the event loop."""
INLINE_BARE_HITS: Final = 256
"""Without metadata they take 0.6 ms."""
PART_BYTES: Final = 1024 * 1024
"""Of a snapshot in one message: clients take 4 MiB where nobody set more."""


class GalleryServicer(gallery_pb2_grpc.GalleryServiceServicer):
    """Each method converts, calls the gallery and converts back; errors are the interceptor's."""

    def __init__(self, gallery: Gallery, source: ItemSource, limits: GalleryLimits | None = None) -> None:
        self._gallery = gallery
        self._source = source
        self._limits = limits or GalleryLimits()

    async def CreateGallery(self, request: pb.CreateGalleryRequest, context: Context) -> pb.CreateGalleryResponse:  # noqa: N802
        """Make an empty gallery, bound to the named encoder or to the one that runs here."""
        encoder = self._encoder_of(request)
        options = options_of(request)
        info = await self._gallery.create(
            request.name, encoder.fingerprint, encoder.dimension, options, deadline_s=deadline_of(context)
        )
        return pb.CreateGalleryResponse(gallery=gallery_message(info))

    async def GetGallery(self, request: pb.GetGalleryRequest, context: Context) -> pb.GetGalleryResponse:  # noqa: N802
        """Describe a gallery."""
        info = await self._gallery.get(request.name, deadline_s=deadline_of(context))
        return pb.GetGalleryResponse(gallery=gallery_message(info))

    async def ListGalleries(self, request: pb.ListGalleriesRequest, context: Context) -> pb.ListGalleriesResponse:  # noqa: N802
        """List galleries by name."""
        page = await self._gallery.list_galleries(
            request.page_size, request.page_token, deadline_s=deadline_of(context)
        )
        galleries = [gallery_message(info) for info in page.entries]
        return pb.ListGalleriesResponse(galleries=galleries, next_page_token=page.next_token)

    async def DeleteGallery(self, request: pb.DeleteGalleryRequest, context: Context) -> pb.DeleteGalleryResponse:  # noqa: N802
        """Delete a gallery with its items."""
        await self._gallery.delete(request.name, deadline_s=deadline_of(context))
        return pb.DeleteGalleryResponse()

    async def AddItems(self, request: pb.AddItemsRequest, context: Context) -> pb.AddItemsResponse:  # noqa: N802
        """Store the good items together; each bad one fails alone, unless the source wants all or nothing."""
        deadline_s = deadline_of(context)
        check_range("items", len(request.items), self._limits.items_per_call, " items")
        info = await self._gallery.get(request.gallery, deadline_s=deadline_s)
        prepared = await self._source.new_items(request.items, request.encoder_fingerprint, info, deadline_s)
        check_encoder(info.name, info.encoder_fingerprint, prepared.encoder_fingerprint)
        items = self._checked(prepared.items, info)
        bad = next((item for item in items if isinstance(item, ShituError)), None)
        if bad is not None and self._source.all_or_nothing:
            raise bad
        good = [item for item in items if isinstance(item, NewItem)]
        added = AddResult((), info.state)
        if good:
            added = await self._add(info, good, skip_duplicates=request.skip_duplicates, deadline_s=deadline_s)
        # A longer id is an error, whose echo need not be as long: 256 of them could be more than the client takes.
        ids = [message.id[: self._limits.id_characters] for message in request.items]
        return _add_response(ids, items, added)

    async def _add(
        self, info: GalleryInfo, items: Sequence[NewItem], *, skip_duplicates: bool, deadline_s: float | None
    ) -> AddResult:
        try:
            return await self._gallery.add(
                info.name, items, info.encoder_fingerprint, skip_duplicates=skip_duplicates, deadline_s=deadline_s
            )
        except EncoderMismatchError as error:  # the gallery got another encoder while the pictures were embedded
            raise made_anew(info.name) from error

    async def UpdateItems(self, request: pb.UpdateItemsRequest, context: Context) -> pb.UpdateItemsResponse:  # noqa: N802
        """Change labels and metadata of those items that are there."""
        check_range("updates", len(request.updates), self._limits.items_per_call, " updates")
        updates = [item_update_of(update, f"updates[{i}]") for i, update in enumerate(request.updates)]
        updated = await self._gallery.update_items(request.gallery, updates, deadline_s=deadline_of(context))
        return pb.UpdateItemsResponse(updated_ids=updated.updated_ids, state=state_message(updated.state))

    async def RemoveItems(self, request: pb.RemoveItemsRequest, context: Context) -> pb.RemoveItemsResponse:  # noqa: N802
        """Remove those items that are there."""
        removed = await self._gallery.remove(request.gallery, request.ids, deadline_s=deadline_of(context))
        return pb.RemoveItemsResponse(removed_ids=removed.removed_ids, state=state_message(removed.state))

    async def ListItems(self, request: pb.ListItemsRequest, context: Context) -> pb.ListItemsResponse:  # noqa: N802
        """List items, oldest first."""
        page = await self._gallery.list_items(
            request.gallery,
            request.page_size,
            request.page_token,
            request.label,
            deadline_s=deadline_of(context),
        )
        large = len(page.entries) > INLINE_HITS
        items = await built(lambda: [item_message(item) for item in page.entries], large=large)
        return pb.ListItemsResponse(items=items, next_page_token=page.next_token)

    async def GetItem(self, request: pb.GetItemRequest, context: Context) -> pb.GetItemResponse:  # noqa: N802
        """Return an item with its vector and thumbnail."""
        item = await self._gallery.get_item(request.gallery, request.id, deadline_s=deadline_of(context))
        return pb.GetItemResponse(item=item_message(item))

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:  # noqa: N802
        """Find the nearest items of pictures, vectors or items."""
        deadline_s = deadline_of(context)
        top_k = self._checked_top_k(request)
        own = await resolved(request, self._gallery, deadline_s)
        prepared = await self._source.query_vectors(own.request, deadline_s)
        options = SearchOptions(
            own.wider(top_k, self._limits.top_k),
            request.match_threshold if request.HasField("match_threshold") else -math.inf,
            filter_of(request.where) if request.HasField("where") else None,
            own.wider(request.matches_per_label) if request.matches_per_label else 0,
            prepared.generation,
        )
        result = own.without_themselves(
            await self._gallery.search(
                prepared.gallery, prepared.vectors, prepared.encoder_fingerprint, options, deadline_s=deadline_s
            ),
            top_k,
            request.matches_per_label,
        )
        return await built(lambda: search_response(result), large=_is_large(result))

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:  # noqa: N802
        """Make or move an alias."""
        info = await self._gallery.set_alias(request.alias, request.gallery, deadline_s=deadline_of(context))
        return pb.SetAliasResponse(gallery=gallery_message(info))

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.DeleteAliasResponse:  # noqa: N802
        """Remove an alias."""
        await self._gallery.delete_alias(request.alias, deadline_s=deadline_of(context))
        return pb.DeleteAliasResponse()

    async def Snapshot(  # noqa: N802
        self, request: pb.SnapshotRequest, context: Context
    ) -> AsyncIterator[pb.SnapshotResponse]:
        """Send the gallery as a file."""
        async with aclosing(self._gallery.snapshot(request.gallery, deadline_s=deadline_of(context))) as blocks:
            async for block in blocks:
                for begin in range(0, len(block), PART_BYTES):
                    yield pb.SnapshotResponse(data=block[begin : begin + PART_BYTES])

    async def Restore(self, requests: AsyncIterator[pb.RestoreRequest], context: Context) -> pb.RestoreResponse:  # noqa: N802
        """Make a gallery of such a file."""
        first = await anext(requests, pb.RestoreRequest())

        async def content() -> AsyncIterator[bytes]:
            yield first.data
            async for request in requests:
                yield request.data

        info = await self._gallery.restore(first.gallery, content(), deadline_s=deadline_of(context))
        return pb.RestoreResponse(gallery=gallery_message(info))

    async def Reembed(self, request: pb.ReembedRequest, context: Context) -> AsyncIterator[pb.ReembedResponse]:  # noqa: N802
        """Embed the pictures of a gallery with another encoder, then publish."""
        runs = self._source.reembedding(request.gallery, request.encoder, deadline_of(context))
        async with aclosing(runs) as reports:
            async for progress in reports:
                yield pb.ReembedResponse(
                    embedded_count=progress.embedded_count,
                    item_count=progress.item_count,
                    published=None if progress.published is None else gallery_message(progress.published),
                )

    async def Rollback(self, request: pb.RollbackRequest, context: Context) -> pb.RollbackResponse:  # noqa: N802
        """Bring the former generation back."""
        info = await self._gallery.rollback(
            request.gallery, discard_writes=request.discard_writes, deadline_s=deadline_of(context)
        )
        return pb.RollbackResponse(gallery=gallery_message(info))

    async def GetCapabilities(  # noqa: N802
        self,
        request: pb.GetCapabilitiesRequest,  # noqa: ARG002  # there is nothing in it
        context: Context,
    ) -> pb.GetCapabilitiesResponse:
        """Say what the backend promises."""
        return capabilities_message(await self._gallery.capabilities(deadline_s=deadline_of(context)))

    def _checked_top_k(self, request: pb.SearchRequest) -> int:
        query_count, most_hits = len(request.queries), self._limits.hits_per_call
        check_range("queries", query_count, self._limits.queries_per_call, " queries")
        top_k: int = request.top_k if request.HasField("top_k") else min(DEFAULT_TOP_K, self._limits.top_k)
        check_range("top_k", top_k, self._limits.top_k)
        if request.matches_per_label < 0:
            raise InvalidArgumentError("matches_per_label", f"expected 0 or more, came {request.matches_per_label}")
        if query_count * top_k * max(1, request.matches_per_label) > most_hits:
            raise InvalidArgumentError(
                "top_k",
                f"expected at most {most_hits} hits of all queries together, came {query_count} queries of {top_k} each; "
                "send fewer queries in a call, or ask for fewer hits",
            )
        return top_k

    def _encoder_of(self, request: pb.CreateGalleryRequest) -> EncoderIdentity:
        fingerprint, dimension = request.encoder_fingerprint, request.dimension
        if request.encoder and (fingerprint or dimension):
            raise InvalidArgumentError(
                "encoder", "expected the name of a served encoder, or encoder_fingerprint and dimension; got both"
            )
        if bool(fingerprint) != bool(dimension):
            missing = "dimension" if fingerprint else "encoder_fingerprint"
            raise InvalidArgumentError(missing, "expected encoder_fingerprint and dimension together, or neither")
        return EncoderIdentity(fingerprint, dimension) if fingerprint else self._source.encoder_named(request.encoder)

    def _checked(self, items: Sequence[MaybeItem], info: GalleryInfo) -> list[MaybeItem]:
        """Return each item, or why it cannot be stored. Of items of one id the first is taken."""
        first_places: dict[str, int] = {}
        checked: list[MaybeItem] = []
        for place, item in enumerate(items):
            try:
                if isinstance(item, NewItem):
                    checked_item(item, f"items[{place}]", info.dimension, info.options, self._limits)
                    check_unique(item.id, place, first_places)
                checked.append(item)
            except ShituError as error:
                checked.append(error)
        return checked


def _add_response(ids: Sequence[str], items: Sequence[MaybeItem], result: AddResult) -> pb.AddItemsResponse:
    added = iter(result.added)
    results = [
        pb.AddItemResult(id=item_id, error=to_status(item))
        if isinstance(item, ShituError)
        else pb.AddItemResult(id=item_id, added=added_message(next(added)))
        for item_id, item in zip(ids, items, strict=True)
    ]
    return pb.AddItemsResponse(results=results, state=state_message(result.state))


def _is_large(result: SearchResult) -> bool:
    described = sum(bool(hit.metadata) for hits in result.hits for hit in hits)
    return described > INLINE_HITS or sum(map(len, result.hits)) > INLINE_BARE_HITS
