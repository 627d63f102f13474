"""The gallery process behind its socket."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, Final, NamedTuple

import grpc
import numpy as np
from google.protobuf import message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shitu.v1 import drafts_pb2, drafts_pb2_grpc, gallery_pb2_grpc
from shitu.v1 import gallery_pb2 as pb
from shitu_server.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
)
from shitu_server.gallery.checks import unit_vectors
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.parts import built, queries_per_part, search_in_parts
from shitu_server.gallery.search_checks import check_any
from shitu_server.merging import Merger, MergerLimits, places_of
from shitu_server.types import (
    AddResult,
    Capabilities,
    Draft,
    DraftItem,
    GalleryInfo,
    GalleryOptions,
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
from shitu_server.wire.filters import filter_message
from shitu_server.wire.galleries import (
    added_of,
    gallery_of,
    item_of,
    item_update_message,
    new_item_message,
    search_request,
    search_result_of,
    state_of,
    vector_message,
)
from shitu_server.wire.options import capabilities_of, field_messages, index_kind_value, metric_value
from shitu_server.wire.statuses import from_rpc_error

PEER: Final = "the gallery process"
READ_TIMEOUT_S: Final = 10.0
"""Longest wait for one call, also where the caller's deadline is later or there is none."""
WRITE_TIMEOUT_S: Final = 60.0
ARCHIVE_TIMEOUT_S: Final = 4 * 3600.0
"""Of a snapshot or of restoring one: a file of a hundred gigabytes over a slow network."""
RETRY_AFTER_S: Final = 1.0
CHECK_TIMEOUT_S: Final = 1.0
DEFAULT_MESSAGE_BYTES: Final = 128 * 1024 * 1024
"""A full call of AddItems: 256 items with thumbnails of 256 KiB, metadata and vectors of 16 KiB, and room."""
INLINE_BYTES: Final = 16 * 1024
"""A reply that is read in about 1 ms."""

_SEARCH_CALLS: Final = 2
"""In flight: the process searches one batch after another, so one is searched and one is on its way."""
_LIMITS: Final = GalleryLimits()
"""Of what the process takes in one call."""
_CHANNEL_OPTIONS: Final = (
    # The gallery process is back within a second after a crash; gRPC would wait up to two minutes before it looks again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A write whose reply was lost is the caller's to repeat.
    ("grpc.enable_retries", 0),
    # Clients do not share a connection, and hence not its backoff.
    ("grpc.use_local_subchannel_pool", 1),
)


class _SearchKey(NamedTuple):
    """What searches that share a call have in common."""

    gallery: str
    dimension: int
    encoder_fingerprint: str
    options: SearchOptions
    where: bytes
    """The options' filter as it is sent: to Python 1.0 and True are equal, to a field of numbers only one of them makes sense."""

    @property
    def most_queries(self) -> int:
        return queries_per_part(_LIMITS, self.options.most_hits)


