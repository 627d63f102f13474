"""Many measurements in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
_QUARTILES: Final = (0.25, 0.5, 0.75)


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p99, p99.9 and the largest; nothing of nothing."""
    if not len(values):
        return {}
    array = np.asarray(values, dtype=np.float64)
    return {name: float(np.quantile(array, share)) for name, share in QUANTILES.items()} | {"max": float(array.max())}


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Return the median of repeated measurements, and as their noise the quartiles (linear between values) and how many there were."""
    low, median, high = (float(value) for value in np.quantile(np.asarray(values, dtype=np.float64), _QUARTILES))
    return {"median": median, "low": low, "high": high, "count": len(values)}


def range_of(values: Sequence[float]) -> dict[str, float]:
    """Return the median of measurements too few for quartiles, and as their noise the least, the largest and how many there were."""
    return {
        "median": float(np.median(values)),
        "low": float(min(values)),
        "high": float(max(values)),
        "count": len(values),
    }


def shown(spread: Mapping[str, float] | None, digits: int) -> str:
    """Return a spread for people: the median, and its noise in brackets; a dash where nothing was measured."""
    if spread is None:
        return "-"
    return f"{spread['median']:.{digits}f} ({spread['low']:.{digits}f}-{spread['high']:.{digits}f})"
