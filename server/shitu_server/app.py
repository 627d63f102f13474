"""The gateway's composition root: parts are made here from the settings, and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shitu.v1 import gallery_pb2, gallery_pb2_grpc, recognition_pb2, recognition_pb2_grpc
from shitu_models.fingerprint import fingerprint, fingerprint_of
from shitu_models.repository import RepositoryError, check_models, find_repository, weights_path
from shitu_models.specs import ModelSpec
from shitu_server.addresses import joined
from shitu_server.admission import Admission
from shitu_server.errors import ConfigurationError, ShituError
from shitu_server.gallery.client import GalleryClient
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.images import ImageLimits, ImageWorkers
from shitu_server.pipeline import Admissions, Models, Pipeline
from shitu_server.recognitions import PipelineLimits
from shitu_server.rpc.draining import DrainInterceptor
from shitu_server.rpc.galleries import GalleryServicer
from shitu_server.rpc.interceptors import ErrorInterceptor
from shitu_server.rpc.pictures import PictureItems
from shitu_server.rpc.recognition import RecognitionServicer, StreamLimits
from shitu_server.settings import Settings, processor_count
from shitu_server.signals import stop_signals
from shitu_server.triton import TritonConnection, TritonDetector, TritonEncoder

_log = logging.getLogger(__name__)

_SERVICES: Final = (
    recognition_pb2.DESCRIPTOR.services_by_name["RecognitionService"].full_name,
    gallery_pb2.DESCRIPTOR.services_by_name["GalleryService"].full_name,
    health.SERVICE_NAME,
)
_HEALTH_INTERVAL_S: Final = 1.0
_CLOSE_S: Final = 1.0
"""What is left after draining, health watchers above all, is cut off after this long."""
_KEEPALIVE_MIN_INTERVAL_MS: Final = 5000
"""Clients that ping every 10 s, as many do, must not be sent away."""


class Gateway:
    """One gateway process: a stateless gRPC server over Triton and the gallery process."""

    def __init__(self, settings: Settings, specs: tuple[ModelSpec, ModelSpec]) -> None:
        self._settings = settings
        self._specs = specs
        self._workers = ImageWorkers(settings.image_threads or processor_count())
        self._triton = TritonConnection(settings.triton_address)
        self._gallery = GalleryClient(settings.gallery_address, max_message_bytes=settings.max_message_bytes)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing in the stubs
        self._draining = DrainInterceptor()
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor(), self._draining],
            options=self._server_options(),
            maximum_concurrent_rpcs=settings.max_calls_in_flight,
        )

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then say NOT_SERVING, finish what is in flight and return.

        Raises:
            ConfigurationError: an address is missing or cannot be listened on.
        """
        stopping = asyncio.Event()
        with stop_signals(stopping):
            await self._serve(stopping)

    async def _serve(self, stopping: asyncio.Event) -> None:
        self._register()
        await self._say(ready=False)  # the servicer begins with SERVING, before anything was looked at
        await self._listen()
        watching = asyncio.create_task(self._watch_health())
        await stopping.wait()
        watching.cancel()
        await self._health.enter_graceful_shutdown()
        await self._draining.drain(self._settings.drain_timeout_s)
        await self._server.stop(_CLOSE_S)
        await self._close()

    def _register(self) -> None:
        settings = self._settings
        pipeline = self._pipeline()
        limits = StreamLimits(settings.max_batch_entries, settings.max_stream_in_flight)
        bulk_calls = Admission("batches and bulk writes", settings.max_bulk_calls_in_flight)
        streams = Admission("streams", settings.max_streams_in_flight)
        pictures = PictureItems(pipeline, bulk_calls)
        recognition_pb2_grpc.add_RecognitionServiceServicer_to_server(
            RecognitionServicer(pipeline, limits, bulk_calls, streams), self._server
        )
        galleries = GalleryServicer(self._gallery, pictures, GalleryLimits(top_k=settings.max_top_k))
        gallery_pb2_grpc.add_GalleryServiceServicer_to_server(galleries, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*_SERVICES, reflection.SERVICE_NAME), self._server)

    def _pipeline(self) -> Pipeline:
        settings = self._settings
        detector, encoder = self._specs
        models = Models(
            TritonDetector(self._triton, detector),
            detector,
            TritonEncoder(self._triton, encoder, self._fingerprint(encoder)),
            encoder,
        )
        return Pipeline(
            models,
            self._gallery,
            self._workers,
            Admissions(
                Admission("pictures", settings.max_pictures_in_flight),
                Admission("pixels", settings.max_pixels_in_flight),
                Admission(f"crops at {encoder.name}", settings.max_crops_in_flight),
            ),
            ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.min_image_side_px),
            PipelineLimits(settings.max_boxes, settings.max_top_k),
        )

    def _fingerprint(self, encoder: ModelSpec) -> str:
        if self._settings.encoder_sha256:  # what Triton runs, whatever the file has become since
            return fingerprint_of(encoder, self._settings.encoder_sha256)
        try:
            repository = find_repository(self._settings.model_repository)
            check_models(repository, (encoder,))
            return fingerprint(encoder, weights_path(repository, encoder))
        except (RepositoryError, OSError) as error:
            raise ConfigurationError(str(error)) from error

    async def _listen(self) -> None:
        address = joined(self._settings.host, self._settings.port)
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigurationError(f"cannot listen on {address}; choose another --port") from error
        await self._server.start()
        _log.info("listening on %s", address)

    async def _watch_health(self) -> None:
        while True:
            ready = await self._is_ready()
            await self._say(ready=ready)
            await asyncio.sleep(_HEALTH_INTERVAL_S if ready else _HEALTH_INTERVAL_S / 5)

    async def _say(self, *, ready: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *_SERVICES[:2]):
            await self._health.set(service, status)

    async def _is_ready(self) -> bool:
        try:
            await self._gallery.check()
        except ShituError as error:
            _log.info("not ready: %s", error.message)
            return False
        return await self._triton.ready([spec.name for spec in self._specs])

    async def _close(self) -> None:
        await self._gallery.close()
        await self._triton.close()
        self._workers.close()

    def _server_options(self) -> list[tuple[str, int]]:
        size = self._settings.max_message_bytes
        return [
            ("grpc.max_receive_message_length", size),
            ("grpc.max_send_message_length", size),
            ("grpc.so_reuseport", 1),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MIN_INTERVAL_MS),
        ]
