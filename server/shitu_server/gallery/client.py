"""The gallery process behind its socket."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
from google.protobuf import message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shitu.v1 import gallery_pb2 as pb
from shitu.v1 import gallery_pb2_grpc
from shitu_server.errors import DeadlineExceededError, OverloadedError, UnavailableError
from shitu_server.gallery.checks import unit_vectors
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.parts import built, queries_per_part, search_in_parts
from shitu_server.types import (
    AddResult,
    GalleryInfo,
    Item,
    NewItem,
    Page,
    RemoveResult,
    SearchResult,
    Vectors,
)
from shitu_server.wire.galleries import (
    gallery_of,
    item_of,
    new_item_message,
    replaced_of,
    search_request,
    search_result_of,
    state_of,
)
from shitu_server.wire.statuses import from_rpc_error

PEER: Final = "the gallery process"
READ_TIMEOUT_S: Final = 10.0
"""Longest wait for one call, also where the caller's deadline is later or there is none."""
WRITE_TIMEOUT_S: Final = 60.0
RETRY_AFTER_S: Final = 1.0
CHECK_TIMEOUT_S: Final = 1.0
DEFAULT_MESSAGE_BYTES: Final = 128 * 1024 * 1024
"""A full call of AddItems: 256 items with thumbnails of 256 KiB, metadata and vectors of 16 KiB, and room."""
INLINE_BYTES: Final = 16 * 1024
"""A reply that is read in about 1 ms."""

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
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._channel.close(None)

    async def check(self) -> None:
        """Raise UnavailableError unless the process is serving."""
        try:
            reply = await _call(self._health.Check, health_pb2.HealthCheckRequest(), None, CHECK_TIMEOUT_S)
        except OverloadedError:
            return  # it serves so many that it refuses more; a gateway that left for that would not help
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            raise UnavailableError(f"{PEER} is starting or stopping")

    async def create(
        self, name: str, encoder_fingerprint: str, dimension: int, *, deadline_s: float | None = None
    ) -> GalleryInfo:
        """See `types.Gallery`."""
        request = pb.CreateGalleryRequest(name=name, encoder_fingerprint=encoder_fingerprint, dimension=dimension)
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

    async def add(
        self, name: str, items: Sequence[NewItem], encoder_fingerprint: str, *, deadline_s: float | None = None
    ) -> AddResult:
        """See `types.Gallery`."""
        messages = [new_item_message(item) for item in items]
        request = pb.AddItemsRequest(gallery=name, items=messages, encoder_fingerprint=encoder_fingerprint)
        reply = await _call(self._stub.AddItems, request, deadline_s, WRITE_TIMEOUT_S)
        return AddResult(replaced_of(reply.results), state_of(reply.state))

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
        *,
        top_k: int,
        min_score: float = -1.0,
        deadline_s: float | None = None,
    ) -> SearchResult:
        """See `types.Gallery`."""

        async def search_part(part: Vectors) -> SearchResult:
            request = search_request(name, part, encoder_fingerprint, top_k, min_score)
            reply = await _call(self._stub.Search, request, deadline_s, READ_TIMEOUT_S)
            return await built(lambda: search_result_of(reply), large=reply.ByteSize() > INLINE_BYTES)

        part_queries = queries_per_part(_LIMITS, top_k)
        if len(queries) > part_queries:  # an error of a part would name the query by its place in that part
            unit_vectors(queries, queries.shape[-1], lambda row: f"queries[{row}].vector")
        return await search_in_parts(search_part, queries, part_queries)


async def _call(method: Callable[..., Any], request: message.Message, deadline_s: float | None, most_s: float) -> Any:
    left_s = math.inf if deadline_s is None else deadline_s - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceededError(f"the deadline passed before {PEER} was called")
    try:
        return await method(request, timeout=min(left_s, most_s))
    except grpc.RpcError as error:
        translated = from_rpc_error(error, PEER)
        if isinstance(translated, DeadlineExceededError) and left_s > most_s:  # ours: the caller has time to try again
            message = (
                f"{PEER} gave no answer within {most_s:g} s; a write may yet be done: adding items again does no harm, "
                "before another write look whether it was done"
            )
            raise UnavailableError(message, RETRY_AFTER_S) from error
        raise translated from error
