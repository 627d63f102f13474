"""When requests are due."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def poisson_arrivals(rate_per_s: float, duration_s: float, seed: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the times of Poisson arrivals from 0 on, ascending: float64 [n], seconds, all before `duration_s`."""
    rng = np.random.default_rng(seed)
    expected = rate_per_s * duration_s
    times = np.zeros(0)
    # One draw nearly always reaches the end: six standard deviations of a Poisson number lie beyond what is expected.
    while not len(times) or times[-1] < duration_s:
        gaps = rng.exponential(1 / rate_per_s, int(expected + 6 * expected**0.5) + 16)
        start = times[-1] if len(times) else 0.0
        times = np.concatenate([times, start + np.cumsum(gaps)])
    return times[times < duration_s]
