"""`shitu serve`: embedded Triton, one gallery process and the gateways, started, tended and stopped together."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console

from shitu_server.children import Child
from shitu_server.errors import ConfigurationError, ShituError
from shitu_server.readiness import is_serving
from shitu_server.settings import Role, Settings, inherited_environment
from shitu_server.supervisor import EmbeddedTriton

_log = logging.getLogger(__name__)

_TEND_INTERVAL_S: Final = 0.2
_KILL_AFTER_S: Final = 5.0


class Topology:
    """All parts on one host. Children are started from the main thread, since their parent-death signal follows it."""

    def __init__(self, settings: Settings, triton: EmbeddedTriton | None, console: Console) -> None:
        self._settings = settings
        self._triton = triton
        self._console = console
        self._stopping = threading.Event()
        self._run_dir = Path(tempfile.mkdtemp(prefix="shitu-"))
        self._gateways: list[Child] = []
        self._galleries: list[Child] = []

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ConfigurationError: port in use, models missing or broken, data directory in use: nothing is left running.
        """
        with reserved_port(self._settings.host, self._settings.port) as port:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            try:
                self._start(port)
                self._tend(port)
            finally:
                self._stop()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        _log.info("signal %s: stopping", number)
        self._stopping.set()

    def _start(self, port: int) -> None:
        settings = self._settings.model_copy(update={"port": port})
        if not settings.gallery_address:
            settings = settings.model_copy(update={"gallery_address": f"unix:{self._run_dir}/gallery.sock"})
            self._galleries = [self._child("gallery", Role.GALLERY, settings)]
            self._galleries[0].start()
        if self._triton is not None:
            with self._console.status("starting Triton and loading the models"):
                self._triton.start()
            settings = settings.model_copy(update={"triton_address": self._triton.grpc_address})
        self._gateways = [self._child(f"gateway {n}", Role.GATEWAY, settings) for n in range(settings.workers)]
        for gateway in self._gateways:
            gateway.start()

    def _child(self, name: str, role: Role, settings: Settings) -> Child:
        argv = [sys.executable, "-m", "shitu_server", role.value, str(os.getpid())]
        environment = {**inherited_environment(), **settings.as_environment()}
        return Child(name, argv, environment)

    def _tend(self, port: int) -> None:
        announced = False
        while not self._stopping.wait(_TEND_INTERVAL_S):
            for child in (*self._galleries, *self._gateways):
                child.tend()
            if self._triton is not None:
                self._triton.tend()
            if not announced and is_serving(self._settings.host, port):
                announced = True
                self._announce(port)

    def _announce(self, port: int) -> None:
        settings = self._settings
        self._console.print(
            f"[bold green]serving[/] on {settings.host}:{port}  detector {settings.detector}, encoder {settings.encoder}, "
            f"{settings.workers} gateway(s), galleries in {settings.data_dir}"
        )

    def _stop(self) -> None:
        grace_s = self._settings.drain_timeout_s + _KILL_AFTER_S
        for group in (self._gateways, self._galleries):
            for child in group:
                child.terminate()
            for child in group:
                child.wait(grace_s)
        _quietly(self._triton.stop if self._triton is not None else None)
        shutil.rmtree(self._run_dir, ignore_errors=True)


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Hold a port for the gateways, which share it by SO_REUSEPORT; yields its number (chosen by the system for 0).

    Raises:
        ConfigurationError: another program has it, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        try:
            _refuse_used(family, host, port)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose another --port, or 0 for a free one"
            ) from error
        yield int(holder.getsockname()[1])


def _refuse_used(family: socket.AddressFamily, host: str, port: int) -> None:
    # SO_REUSEPORT would let two servers of one user share a port unnoticed; a plain bind does not.
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _quietly(action: Callable[[], None] | None) -> None:
    try:
        if action is not None:
            action()
    except ShituError:
        _log.exception("stopping Triton failed")
