"""What each role of `shitu serve` runs. Imports stand inside: a gallery process needs no Triton client, a gateway no FAISS."""

from __future__ import annotations

import asyncio

from rich.console import Console

from shitu_server.errors import ConfigurationError
from shitu_server.settings import Role, Settings


def run_role(role: Role, settings: Settings) -> None:
    """Run one role in this process until SIGTERM.

    Raises:
        ConfigurationError: it cannot start with these settings or files.
    """
    if role is Role.GALLERY:
        _run_gallery(settings)
    elif role is Role.GATEWAY:
        _run_gateway(settings)
    else:
        _run_all(settings)


def _run_all(settings: Settings) -> None:
    from shitu_server.topology import Topology  # noqa: PLC0415

    Topology(settings, Console(stderr=True)).run()


def _run_gateway(settings: Settings) -> None:
    from shitu_server.app import Gateway  # noqa: PLC0415

    for name, value in (("gallery_address", settings.gallery_address), ("triton_address", settings.triton_address)):
        if not value:
            raise ConfigurationError(f"{name}: a gateway needs it; set SHITU_{name.upper()} or --{name.replace('_', '-')}")

    async def serve() -> None:
        await Gateway(settings).serve()

    asyncio.run(serve())


def _run_gallery(settings: Settings) -> None:
    from shitu_server.gallery.process import serve_gallery  # noqa: PLC0415

    if not settings.gallery_address:
        raise ConfigurationError("gallery_address: a gallery process needs it, e.g. unix:/run/shitu/gallery.sock or 0.0.0.0:8201")
    asyncio.run(serve_gallery(settings.gallery_address, settings.data_dir))
