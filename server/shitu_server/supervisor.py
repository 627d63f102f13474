"""The embedded Triton server: started, watched, brought back when it or a stub dies, and stopped without a trace."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from shitu_server import triton_assembly
from shitu_server.children import Child, Command, Run, remove_shared_memory
from shitu_server.errors import ConfigurationError, ShituError
from shitu_server.triton_control import TritonControl, TritonControlError
from shitu_server.triton_ports import LOOPBACK, PortInUseError, Ports

_PORT_ATTEMPTS: Final = 3
_POLL_S: Final = 0.02
_PROBE_TIMEOUT_S: Final = 1.0
_UNLOAD_TIMEOUT_S: Final = 5.0
_RELOAD_ATTEMPTS: Final = 3
"""Failed reloads of a model after which the whole server is started anew."""
_MAX_BACKOFF_S: Final = 30.0
_LOG_TAIL_BYTES: Final = 16 * 1024
_LOG_TAIL_LINES: Final = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TritonOptions:
    """What the embedded server serves, and where it keeps its files."""

    repository: Path
    """Folder of `<model>/config.pbtxt` and `<model>/1/model.onnx`."""
    models: tuple[str, ...]
    """Models to load; the service is ready when all are."""
    cache_dir: Path
    """Holds the assembled server and the records of runs; shared by all servers of a user."""
    log_path: Path
    """Triton's log; the one of the last start is kept beside it as `<name>.old`."""
    grpc_port: int = 0
    """0 takes a free one, for the three of them."""
    http_port: int = 0
    metrics_port: int = 0
    start_timeout_s: float = 120.0
    """From the start of the process to the last model ready, warm-up included."""
    stop_timeout_s: float = 2.0
    """How long the server gets to finish requests in flight and unload; then it is killed. It keeps nothing that could be lost."""
    watch_interval_s: float = 0.25
    """How often the processes are looked at."""


