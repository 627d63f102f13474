"""The embedded Triton server: started, watched, brought back when it or a stub dies, and stopped without a trace."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from shitu_server.backoff import Backoff
from shitu_server.errors import ConfigurationError, ShituError
from shitu_server.served import WeightsChangedError
from shitu_server.triton_control import TritonControlError
from shitu_server.triton_loads import ModelLoader
from shitu_server.triton_models import TritonModel
from shitu_server.triton_ports import LOOPBACK, PortInUseError, Ports
from shitu_server.triton_process import ProcessOptions, TritonProcess
from shitu_server.triton_stubs import Stubs, find_stubs, is_alive

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
    """Folder of `<model>/<version>/model.onnx`."""
    models: tuple[TritonModel, ...]
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
    """How long the process may take until it answers, and then each load of a model, its warm-up included."""
    stop_timeout_s: float = 2.0
    """How long the server gets to finish requests in flight and unload; then it is killed. It keeps nothing that could be lost."""
    watch_interval_s: float = 0.25
    """How often the processes are looked at."""

    @property
    def process(self) -> ProcessOptions:
        """What the process is started with."""
        return ProcessOptions(
            self.repository,
            self.cache_dir,
            self.log_path,
            Ports(self.grpc_port, self.http_port, self.metrics_port),
            self.start_timeout_s,
            self.stop_timeout_s,
        )


class EmbeddedTriton:
    """One Triton server as a child of this process.

    Use it on the event loop of the main thread: the kernel ties the life of a child to the thread that started it.
    """

    def __init__(self, options: TritonOptions) -> None:
        self._options = options
        self._process = TritonProcess(options.process)
        self._loader = ModelLoader(self._process, options.process)
        self._models = {model.name: model for model in options.models}
        self._stubs: Stubs = {}
        self._restarts = Backoff(_FIRST_RESTART_DELAY_S, _MAX_DELAY_S)
        self._loaded_s: dict[str, float] = {}
        """When models were loaded again, by `time.monotonic()`."""
        self._unsettled: set[str] = set()
        """Models that Triton may have loaded other versions of than it should."""
        self._reloads = {name: Backoff(_FIRST_RELOAD_DELAY_S, _MAX_DELAY_S) for name in self._models}
        self._acting = asyncio.Lock()
        """Held while models are changed or brought back."""
        self._watcher: asyncio.Task[None] | None = None
        self._ready = False

    @property
    def grpc_address(self) -> str:
        """`host:port` of the inference service; stays the same when the server is brought back."""
        return f"{LOOPBACK}:{self._process.ports.grpc}"

    @property
    def http_address(self) -> str:
        """`host:port` of the HTTP interface."""
        return f"{LOOPBACK}:{self._process.ports.http}"

    @property
    def metrics_address(self) -> str:
        """`host:port` of the Prometheus metrics, path /metrics."""
        return f"{LOOPBACK}:{self._process.ports.metrics}"

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
            await self._process.begin()
            await asyncio.gather(*map(self._loader.load, self._models.values()))
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
        await self._process.stop()

    async def change(self, models: Sequence[TritonModel]) -> None:
        """Serve other versions of the models: new ones are loaded beside the old ones, then those not named are unloaded.

        What is asked of a version that stays is answered all the while.

        Raises:
            ConfigurationError: a model does not load, or needs another configuration; all stays as it was.
        """
        async with self._acting:
            changed = {model.name: model for model in models if model != self._models[model.name]}
            for name, model in changed.items():
                _check_change(self._models[name], model)
            try:
                for model in changed.values():
                    await self._loader.load(model)
            except BaseException:
                # Some may be loaded, another may still be loading: the watcher has Triton load once more what it should.
                self._unsettled.update(changed)
                raise
            else:
                self._models.update(changed)
                self._unsettled.difference_update(changed)
            finally:
                with suppress(psutil.Error):  # Triton died meanwhile; the watcher brings it back
                    await self._take_stock()

    async def _take_stock(self) -> None:
        pid = self._process.pid
        self._stubs = {} if pid is None else await asyncio.to_thread(find_stubs, pid, self._options.repository)
        self._ready = all(map(self._is_up, self._models))

    def _is_up(self, name: str) -> bool:
        # Of a version that is being unloaded processes may be left, which are nobody's loss when they end.
        model = self._models[name]
        return self._whole_versions(model) == model.digests.keys()

    def _whole_versions(self, model: TritonModel) -> set[int]:
        """Return the versions that have all their processes."""
        alive = {version: sum(map(is_alive, self._stubs.get((model.name, version), []))) for version in model.digests}
        return {version for version, count in alive.items() if count >= model.instances}

    async def _kill(self) -> None:
        await self._process.kill()
        self._stubs = {}

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._options.watch_interval_s)
            try:
                async with self._acting:
                    await self._look()
            except Exception as error:  # noqa: BLE001  whatever it is, watching goes on
                self._ready = False
                delay_s = self._restarts.failed()
                expected = isinstance(error, (ShituError, TritonControlError, PortInUseError, psutil.Error, OSError))
                _log.error("Triton is down, trying again in %g s: %s", delay_s, error, exc_info=not expected)
                await asyncio.sleep(delay_s)

    async def _look(self) -> None:
        if not self._process.alive:
            await self._restart()
            return
        if time.monotonic() - self._process.started_s >= _STABLE_AFTER_S:
            self._restarts.worked()
        for model, reloads in self._reloads.items():
            lived_s = time.monotonic() - self._loaded_s.get(model, -math.inf)
            up = self._is_up(model)
            if up and model not in self._unsettled:
                if lived_s >= _STABLE_AFTER_S:
                    reloads.worked()
                continue
            self._ready = self._ready and up
            if not up and self._loaded_s.pop(model, None) is not None and lived_s < _STABLE_AFTER_S:
                reloads.failed()  # it loads, and dies: not again and again without a pause
            if reloads.due:
                await self._reload(model)

    async def _restart(self) -> None:
        """Start the server again; a model that does not load then does not keep the others down."""
        self._ready = False
        _log.warning("Triton is not running; starting it again on the same ports")
        self._stubs = {}
        await self._process.restart()
        self._unsettled.clear()
        loads = await asyncio.gather(*map(self._loader.load_unchanged, self._models.values()), return_exceptions=True)
        await self._take_stock()
        for model, failure in zip(self._models, loads, strict=True):
            self._note(model, failure)
        _log.warning("Triton is back")

    async def _reload(self, model: str) -> None:
        """Load a model again that lost a process, or that was left between two states."""
        _log.warning("model %s is not as it should be; loading it again", model)
        failure: BaseException | None = None
        try:
            await self._loader.bring_back(self._models[model], self._whole_versions(self._models[model]))
            self._unsettled.discard(model)
        except (ConfigurationError, TritonControlError) as error:
            failure = error
        await self._take_stock()
        self._note(model, failure)
        lost = not self._is_up(model) and not isinstance(failure, WeightsChangedError)
        if lost and self._reloads[model].failures == _RELOAD_ATTEMPTS:
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
            _log.error("model %s is not all there, trying again in %g s: %s", model, delay_s, failure)
        else:
            raise failure


def _check_change(before: TritonModel, after: TritonModel) -> None:
    """Refuse what cannot take the place of a model without a break."""
    if after.config != before.config:
        raise ConfigurationError(
            f"model {after.name}: the new version differs from the one that is served in its tensors, batch size or "
            f"precision; restart `shitu serve`, or convert it under another name"
        )
