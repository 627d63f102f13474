"""Processes that may use a part of one processor's time, as a container with a limit may."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import psutil

from shitu_bench.errors import BenchError

_CONTROLLER: Final = Path("/sys/fs/cgroup/cpu")
"""Of cgroups of version 1, where groups can be made in any group (cgroups(7))."""
_PERIOD_US: Final = 10_000
"""A tenth of the kernel's own: the wait for the next one would be most of a request's time."""
_LEAST_PROCESSORS: Final = 0.1
"""The kernel gives no less than 1000 us of a period."""


@contextmanager
def limited(groups: Sequence[Sequence[psutil.Process]], processors: float) -> Iterator[None]:
    """Let each group of processes use so many processors' time while the body runs.

    Args:
        groups: that live as long as the body.
        processors: of each group, e.g. 0.5; at least 0.1.

    Raises:
        BenchError: it is too little, or this user cannot make cgroups here.
    """
    if processors < _LEAST_PROCESSORS:
        raise BenchError(f"expected a quota of at least {_LEAST_PROCESSORS:g} of a processor, got {processors:g}")
    with ExitStack() as stack:
        for processes in groups:
            stack.enter_context(_group(processes, processors))
        yield


@contextmanager
def _group(processes: Sequence[psutil.Process], processors: float) -> Iterator[None]:
    path = _CONTROLLER / f"shitu-bench-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        try:
            path.mkdir()
            stack.callback(path.rmdir)
            (path / "cpu.cfs_period_us").write_text(str(_PERIOD_US), encoding="ascii")
            (path / "cpu.cfs_quota_us").write_text(str(round(processors * _PERIOD_US)), encoding="ascii")
        except OSError as error:
            raise BenchError(
                f"a quota needs cgroups of version 1 that may be written, at {_CONTROLLER}: {error.strerror}; leave it out"
            ) from error
        stack.callback(_move, processes, _CONTROLLER)
        _move(processes, path)
        yield


def _move(processes: Sequence[psutil.Process], path: Path) -> None:
    for process in processes:
        if process.is_running():
            (path / "cgroup.procs").write_text(str(process.pid), encoding="ascii")
