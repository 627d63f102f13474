"""Items and queries that come as pictures: the gateway embeds them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import numpy as np

from shitu.v1 import gallery_pb2 as pb
from shitu_models.boxes import Boxes
from shitu_server.admission import Admission, patiently
from shitu_server.encoders import ServedEncoder
from shitu_server.errors import EncoderMismatchError, InvalidArgumentError, ShituError
from shitu_server.gallery.digests import picture_digest
from shitu_server.pipeline import Pipeline, SearchTarget
from shitu_server.reembedding import Reembedding, ReembedProgress
from shitu_server.rpc.item_sources import EncoderIdentity, MaybeItem, PreparedItems, PreparedQueries, vector_item
from shitu_server.types import Gallery, GalleryInfo, NewItem, Vectors
from shitu_server.wire.galleries import metadata_of, vector_of
from shitu_server.wire.recognition import boxes_of

M = TypeVar("M")
R = TypeVar("R")

_MAX_IN_FLIGHT: Final = 8
"""Pictures of one call that are worked on at the same time; bulk writes leave room for recognition."""


class PictureItems:
    """For the gateways: an ItemSource that takes pictures, vectors or both; each bad item fails alone."""

    all_or_nothing: Final = False

    def __init__(self, pipeline: Pipeline, gallery: Gallery, bulk_calls: Admission) -> None:
        self._pipeline = pipeline
        self._gallery = gallery
        self._bulk_calls = bulk_calls

    def encoder_named(self, name: str) -> EncoderIdentity:
        """See `ItemSource`; the newest version of a name, the server's default where it is empty."""
        encoder = self._pipeline.encoders.named(name).encoder
        return EncoderIdentity(encoder.fingerprint, encoder.dimension)

    async def new_items(
        self, messages: Sequence[pb.NewItem], encoder_fingerprint: str, gallery: GalleryInfo, deadline_s: float | None
    ) -> PreparedItems:
        """See `ItemSource`. Pictures are embedded by the gallery's encoder, which must be the one that the request names, if any."""
        encoders = self._pipeline.encoders
        encoder = encoders.of(gallery.encoder_fingerprint)
        if encoder is None and not encoder_fingerprint:
            raise encoders.mismatch(gallery.name, gallery.encoder_fingerprint)
        named = encoder_fingerprint or gallery.encoder_fingerprint

        async def one(index: int, message: pb.NewItem) -> MaybeItem:
            field_name = f"items[{index}]"
            try:
                if message.HasField("vector"):
                    return await self._from_vector(message, field_name, encoder_fingerprint, deadline_s)
                if encoder is None or named != encoder.fingerprint:
                    return encoders.mismatch(gallery.name, gallery.encoder_fingerprint, f"{field_name}: ")
                fitting = encoder
                return await patiently(lambda: self._from_picture(message, field_name, fitting, deadline_s), deadline_s)
            except ShituError as error:
                return error

        with self._bulk_calls.admit():
            return PreparedItems(await _side_by_side(one, messages), named)

    async def query_vectors(self, request: pb.SearchRequest, deadline_s: float | None) -> PreparedQueries:
        """See `ItemSource`."""
        queries, fingerprint = request.queries, request.encoder_fingerprint
        target = None
        if any(query.WhichOneof("source") == "image" for query in queries):
            target = await self._target(request.gallery, fingerprint, deadline_s)
        encoder = target.encoder if target is not None else None

        async def one(index: int, query: pb.Query) -> Vectors:
            vector = partial(self._query_vector, query, f"queries[{index}]", encoder, fingerprint, deadline_s)
            # A single query is refused at once, like any request; many are a bulk call.
            return await vector() if len(queries) == 1 else await patiently(vector, deadline_s)

        rows = await _side_by_side(one, queries)
        if any(len(row) != len(rows[0]) for row in rows):
            raise EncoderMismatchError(
                f"queries: expected vectors of one encoder, got lengths {sorted({len(row) for row in rows})}"
            )
        if target is None:
            return PreparedQueries(np.stack(rows), fingerprint, request.gallery, request.generation)
        generation = request.generation or target.generation
        return PreparedQueries(np.stack(rows), target.encoder.fingerprint, target.gallery, generation)

    async def reembedding(
        self, gallery: str, encoder: str, deadline_s: float | None
    ) -> AsyncGenerator[ReembedProgress, None]:
        """See `ItemSource`. It is one bulk call, however long it lasts."""
        served = self._pipeline.encoders.named(encoder)
        with self._bulk_calls.admit():
            async for progress in Reembedding(self._pipeline, self._gallery, served, deadline_s).run(gallery):
                yield progress

    async def _target(self, gallery: str, encoder_fingerprint: str, deadline_s: float | None) -> SearchTarget:
        if encoder_fingerprint:
            return SearchTarget(self._pipeline.encoders.identified(encoder_fingerprint, "queries: "), gallery, 0)
        return await self._pipeline.target(gallery, deadline_s=deadline_s, ask=True)

    async def _query_vector(
        self,
        query: pb.Query,
        field: str,
        encoder: ServedEncoder | None,
        encoder_fingerprint: str,
        deadline_s: float | None,
    ) -> Vectors:
        source = query.WhichOneof("source")
        if source == "vector":
            _check_named(encoder_fingerprint)
            return vector_of(query.vector, f"{field}.vector")
        if source is None:
            raise InvalidArgumentError(field, "expected an image, a vector or an item's id, got none of them")
        assert encoder is not None  # there is an image
        embedded = await self._pipeline.embed_item(
            query.image, boxes_of(()), encoder, field_name=field, deadline_s=deadline_s
        )
        return embedded.vector

    async def _from_vector(
        self, message: pb.NewItem, field: str, encoder_fingerprint: str, deadline_s: float | None
    ) -> MaybeItem:
        _check_named(encoder_fingerprint)
        kept = pb.NewItem()
        kept.CopyFrom(message)
        kept.image_digest = b""
        if message.image:
            boxes = _boxes_of(message, field)
            kept.image = await self._pipeline.preview(message.image, boxes, field_name=field, deadline_s=deadline_s)
            kept.image_digest = picture_digest(message.image, boxes, detect=False)
        return vector_item(kept, field)

    async def _from_picture(
        self, message: pb.NewItem, field: str, encoder: ServedEncoder, deadline_s: float | None
    ) -> NewItem:
        boxes = _boxes_of(message, field)
        embedded = await self._pipeline.embed_item(
            message.image, boxes, encoder, field_name=field, deadline_s=deadline_s, detect=message.detect
        )
        return NewItem(
            id=message.id,
            label=message.label,
            vector=embedded.vector,
            metadata=metadata_of(message.metadata, f"{field}.metadata"),
            thumbnail=embedded.thumbnail,
            image_digest=picture_digest(message.image, boxes, detect=message.detect),
        )


def _boxes_of(message: pb.NewItem, field: str) -> Boxes:
    """Return the one box of an item, or none. Raises InvalidArgumentError where the detector shall find it too."""
    if message.detect and (message.HasField("box") or message.HasField("vector")):
        raise InvalidArgumentError(f"{field}.detect", "expected detect alone, got a box or a vector too")
    return boxes_of([message.box] if message.HasField("box") else [])


async def _side_by_side(work: Callable[[int, M], Awaitable[R]], messages: Sequence[M]) -> list[R]:
    """Do work on each message, a few at a time; where one fails unexpectedly, the others end with it."""
    places = asyncio.Semaphore(_MAX_IN_FLIGHT)

    async def one(index: int, message: M) -> R:
        async with places:
            return await work(index, message)

    tasks = [asyncio.ensure_future(one(index, message)) for index, message in enumerate(messages)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _check_named(encoder_fingerprint: str) -> None:
    if not encoder_fingerprint:
        raise InvalidArgumentError(
            "encoder_fingerprint",
            "expected the encoder that made the vectors, as GetGallery or Embed name it, got nothing",
        )
