"""What queueing theory says of a server: the times that requests take where they arrive by chance and each needs the same work.

M/D/c: Poisson arrivals, one queue, c servers, each request D seconds of one of them, first come first served. There is no simple
formula for its quantiles, so customers are simulated: with one service time and one queue the n-th leaves after the (n-c)-th, which
makes the waiting time a recursion of each c-th customer with the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_bench.errors import BenchError

_CUSTOMERS: Final = 2_000_000
_MOST_UTILISATION: Final = 0.99
"""Nearer to 1 so many customers say little of the mean."""
_WARM_UP_SHARE: Final = 0.05
"""Of customers, who come while the queue is still shorter than it will be."""


@dataclass(frozen=True)
class QueuePrediction:
    """Times from arrival to departure."""

    utilisation: float
    """Share of time that a server is busy."""
    mean_s: float
    p50_s: float
    p99_s: float


def most_arrivals_per_s(service_s: float, servers: int) -> float:
    """Return at which rate times can still be predicted: a little less than all that the servers can do."""
    return _MOST_UTILISATION * servers / service_s


def predicted(arrivals_per_s: float, service_s: float, servers: int, seed: int) -> QueuePrediction:
    """Return what M/D/c predicts.

    Args:
        arrivals_per_s: mean rate of the Poisson arrivals.
        service_s: D, of one request on one server.
        servers: c.
        seed: of the simulation.

    Raises:
        BenchError: more arrives than the servers can do, or all but that.
    """
    utilisation = arrivals_per_s * service_s / servers
    if not (utilisation > 0 and arrivals_per_s <= most_arrivals_per_s(service_s, servers)):
        raise BenchError(
            f"expected a utilisation over 0 and at most {_MOST_UTILISATION}, got {utilisation:.3f} of {servers} servers"
        )
    times_s = waiting_times(arrivals_per_s, service_s, servers, seed) + service_s
    return QueuePrediction(
        utilisation, float(times_s.mean()), float(np.quantile(times_s, 0.5)), float(np.quantile(times_s, 0.99))
    )


def waiting_times(arrivals_per_s: float, service_s: float, servers: int, seed: int) -> NDArray[np.float64]:
    """Return the times that customers wait before they are served: float64 [about 2e6], seconds, in the order of arrival."""
    rng = np.random.default_rng(seed)
    count = _CUSTOMERS // servers * servers
    arrivals_s = np.cumsum(rng.exponential(1 / arrivals_per_s, count))
    # One column for each server: with one service time they take customers in turn. Customer n starts when he is there and customer
    # n - c has left: start[n] = max(arrival[n], start[n - c] + D). Less n * D that is a running maximum.
    columns = arrivals_s.reshape(-1, servers)
    offsets_s = service_s * np.arange(len(columns))[:, None]
    starts_s: NDArray[np.float64] = np.maximum.accumulate(columns - offsets_s, axis=0) + offsets_s
    waits_s: NDArray[np.float64] = (starts_s - columns).reshape(-1)
    return waits_s[int(_WARM_UP_SHARE * count) :]
