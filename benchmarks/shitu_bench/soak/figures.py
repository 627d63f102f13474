"""What samples of a long run say of growth: arithmetic alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from shitu_bench.serving.processes import PartUse, SharedMemoryUse

MOST_MEMORY_GROWTH_PERCENT: Final = 1.0
MOST_THREAD_GROWTH: Final = 4
"""Of the whole server: pools of threads grow to their size when so many are needed at once for the first time."""
LEAST_SAMPLES: Final = 8
"""Two for each quarter; of fewer, growth is noise."""
_MOST_KEPT: Final = 150
"""Samples in results."""


@dataclass(frozen=True)
class Sample:
    """A server at a moment."""

    elapsed_s: float
    """Since the load began that counts."""
    parts: Mapping[str, PartUse]
    shared_memory: SharedMemoryUse
    answered_count: int
    failed_count: int

    @property
    def pss_bytes(self) -> int:
        """Memory of the whole server, shared pages counted once."""
        return sum(part.pss_bytes for part in self.parts.values())

    @property
    def descriptor_count(self) -> int:
        """Open descriptors of the whole server."""
        return sum(part.descriptor_count for part in self.parts.values())

    @property
    def thread_count(self) -> int:
        """Threads of the whole server."""
        return sum(part.thread_count for part in self.parts.values())


def growth_figures(samples: Sequence[Sample], error_count: int) -> dict[str, Any]:
    """Return the verdict: medians of the first quarter against those of the last one, and a line through all between.

    Raises:
        ValueError: there are too few samples.
    """
    if len(samples) < LEAST_SAMPLES:
        raise ValueError(f"expected at least {LEAST_SAMPLES} samples, got {len(samples)}")
    memory = growth_percent(samples, lambda sample: sample.pss_bytes)
    descriptors = _difference(samples, lambda sample: sample.descriptor_count)
    threads = _difference(samples, lambda sample: sample.thread_count)
    files = _difference(samples, lambda sample: sample.shared_memory.file_count)
    shared_bytes = _difference(samples, lambda sample: sample.shared_memory.size_bytes)
    has_grown = memory >= MOST_MEMORY_GROWTH_PERCENT or threads > MOST_THREAD_GROWTH
    has_leaked = descriptors > 0 or files > 0 or shared_bytes > 0
    return {
        "sample_count": len(samples),
        "memory_growth_percent": memory,
        "memory_growth_fitted_percent": fitted_growth_percent(samples, lambda sample: sample.pss_bytes),
        "parts": _by_part(samples),
        "descriptor_growth": descriptors,
        "thread_growth": threads,
        "shared_memory_file_growth": files,
        "shared_memory_growth_bytes": shared_bytes,
        "error_count": error_count,
        "passed": not has_grown and not has_leaked and error_count == 0,
    }


def growth_percent(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    """Return by how much the median of the last quarter is over that of the first one."""
    first, last = _ends(samples, of)
    return round(100 * (last / first - 1), 3) if first else 0.0


def fitted_growth_percent(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    """Return the growth over the whole time of a least-squares line through what comes after the first quarter."""
    late = samples[len(samples) // 4 :]
    times_s = np.array([sample.elapsed_s for sample in late])
    slope, start = np.polyfit(times_s, np.array([of(sample) for sample in late], np.float64), 1)
    begin_s, end_s = samples[0].elapsed_s, samples[-1].elapsed_s
    level = start + slope * begin_s
    return round(float(100 * slope * (end_s - begin_s) / level), 3) if level else 0.0


def kept_samples(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return the samples as they are kept in results: evenly fewer where they are many, always the last one."""
    step = -(-len(samples) // _MOST_KEPT)
    chosen = samples[::-step][::-1]
    return [
        {
            "elapsed_s": round(sample.elapsed_s, 1),
            "parts": {part: asdict(use) for part, use in sample.parts.items()},
            "shared_memory": asdict(sample.shared_memory),
            "answered_count": sample.answered_count,
            "failed_count": sample.failed_count,
        }
        for sample in chosen
    ]


def _by_part(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return what each part holds for itself at both ends; one that ended or was not there yet holds nothing."""
    parts = dict.fromkeys(part for sample in reversed(samples) for part in sample.parts)  # one that ended, too

    def held_by(part: str, name: str) -> Callable[[Sample], float]:
        return lambda sample: float(getattr(sample.parts[part], name)) if part in sample.parts else 0.0

    def ends(part: str, name: str) -> dict[str, float]:
        first, last = _ends(samples, held_by(part, name))
        return {"first": first, "last": last}

    return {
        part: {
            "memory_growth_percent": growth_percent(samples, held_by(part, "uss_bytes")),
            **{name: ends(part, name) for name in ("uss_bytes", "descriptor_count", "thread_count")},
        }
        for part in parts
    }


def _difference(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    first, last = _ends(samples, of)
    return last - first


def _ends(samples: Sequence[Sample], of: Callable[[Sample], float]) -> tuple[float, float]:
    """Return the medians of the first and of the last quarter."""
    count = len(samples) // 4
    first, last = (float(np.median([of(sample) for sample in part])) for part in (samples[:count], samples[-count:]))
    return first, last
