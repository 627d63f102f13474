"""What figures were measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path
from typing import Any


def described() -> dict[str, Any]:
    """Return processor, cores and system."""
    return {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()}


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of packages, and of Python and SQLite."""
    return {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version} | {p: version(p) for p in packages}


def processor() -> str:
    """Return the name of the processor."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
