"""A `shitu serve` to measure: started on a free loopback port with data of its own, and stopped when it is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

import psutil
from typing_extensions import Self

from shitu_bench.errors import BenchError
from shitu_bench.isolated import bound_command, environment_without_settings
from shitu_bench.serving.processes import ServerProcesses, listens
from shitu_server.addresses import reserved_port
from shitu_server.readiness import is_serving

LOOPBACK: Final = "127.0.0.1"
_POLL_S: Final = 0.1
_STOP_TIMEOUT_S: Final = 40.0
_LOG_CHARACTERS: Final = 2000
"""Of a server that did not start, how much of the end of its log is shown."""


@dataclass(frozen=True)
class ServerOptions:
    """What the server is started with."""

    workers: int = 1
    """Gateway processes."""
    instances: int = 1
    """Of each model."""
    threads: int = 0
    """Of an instance; 0 shares the processors among the instances."""
    detector: str = "demo_det"
    encoder: str = "demo_rec"
    model_repository: Path | None = None
    """The one that comes with shitu where unset."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """SHITU_* variables; those of the shell do not reach it."""
    start_timeout_s: float = 300.0

    def arguments(self) -> list[str]:
        """Return the options of `shitu serve`."""
        numbers = {"--workers": self.workers, "--instances": self.instances, "--threads": self.threads}
        named = {"--detector": self.detector, "--encoder": self.encoder}
        repository = {} if self.model_repository is None else {"--model-repository": self.model_repository}
        return [word for name, value in {**numbers, **named, **repository}.items() for word in (name, str(value))]

    def described(self) -> dict[str, object]:
        """Return what of it belongs to results."""
        return {
            "workers": self.workers,
            "instances": self.instances,
            "threads": self.threads,
            "detector": self.detector,
            "encoder": self.encoder,
            "environment": dict(self.environment),
        }


class BenchServer:
    """Serves while entered. The kernel ends the server with the thread that entered it, whatever that dies of."""

    def __init__(self, options: ServerOptions | None = None) -> None:
        self.options = options or ServerOptions()
        self.start_s = 0.0
        """From the start of the process until all gateways served."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="shitu-bench-"))
            self._start(Path(folder))
            stack.callback(self._stop)
            self._wait_until_serving()
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    @property
    def address(self) -> str:
        """host:port of the gateways."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def processes(self) -> ServerProcesses:
        """What runs."""
        return ServerProcesses(self._process.pid)

    @property
    def log(self) -> str:
        """The end of what the server said."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")[-_LOG_CHARACTERS:]

    def _start(self, folder: Path) -> None:
        self._log_path = folder / "server.log"
        with reserved_port(LOOPBACK, 0) as port:
            self.port = port
        serve = [sys.executable, "-m", "shitu_client", "serve", "--host", LOOPBACK, "--port", str(port)]
        command = [*serve, "--data-dir", str(folder / "data"), *self.options.arguments()]
        self._begin_s = time.monotonic()
        with self._log_path.open("wb") as log:
            # A session of its own: Ctrl-C is ours, and what is measured is stopped in order.
            self._process = subprocess.Popen(
                bound_command(*command),
                env={**environment_without_settings(), **self.options.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_serving(self) -> None:
        end_s = self._begin_s + self.options.start_timeout_s
        while not (is_serving(LOOPBACK, self.port) and self._all_listen()):
            if self._process.poll() is not None:
                raise BenchError(f"the server ended with status {self._process.returncode}:\n{self.log}")
            if time.monotonic() > end_s:
                raise BenchError(f"the server did not serve within {self.options.start_timeout_s:g} s:\n{self.log}")
            time.sleep(_POLL_S)
        self.start_s = time.monotonic() - self._begin_s

    def _all_listen(self) -> bool:
        try:
            gateways = [of[0] for part, of in self.processes.parts().items() if part.startswith("gateway")]
            return sum(listens(gateway, self.port) for gateway in gateways) == self.options.workers
        except psutil.Error:  # one was started again
            return False

    def _stop(self) -> None:
        try:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # what it started ends with it
            self._process.wait()
