"""The calls of RecognitionService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TypedDict

import grpc
from typing_extensions import Unpack

from shitu.v1 import recognition_pb2, types_pb2
from shitu_client.call_endings import CallEnding
from shitu_client.connection import Connection
from shitu_client.errors import ShituClientError, error_of_call, error_of_status
from shitu_client.filters import Condition
from shitu_client.images import ImageSource, content_of
from shitu_client.results import (
    Box,
    Detection,
    Embedding,
    EncoderInfo,
    Recognition,
    detection_of,
    embedding_of,
    encoder_of,
    recognition_of,
)


class RecognizeOptions(TypedDict, total=False):
    """How pictures are recognised; the server's defaults where a key is missing."""

    detection_threshold: float | None
    """Least score of a detected box, 0 to 1."""
    match_threshold: float | None
    """Least score of a match, -1 to 1."""
    top_k: int | None
    """Most matches for an object."""
    boxes: Sequence[Box]
    """Recognise these instead of detecting."""
    skip_detection: bool
    """Recognise the whole picture as one object."""
    max_objects: int | None
    """Most objects, best detection score first."""
    where: Condition | None
    """Which items may be found (see `shitu_client.filters`)."""
    matches_per_label: int
    """Most matches of one label, and top_k is the number of labels; not grouped where 0."""


class RecognitionCalls(Connection):
    """Pictures in, objects, boxes and vectors out."""

    async def recognize(self, image: ImageSource, gallery: str, **options: Unpack[RecognizeOptions]) -> Recognition:
        """Find the objects of a picture and name them by the items of a gallery.

        Args:
            image: JPEG, PNG, WebP or BMP.
            gallery: name or alias of the gallery.
            options: see `RecognizeOptions`.
        """
        message = await self._checked(**options)
        request = recognition_pb2.RecognizeRequest(image=await content_of(image), gallery=gallery, options=message)
        return recognition_of(await self._call(self._recognition.Recognize, request))

    async def recognize_stream(
        self, images: AsyncIterator[tuple[str, ImageSource]], gallery: str, **options: Unpack[RecognizeOptions]
    ) -> AsyncIterator[tuple[str, Recognition | ShituClientError]]:
        """Recognise any number of (request id, picture) over one stream; results come as they are ready, errors as values.

        What `images` raises, or reading a picture, ends the stream: the results of the pictures before come first, then it is
        raised here. When this is closed (`aclose`), the stream is cancelled: no more pictures are taken.
        """
        fault: list[Exception] = []
        message = await self._checked(**options)

        async def requests() -> AsyncIterator[recognition_pb2.StreamRecognizeRequest]:
            # gRPC swallows what a request iterator raises, and cancels the call.
            try:
                async for request_id, image in images:
                    entry = await _entry(request_id, image, gallery, message)
                    yield recognition_pb2.StreamRecognizeRequest(entry=entry)
            except Exception as error:  # noqa: BLE001  raised below
                fault.append(error)

        call = self._recognition.StreamRecognize(requests())
        ending = CallEnding(call)
        try:
            async for response in call:
                yield response.outcome.request_id, _recognition_or_error(response.outcome)
        except grpc.RpcError as error:
            raise error_of_call(await ending.of(error), self._server) from error
        finally:
            call.cancel()
        if fault:
            raise fault[0]

    async def recognize_batch(
        self, images: Sequence[ImageSource], gallery: str, **options: Unpack[RecognizeOptions]
    ) -> list[Recognition | ShituClientError]:
        """Recognise at most 64 pictures in one call; results keep the order, errors come as values."""
        message = await self._checked(**options)
        entries = [await _entry(str(index), image, gallery, message) for index, image in enumerate(images)]
        request = recognition_pb2.BatchRecognizeRequest(entries=entries)
        response = await self._call(self._recognition.BatchRecognize, request)
        return [_recognition_or_error(outcome) for outcome in response.outcomes]

    async def detect(
        self, image: ImageSource, *, detection_threshold: float | None = None, max_objects: int | None = None
    ) -> Detection:
        """Find boxes."""
        request = recognition_pb2.DetectRequest(
            image=await content_of(image), detection_threshold=detection_threshold, max_objects=max_objects
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
            image=await content_of(image),
            boxes=[types_pb2.Box(**box._asdict()) for box in boxes],
            encoder=encoder,
            encoder_fingerprint=encoder_fingerprint,
        )
        return embedding_of(await self._call(self._recognition.Embed, request))

    async def list_encoders(self) -> list[EncoderInfo]:
        """Return the encoders that the server runs, of each the newest version first."""
        response = await self._call(self._recognition.ListEncoders, recognition_pb2.ListEncodersRequest())
        return [encoder_of(encoder) for encoder in response.encoders]

    async def _checked(self, **options: Unpack[RecognizeOptions]) -> recognition_pb2.RecognizeOptions:
        """Return options as they are sent, to a server that knows them."""
        message = _options_message(**options)
        await self._require({"filters": message.HasField("where"), "matches_per_label": message.matches_per_label})
        return message


def _options_message(
    *,
    detection_threshold: float | None = None,
    match_threshold: float | None = None,
    top_k: int | None = None,
    boxes: Sequence[Box] = (),
    skip_detection: bool = False,
    max_objects: int | None = None,
    where: Condition | None = None,
    matches_per_label: int = 0,
) -> recognition_pb2.RecognizeOptions:
    return recognition_pb2.RecognizeOptions(
        detection_threshold=detection_threshold,
        match_threshold=match_threshold,
        top_k=top_k,
        boxes=[types_pb2.Box(**box._asdict()) for box in boxes],
        skip_detection=skip_detection,
        max_objects=max_objects,
        where=where.to_message() if where is not None else None,
        matches_per_label=matches_per_label,
    )


async def _entry(
    request_id: str, image: ImageSource, gallery: str, options: recognition_pb2.RecognizeOptions
) -> recognition_pb2.RecognizeEntry:
    request = recognition_pb2.RecognizeRequest(image=await content_of(image), gallery=gallery, options=options)
    return recognition_pb2.RecognizeEntry(request_id=request_id, request=request)


def _recognition_or_error(outcome: recognition_pb2.RecognizeOutcome) -> Recognition | ShituClientError:
    return error_of_status(outcome.error) if outcome.HasField("error") else recognition_of(outcome.response)
