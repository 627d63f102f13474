"""What each role of `shitu serve` runs. Imports stand inside: a gallery process needs no Triton client, a gateway no FAISS."""

from __future__ import annotations

import asyncio
import importlib.util
import logging

import uvloop
from rich.console import Console

from shitu_server.addresses import reserved_port
from shitu_server.allocator import give_back_pictures
from shitu_server.errors import ConfigurationError
from shitu_server.gallery.environment import search_environment
from shitu_server.gallery.limits import BatchingOptions, IndexOptions
from shitu_server.processors import processor_count
from shitu_server.settings import Role, SearchDevice, Settings, default_environment

_log = logging.getLogger(__name__)


def begin_logging(role: Role, settings: Settings) -> None:
    """Log to stderr, each line with the role that says it."""
    logging.basicConfig(level=settings.log_level.value, format=f"%(asctime)s {role.value} %(levelname)s %(message)s")


def run_role(role: Role, settings: Settings) -> None:
    """Run one role in this process until SIGTERM, as a server of its own.

    Raises:
        ConfigurationError: it cannot start with these settings or files.
    """
    if role is Role.GALLERY:
        _check_no_milvus(settings)
        _run_gallery(settings)
        return
    _check_milvus(settings)
    if settings.snapshots:
        raise ConfigurationError(
            "snapshots: they are served by a gallery process alone; add --role gallery, or leave them out"
        )
    if role is Role.GATEWAY:
        _run_lone_gateway(settings)
    else:
        _run_all(settings)


def run_child(role: Role, settings: Settings) -> None:
    """Run the gateway's or the gallery's role until SIGTERM, as a part of a server that looks after the port.

    Raises:
        ConfigurationError: it cannot start with these settings or files.
    """
    if role is Role.GALLERY:
        _run_gallery(settings)
    else:
        _run_gateway(settings)


def _run_all(settings: Settings) -> None:
    _check_triton_options(settings)
    _check_own_memory(settings)
    _check_no_served_file(settings)
    from shitu_server.topology import Topology  # noqa: PLC0415

    async def serve() -> None:
        await Topology(settings, Console(stderr=True)).run()

    asyncio.run(serve())


def _run_lone_gateway(settings: Settings) -> None:
    _check_triton_options(settings)
    _check_no_served_file(settings)
    if settings.workers > 1:
        raise ConfigurationError(
            f"workers: a gateway alone is one process, got {settings.workers}; "
            f"leave it at 1 and start more gateways, each with a host or port of its own"
        )
    # Gateways share a port with all of this user's that ask for it; one that nobody meant to must not.
    with reserved_port(settings.host, settings.port) as port:
        _run_gateway(settings.model_copy(update={"port": port}))


def _run_gateway(settings: Settings) -> None:
    give_back_pictures()
    from shitu_server.app import Gateway  # noqa: PLC0415

    galleries = settings.gallery_address or settings.milvus_address
    for name, value in (("gallery_address", galleries), ("triton_address", settings.triton_address)):
        if not value:
            raise ConfigurationError(
                f"{name}: a gateway needs it; set SHITU_{name.upper()} or --{name.replace('_', '-')}"
            )

    async def serve() -> None:
        await Gateway(settings).serve()

    uvloop.run(serve())  # a tenth less CPU time for each request than asyncio's own loop


def _run_gallery(settings: Settings) -> None:
    threads = settings.search_threads or max(1, processor_count() // 2)
    default_environment(search_environment(threads))
    from shitu_server.gallery_process import serve_gallery  # noqa: PLC0415

    if not settings.gallery_address:
        raise ConfigurationError(
            "gallery_address: a gallery process needs it, e.g. unix:/run/shitu/gallery.sock or 0.0.0.0:8201"
        )
    uvloop.run(
        serve_gallery(
            settings.gallery_address,
            settings.data_dir,
            batching=BatchingOptions(thread_count=threads),
            tuning=IndexOptions(on_gpu=_is_on_gpu(settings)),
            snapshots=settings.snapshot_files,
            max_message_bytes=settings.max_message_bytes,
            drain_timeout_s=settings.drain_timeout_s,
        )
    )


def _is_on_gpu(settings: Settings) -> bool:
    """Return whether vectors are compared on a GPU; warn where they shall be and cannot."""
    if settings.search_device is SearchDevice.CPU:
        return False
    from shitu_server.gallery.gpu_neighbours import gpu_count  # noqa: PLC0415

    if not gpu_count():
        _log.warning(
            "search_device is gpu, but FAISS finds none here: galleries are searched on the CPU. It takes an NVIDIA GPU with its "
            "driver, and the extra server-gpu in place of server"
        )
        return False
    return True


def _check_milvus(settings: Settings) -> None:
    if not settings.milvus_address:
        return
    if settings.gallery_address:
        raise ConfigurationError(
            f"milvus_address: galleries are kept in Milvus or by a gallery process, and {settings.gallery_address} is one; "
            "leave out either --milvus-address or --gallery-address"
        )
    if importlib.util.find_spec("pymilvus") is None:
        raise ConfigurationError("milvus_address: it needs the package pymilvus; pip install 'shitu[server,milvus]'")


def _check_no_milvus(settings: Settings) -> None:
    if settings.milvus_address:
        raise ConfigurationError(
            f"milvus_address: a gallery process keeps the galleries itself, got {settings.milvus_address}; leave it out, "
            "gateways ask Milvus without one"
        )


def _check_triton_options(settings: Settings) -> None:
    """Refuse options of the embedded Triton where Triton is elsewhere: they would do nothing."""
    defaults = Settings.model_fields
    for name in ("instances", "threads", "accelerator", "max_queue_delay_us"):
        if settings.triton_address and getattr(settings, name) != defaults[name].default:
            raise ConfigurationError(
                f"{name}: it is the embedded Triton's, and {settings.triton_address} is another one; leave it out, and render "
                f"the other one's files with `python -m shitu_models.triton_config REPOSITORY`, whose --help says more"
            )


def _check_own_memory(settings: Settings) -> None:
    """Refuse a name for what the embedded Triton gets under a name of its own."""
    if settings.triton_shared_memory and not settings.triton_address:
        raise ConfigurationError(
            f"triton_shared_memory: it is for a Triton elsewhere on this host, got {settings.triton_shared_memory}; leave it out, or "
            "give --triton-address"
        )


def _check_no_served_file(settings: Settings) -> None:
    """Refuse what only `shitu serve` may say to its own gateways."""
    if settings.served_file is not None:
        raise ConfigurationError(
            f"served_file: `shitu serve` tells its gateways what Triton runs with it, got {settings.served_file}; unset "
            f"SHITU_SERVED_FILE, the model repository says what is served"
        )
