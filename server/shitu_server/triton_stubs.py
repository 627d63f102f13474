"""The processes in which Triton runs models of the Python backend: one for each instance."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil


def find_stubs(server_pid: int, repository: Path, models: Iterable[str]) -> dict[str, list[psutil.Process]]:
    """Return the processes of each model, by the model file on their command line.

    Raises:
        psutil.Error: the server is gone.
    """
    stubs: dict[str, list[psutil.Process]] = {model: [] for model in models}
    for process in psutil.Process(server_pid).children():
        model = _model_of(process, repository)
        if model in stubs:
            stubs[model].append(process)
    return stubs


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; a dead one that nobody has reaped does not."""
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
