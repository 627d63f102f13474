"""RecognitionService over the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Final

from shitu.v1 import recognition_pb2 as pb
from shitu.v1 import recognition_pb2_grpc
from shitu_server.admission import Admission, patiently
from shitu_server.encoders import ServedEncoder
from shitu_server.errors import InvalidArgumentError
from shitu_server.pipeline import Pipeline
from shitu_server.rpc.handlers import Context
from shitu_server.rpc.interceptors import deadline_of, status_of
from shitu_server.wire.encoders import encoders_response
from shitu_server.wire.recognition import boxes_of, detect_response, embed_response, options_of, recognize_response

_MAX_REQUEST_ID_LENGTH: Final = 128


@dataclass(frozen=True)
class StreamLimits:
    """How much one call may have in flight."""

    max_batch_entries: int = 64
    max_in_flight: int = 16
    """Pictures of one stream or batch that are worked on at the same time."""


class RecognitionServicer(recognition_pb2_grpc.RecognitionServiceServicer):
    """Each method converts, calls the pipeline and converts back; errors are the interceptor's."""

    def __init__(self, pipeline: Pipeline, limits: StreamLimits, bulk_calls: Admission, streams: Admission) -> None:
        self._pipeline = pipeline
        self._bulk_calls = bulk_calls
        self._streams = streams
        self._limits = limits

    async def Recognize(self, request: pb.RecognizeRequest, context: Context) -> pb.RecognizeResponse:  # noqa: N802
        """Detect, embed and search."""
        return await self._recognize(request, deadline_of(context))

    async def BatchRecognize(  # noqa: N802
        self, request: pb.BatchRecognizeRequest, context: Context
    ) -> pb.BatchRecognizeResponse:
        """Recognise several pictures; the outcomes keep the order of the request."""
        most = self._limits.max_batch_entries
        if not 1 <= len(request.entries) <= most:
            raise InvalidArgumentError("entries", f"expected 1 to {most}, got {len(request.entries)}")
        deadline_s = deadline_of(context)
        places = asyncio.Semaphore(self._limits.max_in_flight)

        async def one(entry: pb.RecognizeEntry) -> pb.RecognizeOutcome:
            async with places:
                return await self._outcome(entry, deadline_s)

        with self._bulk_calls.admit():
            tasks = [asyncio.create_task(one(entry)) for entry in request.entries]
            try:
                return pb.BatchRecognizeResponse(outcomes=await asyncio.gather(*tasks))
            finally:
                await _cancel(tasks)

    async def StreamRecognize(  # noqa: N802
        self, requests: AsyncIterator[pb.StreamRecognizeRequest], context: Context
    ) -> AsyncIterator[pb.StreamRecognizeResponse]:
        """Recognise pictures as they come; outcomes leave as they are ready.

        A place is held from reading a request until its outcome is on the wire, so a client that does not read is held back.
        """
        with self._streams.admit():
            async for outcome in self._outcomes(requests, deadline_of(context)):
                yield pb.StreamRecognizeResponse(outcome=outcome)

    async def _outcomes(
        self, requests: AsyncIterator[pb.StreamRecognizeRequest], deadline_s: float | None
    ) -> AsyncIterator[pb.RecognizeOutcome]:
        places = asyncio.Semaphore(self._limits.max_in_flight)
        outcomes: asyncio.Queue[pb.RecognizeOutcome | None] = asyncio.Queue()
        reader = asyncio.create_task(self._read(requests, places, outcomes, deadline_s))
        try:
            while (outcome := await outcomes.get()) is not None:
                yield outcome
                places.release()
            await reader  # what ended the reading ends the stream
        finally:
            await _cancel([reader])

    async def _read(
        self,
        requests: AsyncIterator[pb.StreamRecognizeRequest],
        places: asyncio.Semaphore,
        outcomes: asyncio.Queue[pb.RecognizeOutcome | None],
        deadline_s: float | None,
    ) -> None:
        async def one(entry: pb.RecognizeEntry) -> None:
            outcomes.put_nowait(await self._outcome(entry, deadline_s))

        tasks: set[asyncio.Task[None]] = set()
        try:
            async for request in requests:
                await places.acquire()
                task = asyncio.create_task(one(request.entry))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)
        finally:
            await _cancel(tasks)
            outcomes.put_nowait(None)

    async def Detect(self, request: pb.DetectRequest, context: Context) -> pb.DetectResponse:  # noqa: N802
        """Find boxes."""
        threshold = request.detection_threshold if request.HasField("detection_threshold") else None
        most = request.max_objects if request.HasField("max_objects") else None
        detection = await self._pipeline.detect(request.image, threshold, most, deadline_s=deadline_of(context))
        return detect_response(detection)

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:  # noqa: N802
        """Embed boxes or the whole picture."""
        encoder = self._encoder_of(request)
        embedding = await self._pipeline.embed(
            request.image, boxes_of(request.boxes), encoder, deadline_s=deadline_of(context)
        )
        return embed_response(embedding)

    async def ListEncoders(  # noqa: N802
        self,
        request: pb.ListEncodersRequest,  # noqa: ARG002  # there is nothing in it
        context: Context,  # noqa: ARG002  # nothing waits
    ) -> pb.ListEncodersResponse:
        """Say what is served."""
        return encoders_response(self._pipeline.encoders)

    def _encoder_of(self, request: pb.EmbedRequest) -> ServedEncoder:
        encoders = self._pipeline.encoders
        if not request.encoder_fingerprint:
            return encoders.named(request.encoder)
        if request.encoder:
            raise InvalidArgumentError(
                "encoder", "expected the name of a served encoder or encoder_fingerprint; got both"
            )
        return encoders.identified(request.encoder_fingerprint)

    async def _recognize(self, request: pb.RecognizeRequest, deadline_s: float | None) -> pb.RecognizeResponse:
        options = options_of(request.options)
        recognition = await self._pipeline.recognize(request.image, request.gallery, options, deadline_s=deadline_s)
        return recognize_response(recognition)

    async def _outcome(self, entry: pb.RecognizeEntry, deadline_s: float | None) -> pb.RecognizeOutcome:
        try:
            _check_request_id(entry.request_id)
            response = await patiently(lambda: self._recognize(entry.request, deadline_s), deadline_s)
            return pb.RecognizeOutcome(request_id=entry.request_id, response=response)
        except Exception as error:  # noqa: BLE001  one bad picture never ends a batch or a stream
            return pb.RecognizeOutcome(request_id=entry.request_id, error=status_of(error))


def _check_request_id(request_id: str) -> None:
    if not 1 <= len(request_id) <= _MAX_REQUEST_ID_LENGTH:
        raise InvalidArgumentError(
            "request_id", f"expected 1 to {_MAX_REQUEST_ID_LENGTH} characters, got {len(request_id)}"
        )


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
