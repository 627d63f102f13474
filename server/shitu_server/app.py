"""The gateway's composition root: parts are made here from the settings, and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shitu.v1 import gallery_pb2, gallery_pb2_grpc, recognition_pb2, recognition_pb2_grpc
from shitu_models.specs import Profile
from shitu_server.addresses import joined
from shitu_server.admission import Admission
from shitu_server.capacity import capacity_of
from shitu_server.encoders import Encoders, ServedEncoder
from shitu_server.errors import ConfigurationError, ShituError
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery_connection import connected
from shitu_server.images import ImageLimits, ImageWorkers
from shitu_server.line import Line
from shitu_server.pictures import Pictures
from shitu_server.pipeline import Models, Pipeline, ServedDetector
from shitu_server.processors import processor_count
from shitu_server.recognitions import PipelineLimits
from shitu_server.rpc.draining import DrainInterceptor
from shitu_server.rpc.galleries import GalleryServicer
from shitu_server.rpc.interceptors import ErrorInterceptor
from shitu_server.rpc.pictures import PictureItems
from shitu_server.rpc.recognition import RecognitionServicer, StreamLimits
from shitu_server.served import Served, ServedModel, check_successor, served_by
from shitu_server.settings import Settings
from shitu_server.shared_memory import SharedMemory
from shitu_server.signals import reload_signal, stop_signals
from shitu_server.triton import CallLimits, TritonDetector, TritonEncoder, check_there, has_models
from shitu_server.triton_connection import TritonConnection
from shitu_server.turns import Turns

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

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._served: Served | None = None
        self._pipeline: Pipeline | None = None
        self._crops: dict[str, Admission] = {}
        """By the encoder's name: its versions share a model of Triton."""
        self._call_limits: CallLimits | None = None
        """Of all versions, those before a reload and after it."""
        self._workers: ImageWorkers | None = None
        self._triton = TritonConnection(settings.triton_address, memory=_shared_memory(settings))
        self._gallery = connected(settings)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing in the stubs
        self._draining = DrainInterceptor()
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor(), self._draining],
            options=self._server_options(),
            maximum_concurrent_rpcs=settings.max_calls_in_flight,
        )

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT, then say NOT_SERVING, finish what is in flight and return.

        At SIGHUP what is served is looked at again, and new versions are taken up without losing a call.

        Raises:
            ConfigurationError: an address is missing or cannot be listened on, or a model is missing or damaged.
        """
        stopping, reloading = asyncio.Event(), asyncio.Event()
        # First, so that no signal is lost: what changes after it is read is told again.
        with stop_signals(stopping), reload_signal(reloading, stopping):
            await self._serve(stopping, reloading)

    async def _serve(self, stopping: asyncio.Event, reloading: asyncio.Event) -> None:
        self._served = await asyncio.to_thread(served_by, self._settings)
        self._register(self._served)
        await self._say(ready=False)  # the servicer begins with SERVING, before anything was looked at
        await self._listen()
        tasks = [asyncio.create_task(self._watch_health()), asyncio.create_task(self._watch_models(reloading))]
        await stopping.wait()
        for task in tasks:
            task.cancel()
        await self._health.enter_graceful_shutdown()
        await self._draining.drain(self._settings.drain_timeout_s)
        await self._server.stop(_CLOSE_S)
        await self._close()

    def _register(self, served: Served) -> None:
        settings = self._settings
        capacity = capacity_of(settings, embedded=served.embedded, processor_count=processor_count())
        self._call_limits = CallLimits(capacity.model_calls, Turns(capacity.long_calls))
        self._workers = ImageWorkers(capacity.image_threads)
        line = Line(settings.max_pictures_in_flight, capacity.pictures_at_work)
        pipeline_limits = PipelineLimits(settings.max_boxes, settings.max_top_k)
        pipeline = Pipeline(self._models(served), self._gallery, self._pictures(self._workers), line, pipeline_limits)
        self._pipeline = pipeline
        limits = StreamLimits(settings.max_batch_entries, settings.max_stream_in_flight)
        bulk_calls = Admission("batches and bulk writes", settings.max_bulk_calls_in_flight)
        streams = Admission("streams", settings.max_streams_in_flight)
        pictures = PictureItems(pipeline, self._gallery, bulk_calls)
        recognition_pb2_grpc.add_RecognitionServiceServicer_to_server(
            RecognitionServicer(pipeline, limits, bulk_calls, streams), self._server
        )
        galleries = GalleryServicer(self._gallery, pictures, GalleryLimits(top_k=settings.max_top_k))
        gallery_pb2_grpc.add_GalleryServiceServicer_to_server(galleries, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*_SERVICES, reflection.SERVICE_NAME), self._server)

    def _pictures(self, workers: ImageWorkers) -> Pictures:
        settings = self._settings
        limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.min_image_side_px)
        return Pictures(workers, Admission("pixels", settings.max_pixels_in_flight), limits)

    def _models(self, served: Served) -> Models:
        assert self._call_limits is not None
        spec = served.detector.spec
        detector = TritonDetector(self._triton, spec, served.detector_version, limits=self._call_limits)
        encoders = tuple(self._encoder(model, served.profile) for model in served.encoders)
        return Models(ServedDetector(detector, spec), Encoders(encoders))

    def _encoder(self, model: ServedModel, profile: Profile) -> ServedEncoder:
        crops = self._crops.setdefault(
            model.name, Admission(f"crops at {model.name}", self._settings.max_crops_in_flight)
        )
        assert self._call_limits is not None
        encoder = TritonEncoder(self._triton, model.spec, model.fingerprint, model.version, limits=self._call_limits)
        return ServedEncoder(encoder, model.spec, model.version, model.precision, profile, crops)

    async def _watch_models(self, wanted: asyncio.Event) -> None:
        while True:
            await wanted.wait()
            wanted.clear()
            try:
                await self._reload()
            except ConfigurationError as error:
                _log.error("the models were not reloaded, %s are served on: %s", self._served, error.message)
            except Exception:  # noqa: BLE001  whatever it is, serving goes on
                _log.exception("the models were not reloaded, %s are served on", self._served)

    async def _reload(self) -> None:
        assert self._served is not None
        assert self._pipeline is not None
        served = await asyncio.to_thread(served_by, self._settings)
        if self._settings.served_file is None:  # else `shitu serve` has seen to it
            check_successor(self._served, served)
            await check_there(self._triton, served)
            _log.warning("the models were reloaded: %s", served)
        self._pipeline.serve(self._models(served))
        self._served = served

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
        assert self._served is not None
        return await has_models(self._triton, self._served)

    async def _close(self) -> None:
        await self._gallery.close()
        await self._triton.close()
        if self._workers is not None:
            self._workers.close()

    def _server_options(self) -> list[tuple[str, int]]:
        size, age_s = self._settings.max_message_bytes, self._settings.max_connection_age_s
        age = [("grpc.max_connection_age_ms", round(age_s * 1000))] if age_s else []
        return [
            *age,
            ("grpc.max_receive_message_length", size),
            ("grpc.max_send_message_length", size),
            ("grpc.so_reuseport", 1),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_MIN_INTERVAL_MS),
        ]


def _shared_memory(settings: Settings) -> SharedMemory | None:
    """Return the segment of pixels for Triton where there shall be one; without it everything works, a little slower."""
    if not settings.triton_shared_memory:
        return None
    try:
        return SharedMemory(settings.triton_shared_memory, settings.triton_shared_memory_bytes)
    except OSError as error:
        _log.warning(
            "no shared memory of %d bytes (%s), pixels go to Triton in messages; give /dev/shm more room, or another "
            "triton_shared_memory_bytes or triton_shared_memory",
            settings.triton_shared_memory_bytes,
            error,
        )
        return None
