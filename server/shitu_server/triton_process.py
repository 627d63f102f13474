"""The process of the embedded Triton server: on free ports, under an id of its own, killed with all that it started."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shitu_server import triton_assembly, triton_log
from shitu_server.children import Child, Command, Run, remove_shared_memory
from shitu_server.errors import ConfigurationError
from shitu_server.triton_control import TritonControl
from shitu_server.triton_ports import PortInUseError, Ports

_PORT_ATTEMPTS: Final = 3
_POLL_S: Final = 0.02
_PROBE_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True)
class ProcessOptions:
    """What the server is started with."""

    repository: Path
    cache_dir: Path
    log_path: Path
    ports: Ports
    """Wanted ones; 0 takes a free one."""
    start_timeout_s: float
    stop_timeout_s: float


class TritonProcess:
    """One server, started as often as it must. Belongs to the event loop of the main thread, as all children do."""

    def __init__(self, options: ProcessOptions) -> None:
        self._options = options
        self._run: Run | None = None
        self._child: Child | None = None
        self._log_start = 0
        self.ports = Ports()
        """Those that it has; they stay when it is started again."""
        self.started_s = 0.0
        """When it was started last, by `time.monotonic()`."""

    @property
    def run_id(self) -> str:
        """Of the run, from `begin` to `stop`."""
        assert self._run is not None
        return self._run.id

    @property
    def pid(self) -> int | None:
        """Of the server; None where there is none."""
        return self._child.pid if self._child is not None else None

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._child is not None and self._child.exit_code() is None

    @property
    def control(self) -> TritonControl:
        """Loads and unloads models."""
        return TritonControl(self.ports.http)

    async def begin(self) -> None:
        """Begin a run, and start the server on free ports.

        Raises:
            ConfigurationError: a library or a port is missing or taken.
        """
        self._run = await asyncio.to_thread(Run.begin, self._options.cache_dir / "runs")
        triton_log.rotate(self._options.log_path)
        wanted = self._options.ports
        for attempt in range(_PORT_ATTEMPTS):
            try:
                self.ports = wanted.chosen()
                await self._launch()
            except PortInUseError as error:
                await self.kill()
                if wanted.fixes(error.port) or attempt == _PORT_ATTEMPTS - 1:
                    raise ConfigurationError(f"{error}; stop what uses it or choose another port for Triton") from error
            else:
                return

    async def restart(self) -> None:
        """Start the server again, on the same ports; nothing is left of it where that fails."""
        await self.kill()
        try:
            await self._launch()
        except BaseException:
            await self.kill()
            raise

    async def kill(self) -> None:
        """Kill the server and everything that it started."""
        if self._child is not None:
            await asyncio.to_thread(self._child.kill_group)
            self._child = None
        if self._run is not None:
            remove_shared_memory(self._run.shared_memory_prefix)

    async def stop(self) -> None:
        """Stop the server in order, kill what is left, and end the run. May be called twice."""
        if self._child is not None:
            self._child.terminate()
            await asyncio.to_thread(self._child.wait, self._options.stop_timeout_s)
            await asyncio.to_thread(self._child.kill_group)
            self._child = None
        if self._run is not None:
            self._run.close()
            self._run = None

    async def _launch(self) -> None:
        """Start the process on the chosen ports and wait until it answers under our id."""
        assert self._run is not None
        options = self._options
        assembly = await asyncio.to_thread(triton_assembly.assemble, options.cache_dir)
        environment = triton_assembly.child_environment(assembly)
        await asyncio.to_thread(triton_assembly.check_libraries, assembly, environment)
        arguments = triton_assembly.arguments(
            assembly, options.repository, self._run.id, self.ports, self._run.shared_memory_prefix
        )
        self._log_start = options.log_path.stat().st_size if options.log_path.exists() else 0
        self._child = Child(Command(arguments, environment, options.log_path), self._run)
        self.started_s = time.monotonic()
        await self._wait_identity(self._child, self._run.id)

    async def _wait_identity(self, child: Child, identity: str) -> None:
        deadline = time.monotonic() + self._options.start_timeout_s
        while time.monotonic() < deadline:
            if child.exit_code() is not None:
                raise self._start_error(f"Triton ended with code {child.exit_code()}")
            answer = await asyncio.to_thread(self.control.identity, _PROBE_TIMEOUT_S)
            if answer == identity:
                return
            if answer is not None:
                raise PortInUseError(self.ports.http, "another server answers there")
            await asyncio.sleep(_POLL_S)
        raise self._start_error(f"Triton did not answer within {self._options.start_timeout_s:g} s")

    def _start_error(self, what: str) -> Exception:
        lines = triton_log.decisive_lines(self._options.log_path, self._log_start)
        if any("already in use" in line for line in lines):
            return PortInUseError(0, lines[-1])
        return ConfigurationError(f"{what} (log: {self._options.log_path}): {' | '.join(lines) or 'the log is empty'}")
