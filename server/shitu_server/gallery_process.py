"""The gallery process: `types.Gallery` of this process behind a socket. Its own composition root."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shitu.v1 import drafts_pb2_grpc, gallery_pb2, gallery_pb2_grpc
from shitu_server.errors import ConfigurationError
from shitu_server.gallery.client import DEFAULT_MESSAGE_BYTES
from shitu_server.gallery.embedded import EmbeddedGallery
from shitu_server.gallery.limits import BatchingOptions, GalleryLimits, IndexOptions
from shitu_server.gallery.replica import open_replica
from shitu_server.rpc.drafts import GalleryDraftServicer
from shitu_server.rpc.draining import DrainInterceptor
from shitu_server.rpc.galleries import GalleryServicer
from shitu_server.rpc.interceptors import ErrorInterceptor
from shitu_server.rpc.item_sources import VectorItems
from shitu_server.rpc.reading import ReadOnlyInterceptor
from shitu_server.types import Gallery

_log = logging.getLogger(__name__)

SERVICE: Final = gallery_pb2.DESCRIPTOR.services_by_name["GalleryService"].full_name
DRAIN_TIMEOUT_S: Final = 10.0
SWITCH_INTERVAL_S: Final = 0.001
"""How long a thread of Python may keep the others from running: the one that writes, the one that searches and the event loop wait
for each other several times in a call, by default up to 5 ms each time."""
UNIX: Final = "unix:"
SOCKET_PATH_BYTES: Final = 107
"""sockaddr_un of Linux."""


async def serve_gallery(
    address: str,
    data_dir: Path,
    limits: GalleryLimits | None = None,
    batching: BatchingOptions | None = None,
    tuning: IndexOptions | None = None,
    *,
    snapshots: Sequence[Path] = (),
    max_message_bytes: int = DEFAULT_MESSAGE_BYTES,
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
) -> None:
    """Serve until SIGTERM or SIGINT, then refuse new calls, finish those in flight and close the database.

    The variables of `environment.search_environment` must be in the environment before this process starts.

    Args:
        address: "unix:/path", where a socket that nobody listens on is replaced, or "host:port".
        data_dir: where the galleries are; made where it is missing.
        limits: of what is stored and of what waits.
        batching: of searches.
        tuning: of indexes.
        snapshots: where there are any, galleries of these files are served, and nothing can be written.
        max_message_bytes: of a request and of a reply.
        drain_timeout_s: calls that are in flight longer are cancelled.

    Raises:
        ConfigurationError: the address or the directory is in use, or the database is broken or newer.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    _claim_socket(address)
    limits = limits or GalleryLimits()
    opened = (
        open_replica(snapshots, data_dir, limits, batching, tuning)
        if snapshots
        else _opened(data_dir, limits, batching, tuning)
    )
    async with opened as gallery:
        interceptors = [ErrorInterceptor(), *([ReadOnlyInterceptor()] if snapshots else [])]
        async with _listening(address, gallery, interceptors, limits, max_message_bytes, drain_timeout_s):
            _log.info("galleries of %s on %s", data_dir, address)
            await stop.wait()
            _log.info("draining")


@contextlib.asynccontextmanager
async def _opened(
    data_dir: Path, limits: GalleryLimits, batching: BatchingOptions | None, tuning: IndexOptions | None
) -> AsyncIterator[EmbeddedGallery]:
    with _uncollected():
        gallery = await EmbeddedGallery.open(data_dir, limits, batching, tuning)
    try:
        yield gallery
    finally:
        await gallery.close()


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """What is loaded inside is no concern of the garbage collector.

    It looks at millions of objects again and again while they are made, which takes a third of the time, and later would hold up
    searches whenever it looks at all of them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.asynccontextmanager
async def _listening(
    address: str,
    gallery: Gallery,
    interceptors: Sequence[Any],
    limits: GalleryLimits,
    max_message_bytes: int,
    drain_timeout_s: float,
) -> AsyncIterator[None]:
    draining = DrainInterceptor()
    server = grpc.aio.server(
        interceptors=[*interceptors, draining],
        maximum_concurrent_rpcs=limits.calls_in_flight,
        options=(
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.so_reuseport", 0),  # a second process on the port must fail, not share it
        ),
    )
    health_servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing in the stubs
    servicer = GalleryServicer(gallery, VectorItems(), limits)
    gallery_pb2_grpc.add_GalleryServiceServicer_to_server(servicer, server)
    drafts_pb2_grpc.add_GalleryDraftServiceServicer_to_server(GalleryDraftServicer(gallery), server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    _bind(server, address)
    await server.start()
    await health_servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await health_servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield
    finally:
        await health_servicer.enter_graceful_shutdown()
        await draining.drain(drain_timeout_s)
        await server.stop(None)


def _bind(server: grpc.aio.Server, address: str) -> None:
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigurationError(
            f"cannot listen on {address}; it is in use or not ours, choose another gallery address"
        ) from error
    if address.startswith(UNIX):
        Path(address.removeprefix(UNIX)).chmod(0o600)  # whoever can connect can write


def _claim_socket(address: str) -> None:
    """Make sure that nobody listens on a Unix socket: gRPC would take it away from another process without a word."""
    if not address.startswith(UNIX):
        return
    path = Path(address.removeprefix(UNIX))
    if not path.is_absolute() or len(str(path).encode()) > SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"the gallery address {address} must be unix: and an absolute path of at most {SOCKET_PATH_BYTES} bytes"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return  # no socket, or one that a process left behind: gRPC replaces it
    except OSError as error:
        raise ConfigurationError(f"the gallery address {address} cannot be used: {error.strerror}") from error
    raise ConfigurationError(f"another process listens on {address}; stop it, or choose another gallery address")
