"""What must be in the environment of a process that searches, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

BASE_ENVIRONMENT: Final[dict[str, str]] = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Spinning OpenMP threads starve the others: exact search fell from 132 to 5-45 queries a second without this."""

AVX512_AMD_ENVIRONMENT: Final[dict[str, str]] = {"OPENBLAS_CORETYPE": "SkylakeX"}
"""OpenBLAS knows no AVX-512 on AMD and takes its AVX2 kernels; these are about 1.45 times as fast."""


def search_environment(thread_count: int, cpu_description: str | None = None) -> dict[str, str]:
    """Return variables for whoever starts the process: OpenMP and OpenBLAS read them when they are loaded.

    Args:
        thread_count: threads of one search, 1 or more.
        cpu_description: content of /proc/cpuinfo; read from there where None.
    """
    description = _read_cpu_description() if cpu_description is None else cpu_description
    variables = {**BASE_ENVIRONMENT, "OMP_NUM_THREADS": str(thread_count), "OPENBLAS_NUM_THREADS": str(thread_count)}
    # Named only where the processor has the instructions: these kernels end with SIGILL elsewhere.
    if "AuthenticAMD" in description and {"avx512f", "avx512bw", "avx512vl"} <= set(description.split()):
        variables |= AVX512_AMD_ENVIRONMENT
    return variables


def _read_cpu_description() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
