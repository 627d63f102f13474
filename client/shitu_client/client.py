"""AsyncClient: one method for each thing that a server can do."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Union

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import ArrayLike

from shitu.v1 import gallery_pb2, gallery_pb2_grpc, recognition_pb2, recognition_pb2_grpc, types_pb2
from shitu_client.errors import ShituClientError, error_of_call, error_of_status
from shitu_client.items import ItemFailure, NewItem, chunked, vector_message
from shitu_client.results import (
    Box,
    Detection,
    Embedding,
    EncoderInfo,
    GalleryInfo,
    Item,
    ItemPage,
    Match,
    Recognition,
    detection_of,
    embedding_of,
    encoder_of,
    gallery_of,
    item_of,
    match_of,
    recognition_of,
)

ImageSource = Union[bytes, str, "os.PathLike[str]"]
"""Bytes of a picture file, or its path."""

DEFAULT_SERVER: Final = "127.0.0.1:8200"
DEFAULT_TIMEOUT_S: Final = 30.0

_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
_REPEATABLE: Final = {
    "shitu.v1.RecognitionService": ("Recognize", "BatchRecognize", "Detect", "Embed", "ListEncoders"),
    "shitu.v1.GalleryService": ("GetGallery", "ListGalleries", "AddItems", "ListItems", "GetItem", "Search"),
}
"""Methods that may be called again after UNAVAILABLE: reads, and AddItems, which replaces by id. To create, delete or remove
again would change the answer where the first call was done and only its reply was lost."""
_RETRIES: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method}
                    for service, methods in _REPEATABLE.items()
                    for method in methods
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


class AsyncClient:
    """A connection to a server, for use in one event loop.

    Every method raises a ShituClientError (see `shitu_client.errors`). Each request waits `timeout_s` at most; `add_items` and
    `list_galleries` make as many as it takes, and a stream lasts as long as its pictures come. Reads and `add_items` that meet
    a server that is restarting are tried again, a few times, within that time.
    """

    def __init__(self, server: str = DEFAULT_SERVER, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(
            server,
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.service_config", _RETRIES),
                ("grpc.keepalive_time_ms", 30_000),
            ],
        )
        self._recognition: Any = recognition_pb2_grpc.RecognitionServiceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)
        self._galleries: Any = gallery_pb2_grpc.GalleryServiceStub(self._channel)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(grace=None)

    async def is_serving(self) -> bool:
        """Return whether the server says SERVING on grpc.health.v1. Raises UnavailableError where nobody answers."""
        reply = await self._call(self._health.Check, health_pb2.HealthCheckRequest())
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def recognize(
        self,
        image: ImageSource,
        gallery: str,
        *,
        detection_threshold: float | None = None,
        match_threshold: float | None = None,
        top_k: int | None = None,
        boxes: Sequence[Box] = (),
        skip_detection: bool = False,
        max_objects: int | None = None,
    ) -> Recognition:
        """Find the objects of a picture and name them by the items of a gallery.

        Args:
            image: JPEG, PNG, WebP or BMP.
            gallery: name of the gallery.
            detection_threshold: least score of a detected box, 0 to 1.
            match_threshold: least score of a match, -1 to 1.
            top_k: most matches for an object.
            boxes: recognise these instead of detecting.
            skip_detection: recognise the whole picture as one object.
            max_objects: most objects, best detection score first.
        """
        options = recognition_pb2.RecognizeOptions(
            detection_threshold=detection_threshold,
            match_threshold=match_threshold,
            top_k=top_k,
            boxes=[types_pb2.Box(**box._asdict()) for box in boxes],
            skip_detection=skip_detection,
            max_objects=max_objects,
        )
        request = recognition_pb2.RecognizeRequest(image=await _content(image), gallery=gallery, options=options)
        return recognition_of(await self._call(self._recognition.Recognize, request))

    async def recognize_stream(
        self, images: AsyncIterator[tuple[str, ImageSource]], gallery: str
    ) -> AsyncIterator[tuple[str, Recognition | ShituClientError]]:
        """Recognise any number of (request id, picture) over one stream; results come as they are ready, errors as values.

        What `images` raises, or reading a picture, ends the stream: the results of the pictures before come first, then it is
        raised here.
        """
        fault: list[Exception] = []

        async def requests() -> AsyncIterator[recognition_pb2.StreamRecognizeRequest]:
            # gRPC swallows what a request iterator raises, and cancels the call.
            try:
                async for request_id, image in images:
                    request = recognition_pb2.RecognizeRequest(image=await _content(image), gallery=gallery)
                    entry = recognition_pb2.RecognizeEntry(request_id=request_id, request=request)
                    yield recognition_pb2.StreamRecognizeRequest(entry=entry)
            except Exception as error:  # noqa: BLE001  raised below
                fault.append(error)

        try:
            async for response in self._recognition.StreamRecognize(requests()):
                outcome = response.outcome
                failed = outcome.HasField("error")
                yield (
                    outcome.request_id,
                    error_of_status(outcome.error) if failed else recognition_of(outcome.response),
                )
        except grpc.RpcError as error:
            raise error_of_call(error, self._server) from error
        if fault:
            raise fault[0]

    async def recognize_batch(
        self, images: Sequence[ImageSource], gallery: str
    ) -> list[Recognition | ShituClientError]:
        """Recognise at most 64 pictures in one call; results keep the order, errors come as values."""
        entries = [
            recognition_pb2.RecognizeEntry(
                request_id=str(index),
                request=recognition_pb2.RecognizeRequest(image=await _content(image), gallery=gallery),
            )
            for index, image in enumerate(images)
        ]
        request = recognition_pb2.BatchRecognizeRequest(entries=entries)
        response = await self._call(self._recognition.BatchRecognize, request)
        return [
            error_of_status(outcome.error) if outcome.HasField("error") else recognition_of(outcome.response)
            for outcome in response.outcomes
        ]

    async def detect(
        self, image: ImageSource, *, detection_threshold: float | None = None, max_objects: int | None = None
    ) -> Detection:
        """Find boxes."""
        request = recognition_pb2.DetectRequest(
            image=await _content(image), detection_threshold=detection_threshold, max_objects=max_objects
        )
        return detection_of(await self._call(self._recognition.Detect, request))

    async def embed(
        self, image: ImageSource, boxes: Sequence[Box] = (), *, encoder: str = "", encoder_fingerprint: str = ""
    ) -> Embedding:
        """Embed each box, or the whole picture where there is none.

        Args:
            image: the picture.
            boxes: in its pixels.
            encoder: name of an encoder that the server runs; its default one where this and the next are empty.
            encoder_fingerprint: of the very version that shall do it, for vectors beside those of a gallery.
        """
        request = recognition_pb2.EmbedRequest(
            image=await _content(image),
            boxes=[types_pb2.Box(**box._asdict()) for box in boxes],
            encoder=encoder,
            encoder_fingerprint=encoder_fingerprint,
        )
        return embedding_of(await self._call(self._recognition.Embed, request))

    async def list_encoders(self) -> list[EncoderInfo]:
        """Return the encoders that the server runs, of each the newest version first."""
        response = await self._call(self._recognition.ListEncoders, recognition_pb2.ListEncodersRequest())
        return [encoder_of(encoder) for encoder in response.encoders]

    async def create_gallery(
        self, name: str, *, encoder: str = "", encoder_fingerprint: str = "", dimension: int = 0
    ) -> GalleryInfo:
        """Create a gallery, bound to the server's default encoder, to the named one, or to one of your own.

        Args:
            name: of the gallery.
            encoder: name of an encoder that the server runs.
            encoder_fingerprint: of an encoder of your own, if you will bring vectors.
            dimension: length of those vectors.
        """
        request = gallery_pb2.CreateGalleryRequest(
            name=name, encoder=encoder, encoder_fingerprint=encoder_fingerprint, dimension=dimension
        )
        return gallery_of((await self._call(self._galleries.CreateGallery, request)).gallery)

    async def get_gallery(self, name: str) -> GalleryInfo:
        """Return one gallery."""
        response = await self._call(self._galleries.GetGallery, gallery_pb2.GetGalleryRequest(name=name))
        return gallery_of(response.gallery)

    async def list_galleries(self) -> list[GalleryInfo]:
        """Return all galleries, ordered by name."""
        found: list[GalleryInfo] = []
        token = ""
        while True:
            request = gallery_pb2.ListGalleriesRequest(page_token=token)
            response = await self._call(self._galleries.ListGalleries, request)
            found.extend(gallery_of(gallery) for gallery in response.galleries)
            token = response.next_page_token
            if not token:
                return found

    async def delete_gallery(self, name: str) -> None:
        """Delete a gallery and its items."""
        await self._call(self._galleries.DeleteGallery, gallery_pb2.DeleteGalleryRequest(name=name))

    async def add_items(
        self, gallery: str, items: Sequence[NewItem], *, encoder_fingerprint: str = ""
    ) -> list[ItemFailure]:
        """Add items, or replace those whose ids are there, in as many requests as it takes.

        Returns:
            The items that were refused; all others are stored.
        """
        failures: list[ItemFailure] = []
        for chunk in chunked(items):
            request = gallery_pb2.AddItemsRequest(
                gallery=gallery,
                items=[item.to_message() for item in chunk],
                encoder_fingerprint=encoder_fingerprint,
            )
            response = await self._call(self._galleries.AddItems, request)
            failures.extend(
                ItemFailure(result.id, error_of_status(result.error))
                for result in response.results
                if result.HasField("error")
            )
        return failures

    async def remove_items(self, gallery: str, ids: Sequence[str]) -> list[str]:
        """Remove items; returns the ids that were there."""
        response = await self._call(
            self._galleries.RemoveItems, gallery_pb2.RemoveItemsRequest(gallery=gallery, ids=ids)
        )
        return list(response.removed_ids)

    async def list_items(
        self, gallery: str, *, page_size: int = 100, page_token: str = "", label: str = ""
    ) -> ItemPage:
        """Return one page of items, oldest first."""
        request = gallery_pb2.ListItemsRequest(gallery=gallery, page_size=page_size, page_token=page_token, label=label)
        response = await self._call(self._galleries.ListItems, request)
        return ItemPage(tuple(item_of(item) for item in response.items), response.next_page_token)

    async def get_item(self, gallery: str, item_id: str) -> Item:
        """Return one item with its vector and picture."""
        request = gallery_pb2.GetItemRequest(gallery=gallery, id=item_id)
        return item_of((await self._call(self._galleries.GetItem, request)).item)

    async def search(
        self,
        gallery: str,
        query: ImageSource | ArrayLike,
        *,
        encoder_fingerprint: str = "",
        top_k: int | None = None,
        match_threshold: float | None = None,
    ) -> list[Match]:
        """Return the nearest items of a picture (embedded whole) or of a vector (name its encoder)."""
        if isinstance(query, (bytes, str, os.PathLike)):
            message = gallery_pb2.Query(image=await _content(query))
        else:
            message = gallery_pb2.Query(vector=vector_message(query))
        request = gallery_pb2.SearchRequest(
            gallery=gallery,
            queries=[message],
            top_k=top_k,
            match_threshold=match_threshold,
            encoder_fingerprint=encoder_fingerprint,
        )
        response = await self._call(self._galleries.Search, request)
        return [match_of(match) for match in response.results[0].matches]

    async def _call(self, method: Callable[..., Awaitable[Any]], request: Any) -> Any:
        try:
            return await method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise error_of_call(error, self._server) from error


async def _content(image: ImageSource) -> bytes:
    if isinstance(image, bytes):
        return image
    return await asyncio.to_thread(Path(image).read_bytes)
