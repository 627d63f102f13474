"""What figures were measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

_KINDS: Final = {"cpu family": "family", "model": "model"}
_VECTORS: Final = {"avx512f": "AVX-512", "avx2": "AVX2"}
"""Flags of processors, the widest first."""


def described() -> dict[str, Any]:
    """Return processor, cores and system."""
    return {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()}


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of packages, and of Python and SQLite."""
    return {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version} | {p: version(p) for p in packages}


def processor() -> str:
    """Return the name of the processor, with what tells apart those that hosts call by one name ("AMD EPYC").

    That is the family and model, and the widest vectors, on which the speed of a matrix product depends.
    """
    return processor_in(Path("/proc/cpuinfo").read_text(encoding="utf-8")) or platform.processor()


def processor_in(cpuinfo: str) -> str:
    """Return the first processor of /proc/cpuinfo; an empty word where it has no name."""
    first = dict(_facts(cpuinfo.split("\n\n", 1)[0]))
    facts = [first.get("model name", "")]
    facts += [f"{fact} {first[key]}" for key, fact in _KINDS.items() if key in first]
    flags = first.get("flags", "").split()
    facts += [name for flag, name in _VECTORS.items() if flag in flags][:1]
    return ", ".join(facts) if facts[0] else ""


def _facts(lines: str) -> Iterator[tuple[str, str]]:
    for line in lines.splitlines():
        key, _, value = line.partition(":")
        yield key.strip(), value.strip()
