"""`shitu serve`: embedded Triton, one gallery process, unless the galleries are elsewhere, and the gateways, started, tended and stopped together."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from shitu_server.addresses import joined, reserved_port
from shitu_server.children import Command, Run
from shitu_server.errors import ConfigurationError
from shitu_server.kept_process import KeptProcess
from shitu_server.model_serving import ModelServing
from shitu_server.readiness import is_serving
from shitu_server.settings import Role, Settings, inherited_environment
from shitu_server.signals import reload_signal, stop_signals

_log = logging.getLogger(__name__)

_TEND_INTERVAL_S: Final = 0.1
_KILL_AFTER_S: Final = 5.0


class Topology:
    """All parts on one host. Lives on the event loop of the main thread: the kernel ties the children's lives to it."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Event()
        self._models: ModelServing | None = None
        self._galleries: list[KeptProcess] = []
        self._gateways: list[KeptProcess] = []

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; at SIGHUP serve the versions that the model repository has then.

        Raises:
            ConfigurationError: port in use, models missing or broken, data directory in use: nothing is left running.
        """
        with stop_signals(self._stopping), reload_signal(self._reloading, self._stopping):
            await self._run()

    async def _run(self) -> None:
        _make_directory(self._settings.data_dir)
        with reserved_port(self._settings.host, self._settings.port) as port, _run_directory() as directory:
            run = Run.begin(self._settings.cache_dir / "runs")
            try:
                serving = self._start_and_tend(run, self._settings.model_copy(update={"port": port}), directory)
                await self._until_stopped(asyncio.create_task(serving))
            finally:
                await self._stop()
                run.close()

    async def _until_stopped(self, serving: asyncio.Task[None]) -> None:
        # Ctrl-C counts while models are still loading, too.
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if serving.done():
            serving.result()
        serving.cancel()
        await asyncio.gather(serving, stopping, return_exceptions=True)

    async def _start_and_tend(self, run: Run, settings: Settings, directory: Path) -> None:
        await self._start(run, settings, directory)
        reloading = asyncio.create_task(self._reload())
        try:
            await self._tend(settings.port)
        finally:
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)

    async def _start(self, run: Run, settings: Settings, directory: Path) -> None:
        if not (settings.gallery_address or settings.milvus_address):
            settings = settings.model_copy(update={"gallery_address": f"unix:{directory}/gallery.sock"})
            self._galleries.append(_kept("gallery", Role.GALLERY, settings, run))
        self._models = ModelServing(settings, run.file("served.json"))
        with self._console.status("starting Triton and loading the models"):
            await self._while_tending(asyncio.create_task(self._models.start()))
        running = {"triton_address": self._models.triton_address, "served_file": self._models.file}
        settings = settings.model_copy(update=running)
        prefix = (
            settings.triton_shared_memory if self._settings.triton_address else f"{run.shared_memory_prefix}gateway"
        )
        for number in range(settings.workers):
            name = f"{prefix}{number}" if prefix else ""
            own = settings.model_copy(update={"triton_shared_memory": name})
            self._gateways.append(_kept(f"gateway {number}", Role.GATEWAY, own, run))

    async def _while_tending(self, starting: asyncio.Task[None]) -> None:
        """Wait for a task; a gallery process that cannot start ends it at once, not after all models are loaded."""
        try:
            while not starting.done():
                self._tend_processes()
                await asyncio.wait({starting}, timeout=_TEND_INTERVAL_S)
        except BaseException:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            raise
        starting.result()

    def _tend_processes(self) -> None:
        for process in (*self._galleries, *self._gateways):
            process.tend()

    async def _reload(self) -> None:
        assert self._models is not None
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            try:
                await self._models.reload(self._tell_gateways)
            except Exception:  # noqa: BLE001  whatever it is, serving goes on
                _log.exception("the models were not reloaded")

    def _tell_gateways(self) -> None:
        for gateway in self._gateways:
            gateway.reload()

    async def _tend(self, port: int) -> None:
        announced = False
        while True:
            self._tend_processes()
            if not announced and await asyncio.to_thread(is_serving, self._settings.host, port):
                announced = True
                self._announce(port)
            await asyncio.sleep(_TEND_INTERVAL_S)

    def _announce(self, port: int) -> None:
        settings = self._settings
        assert self._models is not None
        self._console.print(
            f"[bold green]serving[/] on {joined(settings.host, port)}: {self._models.names}; {settings.workers} gateway(s); "
            f"galleries {_kept_at(settings)}; Ctrl-C stops",
            highlight=False,
            soft_wrap=True,
        )

    def _wait(self, processes: Sequence[KeptProcess]) -> None:
        end_s = time.monotonic() + self._settings.drain_timeout_s + _KILL_AFTER_S
        for process in processes:
            process.wait(max(0.0, end_s - time.monotonic()))

    async def _stop(self) -> None:
        # Gateways first, all at once: what they have in flight still needs the gallery and Triton.
        for processes in (self._gateways, self._galleries):
            for process in processes:
                process.terminate()
            await asyncio.to_thread(self._wait, processes)
        if self._models is not None:
            await self._models.stop()


def _kept(name: str, role: Role, settings: Settings, run: Run) -> KeptProcess:
    environment = {**inherited_environment(), **settings.as_environment()}
    process = KeptProcess(name, Command([sys.executable, "-m", "shitu_server", role.value], environment), run)
    process.start()
    return process


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make the data directory {path}: {error.strerror}; choose another --data-dir"
        ) from error


@contextmanager
def _run_directory() -> Iterator[Path]:
    # Short, since a socket's path has at most 107 bytes.
    path = Path(tempfile.mkdtemp(prefix="shitu-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _kept_at(settings: Settings) -> str:
    """Return where the galleries are, as it is told to people."""
    elsewhere = settings.milvus_address or settings.gallery_address
    return f"at {elsewhere}" if elsewhere else f"in {settings.data_dir}"
