"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")


def processor_count() -> int:
    """Return the number of processors that this process may use: by its affinity, and by its cgroup's share of time."""
    allowed = len(os.sched_getaffinity(0))
    granted = cgroup_processors(_CGROUPS, _OWN_CGROUP)
    return allowed if granted >= allowed else max(1, math.ceil(granted))


def cgroup_processors(root: Path, own: Path) -> float:
    """Return how many processors' time a cgroup and those above it grant; infinity where nothing limits it.

    Args:
        root: where the cgroups are mounted; version 2, or the `cpu` controller of version 1 in it.
        own: a process' `cgroup` file (proc_pid_cgroup(5)).
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return math.inf
    limits = [math.inf]
    for _, controllers, path in lines:
        if controllers == "":
            limits += [_granted_v2(folder) for folder in _upwards(root, path)]
        elif "cpu" in controllers.split(","):
            limits += [_granted_v1(folder) for folder in _upwards(root / "cpu", path)]
    return min(limits)


def _upwards(root: Path, path: str) -> list[Path]:
    # In a container the path may be the host's, which is not mounted here: the root is then the container's own group.
    folder = root / path.lstrip("/")
    return [root, *(one for one in (folder, *folder.parents) if root in one.parents)]


def _granted_v2(folder: Path) -> float:
    quota, period = (_words(folder / "cpu.max") or ["max", "1"])[:2]
    return math.inf if quota == "max" else int(quota) / int(period)


def _granted_v1(folder: Path) -> float:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else math.inf


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []
