"""The embedded Triton server: started, watched, brought back when it or a stub dies, and stopped without a trace."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from shitu_server import triton_assembly, triton_log
from shitu_server.backoff import Backoff
from shitu_server.children import Child, Command, Run, remove_shared_memory
from shitu_server.errors import ConfigurationError, ShituError
from shitu_server.triton_control import TritonControl, TritonControlError
from shitu_server.triton_ports import LOOPBACK, PortInUseError, Ports
from shitu_server.triton_stubs import find_stubs, is_alive
from shitu_server.weights import Weights, WeightsChangedError

_PORT_ATTEMPTS: Final = 3
_POLL_S: Final = 0.02
_PROBE_TIMEOUT_S: Final = 1.0
_UNLOAD_TIMEOUT_S: Final = 5.0
_RELOAD_ATTEMPTS: Final = 3
"""Failed loads of a model in a row after which the whole server is started anew, once; the others go on without it after that."""
_FIRST_RELOAD_DELAY_S: Final = 0.25
_FIRST_RESTART_DELAY_S: Final = 1.0
_MAX_DELAY_S: Final = 30.0
_STABLE_AFTER_S: Final = 10.0
"""A server that lived this long is started again after the shortest delay."""

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
        self._weights = Weights(options.repository, ())
        self._restarts = Backoff(_FIRST_RESTART_DELAY_S, _MAX_DELAY_S)
        self._loaded_s: dict[str, float] = {}
        """When models were loaded again, by `time.monotonic()`."""
        self._reloads = {model: Backoff(_FIRST_RELOAD_DELAY_S, _MAX_DELAY_S) for model in options.models}
        self._started_s = 0.0
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

    def weights_digest(self, model: str) -> str:
        """Return the sha256 of the weights that a model serves, 64 hex digits; ask after `start`."""
        return self._weights.digest(model)

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
            triton_log.rotate(self._options.log_path)
            self._weights = await asyncio.to_thread(Weights, self._options.repository, self._options.models)
            await self._launch_on_free_ports()
            await asyncio.gather(*map(self._load, self._options.models))
            await self._take_stock()
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
        self._started_s = time.monotonic()
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

    async def _load(self, model: str) -> None:
        """Load a model and wait for its warm-up, provided that its file is the one that the server began with."""
        await asyncio.to_thread(self._weights.check, model)
        control = TritonControl(self._ports.http)
        try:
            await asyncio.to_thread(control.load, model, self._options.start_timeout_s)
            await asyncio.to_thread(self._weights.check, model)  # nor replaced while it was read
        except TritonControlError as error:
            raise ConfigurationError(
                f"Triton cannot load model {model} from {self._options.repository / model}: {error}; "
                f"repair or replace it (log: {self._options.log_path})"
            ) from error
        except WeightsChangedError:
            await self._unload_changed(control, model)
            raise

    async def _unload_changed(self, control: TritonControl, model: str) -> None:
        try:
            await asyncio.to_thread(control.unload, model, _UNLOAD_TIMEOUT_S)
        except TritonControlError:
            await self._kill()  # rather nothing than vectors of other weights

    async def _take_stock(self) -> None:
        assert self._child is not None
        self._stubs = await asyncio.to_thread(
            find_stubs, self._child.pid, self._options.repository, self._options.models
        )
        self._ready = all(map(self._is_up, self._options.models))

    def _is_up(self, model: str) -> bool:
        stubs = self._stubs.get(model, [])
        return bool(stubs) and all(map(is_alive, stubs))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._options.watch_interval_s)
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001  whatever it is, watching goes on
                self._ready = False
                delay_s = self._restarts.failed()
                expected = isinstance(error, (ShituError, TritonControlError, PortInUseError, psutil.Error, OSError))
                _log.error("Triton is down, trying again in %g s: %s", delay_s, error, exc_info=not expected)
                await asyncio.sleep(delay_s)

    async def _look(self) -> None:
        if self._child is None or self._child.exit_code() is not None:
            await self._restart()
            return
        if time.monotonic() - self._started_s >= _STABLE_AFTER_S:
            self._restarts.worked()
        for model, reloads in self._reloads.items():
            lived_s = time.monotonic() - self._loaded_s.get(model, -math.inf)
            if self._is_up(model):
                if lived_s >= _STABLE_AFTER_S:
                    reloads.worked()
                continue
            self._ready = False
            if self._loaded_s.pop(model, None) is not None and lived_s < _STABLE_AFTER_S:
                reloads.failed()  # it loads, and dies: not again and again without a pause
            if reloads.due:
                await self._reload(model)

    async def _restart(self) -> None:
        """Start the server again; a model that does not load then does not keep the others down."""
        self._ready = False
        _log.warning("Triton is not running; starting it again on the same ports")
        await self._kill()
        try:
            await self._launch()
        except BaseException:
            await self._kill()
            raise
        loads = await asyncio.gather(*map(self._load, self._options.models), return_exceptions=True)
        await self._take_stock()
        for model, failure in zip(self._options.models, loads, strict=True):
            self._note(model, failure)
        _log.warning("Triton is back")

    async def _reload(self, model: str) -> None:
        """Unload and load a model whose stub died: Triton never restarts it, reports it ready, and a mere load does nothing."""
        _log.warning("no process of model %s is alive; loading it again", model)
        failure: BaseException | None = None
        try:
            await asyncio.to_thread(TritonControl(self._ports.http).unload, model, _UNLOAD_TIMEOUT_S)
            await self._load(model)
        except (ConfigurationError, TritonControlError) as error:
            failure = error
        await self._take_stock()
        self._note(model, failure)
        if self._reloads[model].failures == _RELOAD_ATTEMPTS and not isinstance(failure, WeightsChangedError):
            await self._kill()
            raise TritonControlError(f"model {model} did not load in {_RELOAD_ATTEMPTS} attempts; starting Triton anew")

    def _note(self, model: str, failure: BaseException | None) -> None:
        """Count whether a model loaded, and say it; a failure that is none of a load's is raised."""
        if failure is None and self._is_up(model):
            self._loaded_s[model] = time.monotonic()
            _log.warning("model %s is back", model)
        elif failure is None:
            _log.error("model %s died while it was loaded, trying again in %g s", model, self._reloads[model].failed())
        elif isinstance(failure, (ShituError, TritonControlError)):
            delay_s = self._reloads[model].failed()
            _log.error("model %s is down, trying again in %g s: %s", model, delay_s, failure)
        else:
            raise failure

    async def _kill(self) -> None:
        if self._child is not None:
            await asyncio.to_thread(self._child.kill_group)
            self._child = None
        self._stubs = {}
        if self._run is not None:
            remove_shared_memory(self._run.shared_memory_prefix)

    def _start_error(self, what: str) -> Exception:
        lines = triton_log.decisive_lines(self._options.log_path, self._log_start)
        if any("already in use" in line for line in lines):
            return PortInUseError(0, lines[-1])
        return ConfigurationError(f"{what} (log: {self._options.log_path}): {' | '.join(lines) or 'the log is empty'}")
