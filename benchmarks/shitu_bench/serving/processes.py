"""The processes of a server by the part they are: CPU time, memory, descriptors, shared memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from shitu_bench.errors import BenchError

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  where Linux keeps POSIX shared memory
_RUN_VARIABLE: Final = "SHITU_RUN_ID"
_TRITON_VARIABLE: Final = "SHITU_TRITON_ADDRESS"
_STUB: Final = "triton_python_backend_stub"
_ROLES: Final = ("gateway", "gallery")

Parts = Mapping[str, list[psutil.Process]]
"""By part: `supervisor`, `gateway 0`.., `gallery`, `triton`, `stub <model>`; of a model's instances all together."""


@dataclass(frozen=True)
class PartUse:
    """What one part holds at a moment."""

    rss_bytes: int
    """Resident pages, those that are shared with others counted in full."""
    uss_bytes: int
    """Pages that nobody shares."""
    pss_bytes: int
    """Resident pages, of shared ones a fair part."""
    descriptor_count: int
    thread_count: int


@dataclass(frozen=True)
class SharedMemoryUse:
    """What the server's runs hold in /dev/shm."""

    file_count: int
    size_bytes: int


class ServerProcesses:
    """A `shitu serve` on this host and all that it started."""

    def __init__(self, supervisor_pid: int) -> None:
        self._supervisor = psutil.Process(supervisor_pid)

    @classmethod
    def listening_on(cls, port: int) -> ServerProcesses | None:
        """Return the server whose gateways listen on a port of this host; None where there is none that we may look at."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if _role_of(process) == "gateway" and listens(process, port):
                    parent = process.parent()
                    return cls(process.pid if parent is None or "serve" not in parent.cmdline() else parent.pid)
        return None

    def parts(self) -> Parts:
        """Return the processes that live now.

        Raises:
            BenchError: the server is gone.
        """
        try:
            processes = [self._supervisor, *self._supervisor.children(recursive=True)]
        except psutil.NoSuchProcess as error:
            raise BenchError("the server is gone; its log says why") from error
        named: dict[str, list[psutil.Process]] = {}
        gateways = 0
        for process in sorted(processes, key=lambda one: one.pid):
            part = "supervisor" if process == self._supervisor else _part_of(process)
            if part == "gateway":
                part, gateways = f"gateway {gateways}", gateways + 1
            if part:
                named.setdefault(part, []).append(process)
        return named

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU time of each part since it started, user and system."""
        return {part: sum(map(_cpu_s, processes)) for part, processes in self.parts().items()}

    def use(self) -> dict[str, PartUse]:
        """Return what each part holds."""
        return {
            part: _added([use for one in processes if (use := _use(one))]) for part, processes in self.parts().items()
        }

    def shared_memory(self) -> SharedMemoryUse:
        """Return what all runs of this server hold in /dev/shm."""
        runs = set(self._variables(_RUN_VARIABLE))
        sizes = []
        for run in runs:
            for path in _SHARED_MEMORY.glob(f"shitu-{run}-*"):
                with suppress(FileNotFoundError):
                    sizes.append(path.stat().st_size)
        return SharedMemoryUse(len(sizes), sum(sizes))

    def triton_address(self) -> str:
        """Return where Triton's gRPC is, as the gateways know it.

        Raises:
            BenchError: there is no gateway.
        """
        for address in self._variables(_TRITON_VARIABLE):
            return address
        raise BenchError("no gateway of the server runs, so it is not known where its Triton is")

    def _variables(self, name: str) -> list[str]:
        found = []
        for processes in self.parts().values():
            for process in processes:
                with suppress(psutil.Error):
                    found.append(process.environ().get(name, ""))
        return [value for value in found if value]


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what each part added; one that was started again meanwhile began at 0."""
    return {
        part: value - before.get(part, 0.0) if value >= before.get(part, 0.0) else value
        for part, value in after.items()
    }


def listens(process: psutil.Process, port: int) -> bool:
    """Return whether a process listens on a TCP port."""
    connections = process.net_connections("tcp")
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


def _part_of(process: psutil.Process) -> str:
    """Return the part; an empty word where the process is none, or is gone."""
    try:
        line = process.cmdline()
    except psutil.Error:
        return ""
    if not line:
        return ""
    if Path(line[0]).name == _STUB:
        # <repository>/<model>/<version>/model.py, or another file of that version
        return f"stub {Path(line[1]).parts[-3]}"
    if Path(line[0]).name == "tritonserver":
        return "triton"
    return _role_in(line)


def _role_of(process: psutil.Process) -> str:
    return _role_in(process.cmdline())


def _role_in(line: list[str]) -> str:
    """Return the role of `python -m shitu_server <role>`; the launcher, which comes before it, has none."""
    if line[1:3] == ["-m", "shitu_server"] and len(line) > 3 and line[3] in _ROLES:  # noqa: PLR2004
        return line[3]
    return ""


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _use(process: psutil.Process) -> PartUse | None:
    with suppress(psutil.Error):
        memory = process.memory_full_info()
        return PartUse(memory.rss, memory.uss, memory.pss, process.num_fds(), process.num_threads())
    return None


def _added(uses: list[PartUse]) -> PartUse:
    def total(of: Callable[[PartUse], int]) -> int:
        return sum(map(of, uses))

    return PartUse(
        total(lambda use: use.rss_bytes),
        total(lambda use: use.uss_bytes),
        total(lambda use: use.pss_bytes),
        total(lambda use: use.descriptor_count),
        total(lambda use: use.thread_count),
    )