class EmbeddedTriton:
    """One Triton server as a child of this process.

    Use it on the event loop of the main thread: the kernel ties the life of a child to the thread that started it.
    """

    def __init__(self, options: TritonOptions) -> None:
        self._options = options
        self._ports = Ports()
        self._run: Run | None = None
        self._child: Child | None = None
        self._stubs: dict[str, list[psutil.Process]] = {}
        self._watcher: asyncio.Task[None] | None = None
        self._ready = False
        self._log_start = 0

    @property
    def grpc_address(self) -> str:
        """`host:port` of the inference service; stays the same when the server is brought back."""
        return f"{LOOPBACK}:{self._ports.grpc}"

    @property
    def http_address(self) -> str:
        """`host:port` of the HTTP interface."""
        return f"{LOOPBACK}:{self._ports.http}"

    @property
    def metrics_address(self) -> str:
        """`host:port` of the Prometheus metrics, path /metrics."""
        return f"{LOOPBACK}:{self._ports.metrics}"

    @property
    def ready(self) -> bool:
        """Whether server and stubs were alive and all models loaded when last looked at."""
        return self._ready

    async def start(self) -> None:
        """Start the server, load the models, wait until all are warm, and watch over them from then on.

        Raises:
            ConfigurationError: a file, a library or a port is missing or taken, or a model does not load; nothing is left running.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "start the embedded Triton from the main thread: its life is tied to the thread that starts it"
            )
        try:
            self._run = await asyncio.to_thread(Run.begin, self._options.cache_dir / "runs")
            self._rotate_log()
            await self._launch_on_free_ports()
            await self._load_models()
        except OSError as error:
            await self.stop()
            raise ConfigurationError(f"the embedded Triton cannot start: {error}") from error
        except BaseException:
            await self.stop()
            raise
        self._watcher = asyncio.create_task(self._watch(), name="triton-watch")

    async def stop(self) -> None:
        """Stop the server and everything that it started; removes its shared memory. May be called twice."""
        self._ready = False
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        if self._child is not None:
            self._child.terminate()
            await asyncio.to_thread(self._child.wait, self._options.stop_timeout_s)
            await asyncio.to_thread(self._child.kill_group)
            self._child = None
        if self._run is not None:
            self._run.close()
            self._run = None

    async def _launch_on_free_ports(self) -> None:
        options = self._options
        wanted = Ports(options.grpc_port, options.http_port, options.metrics_port)
        for attempt in range(_PORT_ATTEMPTS):
            try:
                self._ports = wanted.chosen()
                await self._launch()
            except PortInUseError as error:
                await self._kill()
                if wanted.fixes(error.port) or attempt == _PORT_ATTEMPTS - 1:
                    raise ConfigurationError(f"{error}; stop what uses it or choose another port for Triton") from error
            else:
                return

    async def _launch(self) -> None:
        """Start the process on the chosen ports and wait until it answers under our id."""
        assert self._run is not None
        options = self._options
        assembly = await asyncio.to_thread(triton_assembly.assemble, options.cache_dir)
        environment = triton_assembly.child_environment(assembly)
        await asyncio.to_thread(triton_assembly.check_libraries, assembly, environment)
        arguments = triton_assembly.arguments(
            assembly, options.repository, self._run.id, self._ports, self._run.shared_memory_prefix
        )
        self._log_start = options.log_path.stat().st_size if options.log_path.exists() else 0
        self._child = Child(Command(arguments, environment, options.log_path), self._run)
        await self._wait_identity(self._child, self._run.id)

    async def _wait_identity(self, child: Child, identity: str) -> None:
        control = TritonControl(self._ports.http)
        deadline = time.monotonic() + self._options.start_timeout_s
        while time.monotonic() < deadline:
            if child.exit_code() is not None:
                raise self._start_error(f"Triton ended with code {child.exit_code()}")
            answer = await asyncio.to_thread(control.identity, _PROBE_TIMEOUT_S)
            if answer == identity:
                return
            if answer is not None:
                raise PortInUseError(self._ports.http, "another server answers there")
            await asyncio.sleep(_POLL_S)
        raise self._start_error(f"Triton did not answer within {self._options.start_timeout_s:g} s")

    async def _load_models(self) -> None:
        deadline = time.monotonic() + self._options.start_timeout_s
        await asyncio.gather(*(self._load(model, deadline - time.monotonic()) for model in self._options.models))
        await asyncio.to_thread(self._find_stubs)
        self._ready = True

    async def _load(self, model: str, timeout_s: float) -> None:
        try:
            await asyncio.to_thread(TritonControl(self._ports.http).load, model, timeout_s)
        except TritonControlError as error:
            raise ConfigurationError(
                f"Triton cannot load model {model} from {self._options.repository / model}: {error}; "
                f"repair or replace it (log: {self._options.log_path})"
            ) from error

    def _find_stubs(self) -> None:
        """Remember which processes run which model, by the model file on their command line."""
        assert self._child is not None
        self._stubs = {model: [] for model in self._options.models}
        for process in psutil.Process(self._child.pid).children():
            model = _model_of(process, self._options.repository)
            if model in self._stubs:
                self._stubs[model].append(process)

    async def _watch(self) -> None:
        backoff_s = 1.0
        while True:
            await asyncio.sleep(self._options.watch_interval_s)
            try:
                await self._look()
                backoff_s = 1.0
            except (ShituError, TritonControlError, PortInUseError, psutil.Error, OSError) as error:
                _log.error("Triton is down, trying again in %g s: %s", backoff_s, error)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _MAX_BACKOFF_S)

    async def _look(self) -> None:
        if self._child is None or self._child.exit_code() is not None:
            await self._restart()
            return
        for model, stubs in list(self._stubs.items()):
            if not stubs or not all(map(_alive, stubs)):
                await self._reload(model)

    async def _restart(self) -> None:
        self._ready = False
        _log.warning("Triton died; starting it again on the same ports")
        await self._kill()
        await self._launch()
        await self._load_models()
        _log.info("Triton is back")

    async def _reload(self, model: str) -> None:
        """Unload and load a model whose stub died: Triton never restarts it, reports it ready, and a mere load does nothing."""
        self._ready = False
        _log.warning("the process of model %s died; loading it again", model)
        control = TritonControl(self._ports.http)
        for attempt in range(_RELOAD_ATTEMPTS):
            try:
                await asyncio.to_thread(control.unload, model, _UNLOAD_TIMEOUT_S)
                await asyncio.to_thread(control.load, model, self._options.start_timeout_s)
                break
            except TritonControlError as error:
                _log.warning("model %s, attempt %d: %s", model, attempt + 1, error)
        else:
            await self._kill()  # the next look starts it again
            return
        await asyncio.to_thread(self._find_stubs)
        self._ready = True
        _log.info("model %s is back", model)

    async def _kill(self) -> None:
        if self._child is not None:
            await asyncio.to_thread(self._child.kill_group)
            self._child = None
        if self._run is not None:
            remove_shared_memory(self._run.shared_memory_prefix)

    def _rotate_log(self) -> None:
        path = self._options.log_path
        if path.exists():
            path.replace(path.with_name(f"{path.name}.old"))

    def _start_error(self, what: str) -> Exception:
        lines = _decisive_lines(self._options.log_path, self._log_start)
        if any("already in use" in line for line in lines):
            return PortInUseError(0, lines[-1])
        return ConfigurationError(f"{what} (log: {self._options.log_path}): {' | '.join(lines) or 'the log is empty'}")


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _model_of(process: psutil.Process, repository: Path) -> str | None:
    try:
        words = process.cmdline()
        return Path(words[1]).relative_to(repository).parts[0]
    except (psutil.NoSuchProcess, ValueError, IndexError):
        return None


def _decisive_lines(log_path: Path, start: int) -> list[str]:
    """Return the last errors of Triton's log, or its last lines where there are none."""
    try:
        with log_path.open("rb") as file:
            file.seek(max(start, log_path.stat().st_size - _LOG_TAIL_BYTES))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        return []
    errors = [line for line in lines if line.startswith("E") or "error" in line.lower()]
    return (errors or lines)[-_LOG_TAIL_LINES:]