class GalleryClient:
    """Implements `types.Gallery` over gRPC. A call while the process is down fails at once with UnavailableError."""

    def __init__(self, address: str, *, max_message_bytes: int = DEFAULT_MESSAGE_BYTES) -> None:
        """Connect at the first call, in the event loop that then runs.

        Args:
            address: "unix:/path" or "host:port".
            max_message_bytes: of a request and of a reply.
        """
        sizes = (
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
        )
        self._channel = grpc.aio.insecure_channel(address, options=(*_CHANNEL_OPTIONS, *sizes))
        self._stub = gallery_pb2_grpc.GalleryServiceStub(self._channel)
        self._drafts = drafts_pb2_grpc.GalleryDraftServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._searches: Merger[_SearchKey, Vectors, SearchResult] = Merger(
            PEER,
            self._merged_search,
            most_size=lambda key: key.most_queries,
            limits=MergerLimits(_SEARCH_CALLS, _LIMITS.search_queue_queries, READ_TIMEOUT_S),
            item_faults=InvalidArgumentError,
        )

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled, searches get UnavailableError."""
        await self._searches.close(UnavailableError(f"the connection to {PEER} is closing"))
        await self._channel.close(None)

    async def check(self) -> None:
        """Raise UnavailableError unless the process is serving."""
        try:
            reply = await _call(self._health.Check, health_pb2.HealthCheckRequest(), None, CHECK_TIMEOUT_S)
        except OverloadedError:
            return  # it serves so many that it refuses more; a gateway that left for that would not help
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            raise UnavailableError(f"{PEER} is starting or stopping")

    async def capabilities(self, *, deadline_s: float | None = None) -> Capabilities:
        """See `types.Gallery`."""
        reply = await _call(self._stub.GetCapabilities, pb.GetCapabilitiesRequest(), deadline_s, READ_TIMEOUT_S)
        return capabilities_of(reply)

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
        request = pb.CreateGalleryRequest(
            name=name,
            encoder_fingerprint=encoder_fingerprint,
            dimension=dimension,
            metric=metric_value(options.metric),
            index_kind=index_kind_value(options.index_kind),
            fields=field_messages(options),
        )
        reply = await _call(self._stub.CreateGallery, request, deadline_s, WRITE_TIMEOUT_S)
        return gallery_of(reply.gallery)

    async def get(self, name: str, *, deadline_s: float | None = None) -> GalleryInfo:
        """See `types.Gallery`."""
        reply = await _call(self._stub.GetGallery, pb.GetGalleryRequest(name=name), deadline_s, READ_TIMEOUT_S)
        return gallery_of(reply.gallery)

    async def list_galleries(
        self, page_size: int, page_token: str, *, deadline_s: float | None = None
    ) -> Page[GalleryInfo]:
        """See `types.Gallery`."""
        request = pb.ListGalleriesRequest(page_size=page_size, page_token=page_token)
        reply = await _call(self._stub.ListGalleries, request, deadline_s, READ_TIMEOUT_S)
        return Page(tuple(gallery_of(gallery) for gallery in reply.galleries), reply.next_page_token)

    async def delete(self, name: str, *, deadline_s: float | None = None) -> None:
        """See `types.Gallery`."""
        await _call(self._stub.DeleteGallery, pb.DeleteGalleryRequest(name=name), deadline_s, WRITE_TIMEOUT_S)

    async def set_alias(self, alias: str, gallery: str, *, deadline_s: float | None = None) -> GalleryInfo:
        """See `types.Gallery`."""
        request = pb.SetAliasRequest(alias=alias, gallery=gallery)
        return gallery_of((await _call(self._stub.SetAlias, request, deadline_s, WRITE_TIMEOUT_S)).gallery)

    async def delete_alias(self, alias: str, *, deadline_s: float | None = None) -> None:
        """See `types.Gallery`."""
        await _call(self._stub.DeleteAlias, pb.DeleteAliasRequest(alias=alias), deadline_s, WRITE_TIMEOUT_S)

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
        request = pb.AddItemsRequest(
            gallery=name,
            items=[new_item_message(item) for item in items],
            encoder_fingerprint=encoder_fingerprint,
            skip_duplicates=skip_duplicates,
        )
        reply = await _call(self._stub.AddItems, request, deadline_s, WRITE_TIMEOUT_S)
        return AddResult(added_of(reply.results), state_of(reply.state))

    async def update_items(
        self, name: str, updates: Sequence[ItemUpdate], *, deadline_s: float | None = None
    ) -> UpdateResult:
        """See `types.Gallery`."""
        request = pb.UpdateItemsRequest(gallery=name, updates=[item_update_message(update) for update in updates])
        reply = await _call(self._stub.UpdateItems, request, deadline_s, WRITE_TIMEOUT_S)
        return UpdateResult(tuple(reply.updated_ids), state_of(reply.state))

    async def remove(self, name: str, ids: Sequence[str], *, deadline_s: float | None = None) -> RemoveResult:
        """See `types.Gallery`."""
        request = pb.RemoveItemsRequest(gallery=name, ids=ids)
        reply = await _call(self._stub.RemoveItems, request, deadline_s, WRITE_TIMEOUT_S)
        return RemoveResult(tuple(reply.removed_ids), state_of(reply.state))

    async def list_items(
        self, name: str, page_size: int, page_token: str, label: str = "", *, deadline_s: float | None = None
    ) -> Page[Item]:
        """See `types.Gallery`."""
        request = pb.ListItemsRequest(gallery=name, page_size=page_size, page_token=page_token, label=label)
        reply = await _call(self._stub.ListItems, request, deadline_s, READ_TIMEOUT_S)
        large = reply.ByteSize() > INLINE_BYTES
        return Page(await built(lambda: tuple(map(item_of, reply.items)), large=large), reply.next_page_token)

    async def get_item(self, name: str, item_id: str, *, deadline_s: float | None = None) -> Item:
        """See `types.Gallery`."""
        reply = await _call(self._stub.GetItem, pb.GetItemRequest(gallery=name, id=item_id), deadline_s, READ_TIMEOUT_S)
        return item_of(reply.item)

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
        check_any(queries)
        where = b"" if options.where is None else filter_message(options.where).SerializeToString(deterministic=True)
        key = _SearchKey(name, queries.shape[-1], encoder_fingerprint, options, where)

        async def search_part(part: Vectors) -> SearchResult:
            return await self._searches.submit(key, part, len(part), deadline_s)

        if len(queries) > key.most_queries:  # an error of a part would name the query by its place in that part
            unit_vectors(queries, queries.shape[-1], lambda row: f"queries[{row}].vector")
        return await search_in_parts(search_part, queries, key.most_queries)

    async def _merged_search(
        self, key: _SearchKey, parts: Sequence[Vectors], deadline_s: float | None
    ) -> list[SearchResult]:
        queries = np.concatenate(parts)
        request = search_request(key.gallery, queries, key.encoder_fingerprint, key.options)
        reply = await _call(self._stub.Search, request, deadline_s, READ_TIMEOUT_S)
        found = await built(lambda: search_result_of(reply), large=reply.ByteSize() > INLINE_BYTES)
        if len(found.hits) != len(queries):
            raise InternalError(f"{PEER} answered {len(found.hits)} of {len(queries)} queries")
        return [SearchResult(found.hits[place], found.state) for place in places_of(parts)]

    async def snapshot(self, name: str, *, deadline_s: float | None = None) -> AsyncGenerator[bytes, None]:
        """See `types.Gallery`."""
        request = pb.SnapshotRequest(gallery=name)
        try:
            async for reply in self._stub.Snapshot(request, timeout=_left_s(deadline_s, ARCHIVE_TIMEOUT_S)):
                yield reply.data
        except grpc.RpcError as error:
            raise from_rpc_error(error, PEER) from error

    async def restore(
        self, name: str, content: AsyncIterator[bytes], *, deadline_s: float | None = None
    ) -> GalleryInfo:
        """See `types.Gallery`. What `content` raises is raised here."""
        fault: list[Exception] = []

        async def requests() -> AsyncIterator[pb.RestoreRequest]:
            # gRPC swallows what a request iterator raises, and cancels the call.
            try:
                yield pb.RestoreRequest(gallery=name)
                async for part in content:
                    yield pb.RestoreRequest(data=part)
            except Exception as error:
                fault.append(error)
                raise

        try:
            reply = await self._stub.Restore(requests(), timeout=_left_s(deadline_s, ARCHIVE_TIMEOUT_S))
        except grpc.RpcError as error:
            raise fault[0] if fault else from_rpc_error(error, PEER) from error
        except asyncio.CancelledError:
            if fault:
                raise fault[0] from None
            raise
        return gallery_of(reply.gallery)

    async def begin_draft(
        self, name: str, encoder_fingerprint: str, dimension: int, *, deadline_s: float | None = None
    ) -> Draft:
        """See `types.Gallery`."""
        request = drafts_pb2.BeginDraftRequest(
            gallery=name, encoder_fingerprint=encoder_fingerprint, dimension=dimension
        )
        reply = await _call(self._drafts.BeginDraft, request, deadline_s, WRITE_TIMEOUT_S)
        return Draft(reply.draft, reply.item_count, reply.wanted_count)

    async def draft_changes(
        self, name: str, draft: int, most: int, *, deadline_s: float | None = None
    ) -> tuple[Item, ...]:
        """See `types.Gallery`."""
        request = drafts_pb2.ListDraftChangesRequest(gallery=name, draft=draft, most=most)
        # To find that nothing is missing, all items are looked at: some seconds for a million.
        reply = await _call(self._drafts.ListDraftChanges, request, deadline_s, WRITE_TIMEOUT_S)
        return await built(lambda: tuple(map(item_of, reply.items)), large=reply.ByteSize() > INLINE_BYTES)

    async def add_to_draft(
        self, name: str, draft: int, items: Sequence[DraftItem], *, deadline_s: float | None = None
    ) -> None:
        """See `types.Gallery`."""
        messages = [
            drafts_pb2.DraftItem(id=item.id, sequence=item.sequence, vector=vector_message(item.vector))
            for item in items
        ]
        request = drafts_pb2.AddToDraftRequest(gallery=name, draft=draft, items=messages)
        await _call(self._drafts.AddToDraft, request, deadline_s, WRITE_TIMEOUT_S)

    async def hold_writes(self, name: str, draft: int, seconds: float, *, deadline_s: float | None = None) -> None:
        """See `types.Gallery`."""
        request = drafts_pb2.HoldWritesRequest(gallery=name, draft=draft, seconds=seconds)
        await _call(self._drafts.HoldWrites, request, deadline_s, READ_TIMEOUT_S)

    async def publish(self, name: str, draft: int, *, deadline_s: float | None = None) -> GalleryInfo:
        """See `types.Gallery`."""
        request = drafts_pb2.PublishDraftRequest(gallery=name, draft=draft)
        return gallery_of((await _call(self._drafts.PublishDraft, request, deadline_s, WRITE_TIMEOUT_S)).gallery)

    async def discard_draft(self, name: str, draft: int, *, deadline_s: float | None = None) -> None:
        """See `types.Gallery`."""
        request = drafts_pb2.DiscardDraftRequest(gallery=name, draft=draft)
        await _call(self._drafts.DiscardDraft, request, deadline_s, WRITE_TIMEOUT_S)

    async def rollback(
        self, name: str, *, discard_writes: bool = False, deadline_s: float | None = None
    ) -> GalleryInfo:
        """See `types.Gallery`."""
        request = pb.RollbackRequest(gallery=name, discard_writes=discard_writes)
        return gallery_of((await _call(self._stub.Rollback, request, deadline_s, WRITE_TIMEOUT_S)).gallery)


def _left_s(deadline_s: float | None, most_s: float) -> float:
    """Return how long a call may take. Raises DeadlineExceededError where its time is over."""
    left_s = math.inf if deadline_s is None else deadline_s - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceededError(f"the deadline passed before {PEER} was called")
    return min(left_s, most_s)


async def _call(method: Callable[..., Any], request: message.Message, deadline_s: float | None, most_s: float) -> Any:
    left_s = _left_s(deadline_s, most_s)
    try:
        return await method(request, timeout=left_s)
    except grpc.RpcError as error:
        translated = from_rpc_error(error, PEER)
        if isinstance(translated, DeadlineExceededError) and left_s == most_s:  # ours: the caller has time to try again
            message = (
                f"{PEER} gave no answer within {most_s:g} s; a write may yet be done: adding items again does no harm, "
                "before another write look whether it was done"
            )
            raise UnavailableError(message, RETRY_AFTER_S) from error
        raise translated from error
