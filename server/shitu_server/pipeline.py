"""decode → detect → crop → embed → search → decide. Knows no gRPC, no Triton and no FAISS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from shitu_models.boxes import Boxes, areas, clip
from shitu_models.specs import ModelSpec
from shitu_server.decisions import decided
from shitu_server.encoders import Encoders, ServedEncoder
from shitu_server.errors import EncoderMismatchError, InvalidArgumentError, UnavailableError
from shitu_server.line import Line
from shitu_server.pictures import Call, Decoded, Pictures
from shitu_server.recognition_checks import check_box, check_options, check_thresholds
from shitu_server.recognitions import (
    Detection,
    Embedding,
    ItemEmbedding,
    Objects,
    PipelineLimits,
    Recognition,
    RecognizeOptions,
)
from shitu_server.types import (
    BoxSource,
    Detections,
    Detector,
    Gallery,
    Picture,
    SearchOptions,
    SearchResult,
    Vectors,
)


@dataclass(frozen=True)
class ServedDetector:
    """The detector, and what it is."""

    detector: Detector
    spec: ModelSpec


@dataclass(frozen=True)
class Models:
    """What is served at one moment; never changes, new versions come as another one of these."""

    detector: ServedDetector
    encoders: Encoders


@dataclass(frozen=True)
class SearchTarget:
    """A gallery to search, with the encoder that it is bound to."""

    encoder: ServedEncoder
    gallery: str
    """Its own name where the gallery was asked, else as the request says."""
    generation: int
    """That said so; 0 where it was not asked."""


class Pipeline:
    """The stages over the models and the galleries. Deadlines are times of `time.monotonic()`."""

    def __init__(
        self,
        models: Models,
        gallery: Gallery,
        pictures: Pictures,
        line: Line,
        limits: PipelineLimits,
    ) -> None:
        """Take the parts.

        Args:
            models: what is served at first.
            gallery: where vectors are searched.
            pictures: decodes and cuts.
            line: that requests stand in for the models.
            limits: of one request.
        """
        self._models = models
        self._gallery = gallery
        self._pictures = pictures
        self._line = line
        self._limits = limits

    @property
    def encoders(self) -> Encoders:
        """Those that are served now."""
        return self._models.encoders

    def serve(self, models: Models) -> None:
        """Serve these models from now on; requests that have begun end with those that they began with."""
        self._models = models

    async def target(self, gallery: str, *, deadline_s: float | None, ask: bool = False) -> SearchTarget:
        """Return what to search and with which encoder, as far as that is known here.

        One encoder needs no question: the gallery itself refuses vectors that are not its own. Of several the gallery must say
        which, and each time: it may have been made anew since, for another encoder. That is half a millisecond of a hop. The
        search then asks for the very generation that said it, so that one which is published meanwhile disturbs nobody.
        With `ask` it must say so in any case: for who has time for it, the error is a better one.

        Raises:
            EncoderMismatchError: it was asked, and is bound to none of those that are served.
            NotFoundError, UnavailableError, ...: from the gallery.
        """
        encoders = self.encoders
        if len(encoders.entries) == 1 and not ask:
            return SearchTarget(encoders.default, gallery, 0)
        info = await self._gallery.get(gallery, deadline_s=deadline_s)
        encoder = encoders.bound(gallery, info.encoder_fingerprint)
        return SearchTarget(encoder, info.name, info.state.generation)

    async def recognize(
        self, content: bytes, gallery: str, options: RecognizeOptions, *, deadline_s: float | None
    ) -> Recognition:
        """Find the objects of a picture and name them by the items of a gallery.

        Raises:
            InvalidArgumentError: picture or options are wrong.
            NotFoundError, EncoderMismatchError: from the gallery.
            OverloadedError, UnavailableError, DeadlineExceededError: from admission, models or the gallery.
        """
        call = Call(deadline_s, box_field="options.boxes[{}]".format)
        check_options(gallery, options, self._limits)
        with self._line.admit(deadline_s):
            target = await self.target(gallery, deadline_s=deadline_s)
            encoder = target.encoder
            async with self._at_work(content, call, options) as (decoded, detector):
                width, height = decoded.size
                objects = await self._objects(decoded, detector, options, call)
                vectors = await self._embedded(decoded.picture, objects.boxes, encoder, call)
            del decoded  # its pixels are counted no more
            found = await self._found(vectors, target, options, call)
        wished = options.match_threshold
        threshold = encoder.spec.default_threshold if wished is None else wished
        recognized = decided(objects, found, threshold, self._limits.duplicate_iou)
        return Recognition(recognized, width, height, encoder.fingerprint, found.state, call.clock.timings())

    async def detect(
        self, content: bytes, threshold: float | None, max_objects: int | None, *, deadline_s: float | None
    ) -> Detection:
        """Find the objects of a picture. Raises as `recognize`, the gallery aside."""
        call = Call(deadline_s)
        options = RecognizeOptions(detection_threshold=threshold, max_objects=max_objects)
        check_thresholds(options, self._limits)
        with self._line.admit(deadline_s):
            async with self._at_work(content, call, options) as (decoded, detector):
                assert detector is not None
                width, height = decoded.size
                detections = await self._detected(decoded, detector, options, call)
        return Detection(detections, width, height, call.clock.timings())

    async def embed(
        self, content: bytes, boxes: Boxes, encoder: ServedEncoder, *, deadline_s: float | None
    ) -> Embedding:
        """Embed each box of a picture, or the whole picture where there is no box. Raises as `recognize`, the gallery aside."""
        call = Call(deadline_s)
        with self._line.admit(deadline_s):
            async with self._at_work(content, call) as (decoded, _):
                chosen = self._chosen(decoded, boxes, call)
                vectors = await self._embedded(decoded.picture, chosen.boxes, encoder, call)
        return Embedding(vectors, encoder.fingerprint, call.clock.timings())

    async def embed_item(
        self,
        content: bytes,
        boxes: Boxes,
        encoder: ServedEncoder,
        *,
        field_name: str,
        deadline_s: float | None,
        detect: bool = False,
    ) -> ItemEmbedding:
        """Embed a gallery item's picture and make its thumbnail: of the one box, or the whole picture.

        With `detect` it is the object that the detector is surest of, or the whole picture where it finds none.
        Errors name `field_name`.image and `field_name`.box. Raises as `embed`.
        """
        call = _item_call(field_name, deadline_s)
        best = RecognizeOptions(boxes=boxes, max_objects=1, skip_detection=not detect)
        with self._line.admit(deadline_s):
            async with self._at_work(content, call, best) as (decoded, detector):
                chosen = await self._objects(decoded, detector, best, call)
                vectors = await self._embedded(decoded.picture, chosen.boxes, encoder, call)
                return ItemEmbedding(vectors[0], await self._pictures.thumbnail(decoded.picture, chosen.boxes[0]))

    async def preview(self, content: bytes, boxes: Boxes, *, field_name: str, deadline_s: float | None) -> bytes:
        """Return the thumbnail alone. Raises as `embed_item`."""
        call = _item_call(field_name, deadline_s)
        with self._line.admit(deadline_s):
            async with self._at_work(content, call) as (decoded, _):
                return await self._pictures.thumbnail(decoded.picture, self._chosen(decoded, boxes, call).boxes[0])

    @asynccontextmanager
    async def _at_work(
        self, content: bytes, call: Call, options: RecognizeOptions | None = None
    ) -> AsyncIterator[tuple[Decoded, ServedDetector | None]]:
        """Wait for the turn of a request that was admitted, and decode its picture; both last as long as the body.

        Yields the picture with the detector that is to be run, if the options say so. What its header tells of a picture is told at
        once. The detector is that which is served when the turn comes: after a reload the former one is not there for long.
        """
        count = await self._pictures.pixel_count(content, call)
        async with self._line.turn(call.deadline_s):
            detects = options is not None and not (len(options.boxes) or options.skip_detection)
            detector = self._models.detector if detects else None
            spec = None if detector is None else detector.spec
            async with self._pictures.opened(content, count, call, spec) as decoded:
                yield decoded, detector

    async def _objects(
        self, decoded: Decoded, detector: ServedDetector | None, options: RecognizeOptions, call: Call
    ) -> Objects:
        if detector is None:
            return self._chosen(decoded, options.boxes, call)
        found = await self._detected(decoded, detector, options, call)
        return Objects(found.boxes, found.scores, BoxSource.DETECTED) if len(found.boxes) else _whole(decoded)

    async def _detected(
        self, decoded: Decoded, served: ServedDetector, options: RecognizeOptions, call: Call
    ) -> Detections:
        pixels = decoded.detector_pixels
        assert pixels is not None
        spec = served.spec
        threshold = spec.default_threshold if options.detection_threshold is None else options.detection_threshold
        most = self._limits.max_boxes if options.max_objects is None else options.max_objects
        call.check_alive()
        with call.clock.stage("detect"):
            found = await served.detector.detect(pixels, deadline_s=call.deadline_s)
        decoded.detector_pixels = None
        width, height = decoded.size
        scale = np.array([width, height, width, height], dtype=np.float32) / spec.input_size
        boxes = clip(found.boxes * scale, width, height)
        kept = np.flatnonzero((found.scores >= threshold) & (areas(boxes) > 0))[:most]
        return Detections(boxes[kept], found.scores[kept])

    async def _embedded(self, picture: Picture, boxes: Boxes, encoder: ServedEncoder, call: Call) -> Vectors:
        async with encoder.crops.room(len(boxes), call.deadline_s):
            with call.clock.stage("crop"):
                pixels = await self._pictures.crops(picture, boxes, encoder.spec)
            call.check_alive()
            with call.clock.stage("embed"):
                return await encoder.encoder.embed(pixels, deadline_s=call.deadline_s)

    async def _found(
        self, vectors: Vectors, target: SearchTarget, options: RecognizeOptions, call: Call
    ) -> SearchResult:
        call.check_alive()
        default_top_k = min(self._limits.default_top_k, self._limits.max_top_k)
        search = SearchOptions(
            default_top_k if options.top_k is None else options.top_k,
            where=options.where,
            per_label=options.matches_per_label,
            generation=target.generation,
        )
        gallery, fingerprint = target.gallery, target.encoder.fingerprint
        with call.clock.stage("search"):
            try:
                return await self._gallery.search(gallery, vectors, fingerprint, search, deadline_s=call.deadline_s)
            except EncoderMismatchError as error:
                info = await self._gallery.get(gallery, deadline_s=call.deadline_s)
                if self.encoders.of(info.encoder_fingerprint) is not None:
                    raise UnavailableError(
                        f"gallery {gallery} was made anew during the call; try again", 0.1
                    ) from error
                raise self.encoders.mismatch(gallery, info.encoder_fingerprint) from error

    def _chosen(self, decoded: Decoded, boxes: Boxes, call: Call) -> Objects:
        """Return the caller's boxes, or the whole picture where there is none."""
        if not len(boxes):
            return _whole(decoded)
        if len(boxes) > self._limits.max_boxes:
            field_name = call.box_field(self._limits.max_boxes)
            raise InvalidArgumentError(field_name, f"expected at most {self._limits.max_boxes} boxes, got {len(boxes)}")
        width, height = decoded.size
        for index, box in enumerate(boxes):
            check_box(box, call.box_field(index), width, height)
        return Objects(clip(boxes, width, height), np.zeros(len(boxes), dtype=np.float32), BoxSource.REQUESTED)


def _whole(decoded: Decoded) -> Objects:
    width, height = decoded.size
    box = np.array([[0, 0, width, height]], dtype=np.float32)
    return Objects(box, np.zeros(1, dtype=np.float32), BoxSource.WHOLE_IMAGE)


def _item_call(field_name: str, deadline_s: float | None) -> Call:
    return Call(deadline_s, f"{field_name}.image", lambda _: f"{field_name}.box")
