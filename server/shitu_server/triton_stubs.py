"""The processes in which Triton runs models of the Python backend: one for each instance of each version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

Stubs = Mapping[tuple[str, int], list[psutil.Process]]
"""By model and version."""


def find_stubs(server_pid: int, repository: Path) -> Stubs:
    """Return the processes of each version of each model, by the model file on their command line.

    Raises:
        psutil.Error: the server is gone.
    """
    stubs: dict[tuple[str, int], list[psutil.Process]] = {}
    for process in psutil.Process(server_pid).children():
        version = _version_of(process, repository)
        if version is not None:
            stubs.setdefault(version, []).append(process)
    return stubs


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; a dead one that nobody has reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _version_of(process: psutil.Process, repository: Path) -> tuple[str, int] | None:
    try:
        name, version = Path(process.cmdline()[1]).relative_to(repository).parts[:2]
        return name, int(version)
    except (psutil.NoSuchProcess, ValueError, IndexError):
        return None
