"""Rivals under the same load in turns, so that all see the same machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, Protocol

from shitu_bench.load.measurements import available_cores, rounded
from shitu_bench.load.plans import Progress
from shitu_bench.peers.agreement import Finding
from shitu_bench.summaries import quantiles, spread_of

FEWEST_ROUNDS: Final = 2
"""Fewer have no quartiles."""
_LEAST_WARM_UP_S: Final = 2.0
_LONGER_AT_MOST: Final = 4.0
_WARM_UP_TURNS: Final = 1.3
"""Times in which all callers are answered once: from then on as many wait as in any later moment."""


@dataclass(frozen=True)
class SlicePlan:
    """How long a rival is under load, and under which."""

    duration_s: float
    warm_up_s: float = _LEAST_WARM_UP_S
    concurrency: int = 16
    least_requests: int = 30
    """A rival that is slow gets up to four times the duration for as many."""
    deadline_s: float = 240.0


@dataclass(frozen=True)
class Slice:
    """What came of it, of the time that counts."""

    duration_s: float
    codes: Mapping[str, int]
    """Answers by code."""
    latencies_ms: Sequence[float]
    """Of answers without error."""
    object_count: int
    """In those."""
    cpu_s: float
    """Of the rival's processes."""
    client_cpu_s: float
    """Of the callers."""
    memory_bytes: int
    """Of the rival's processes, at the end."""
    idle_cpu_share: float = 0.0
    """What the other rivals took meanwhile, of all processors."""

    @property
    def rate_per_s(self) -> float:
        """Answers without error."""
        return len(self.latencies_ms) / self.duration_s


class Rival(Protocol):
    """A server that recognises the chosen pictures."""

    def findings(self) -> list[list[Finding]]:
        """Return what it finds on each picture."""

    def measured(self, plan: SlicePlan, progress: Progress) -> Slice:
        """Put it under load."""

    def cpu_s(self) -> float:
        """Return the CPU time of its processes since they started."""


Told = Callable[[str, SlicePlan], Progress]
"""Is told which rival comes next, and how; returns whom to tell of the progress."""


def measured_rounds(
    rivals: Mapping[str, Rival], plan: SlicePlan, rounds: int, end_s: float, told: Told
) -> dict[str, list[Slice]]:
    """Return slices of each rival, as many as there were rounds.

    Args:
        rivals: by name; every second round goes through them backwards.
        plan: of a slice; the warm-up is prolonged for rivals that are slow.
        rounds: at most.
        end_s: time.monotonic() after which no further round begins, save the first two.
        told: knows how far it is.
    """
    turns_s = {name: _turn_s(_measured(rivals, name, _first(plan), told)) for name in rivals}
    slices: dict[str, list[Slice]] = {name: [] for name in rivals}
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and time.monotonic() > end_s:
            break
        for name in list(rivals) if number % 2 == 0 else reversed(list(rivals)):
            slices[name].append(_measured(rivals, name, _fitted(plan, turns_s[name]), told))
    return slices


def _first(plan: SlicePlan) -> SlicePlan:
    """Return a short slice that counts from its first request: it tells how long a turn of all callers takes."""
    return replace(plan, duration_s=plan.duration_s / 3, warm_up_s=0.0)


def _fitted(plan: SlicePlan, turn_s: float) -> SlicePlan:
    """Return a plan for a rival that needs so long to answer all callers once."""
    wished_s = plan.least_requests * turn_s / plan.concurrency
    duration_s = min(max(plan.duration_s, wished_s), _LONGER_AT_MOST * plan.duration_s)
    return replace(plan, duration_s=duration_s, warm_up_s=max(plan.warm_up_s, _WARM_UP_TURNS * turn_s))


def _turn_s(first: Slice) -> float:
    return max(first.latencies_ms, default=0.0) / 1000


def _measured(rivals: Mapping[str, Rival], name: str, plan: SlicePlan, told: Told) -> Slice:
    others = [rival for other, rival in rivals.items() if other != name]
    begin_s, before_s = time.monotonic(), sum(rival.cpu_s() for rival in others)
    one = rivals[name].measured(plan, told(name, plan))
    spent_s = sum(rival.cpu_s() for rival in others) - before_s
    return replace(one, idle_cpu_share=spent_s / ((time.monotonic() - begin_s) * available_cores()))


def summary_of(slices: Sequence[Slice]) -> dict[str, Any]:
    """Return a rival's figures over all its slices."""
    latencies_ms = list(chain.from_iterable(one.latencies_ms for one in slices))
    count = max(len(latencies_ms), 1)
    span_s = sum(one.duration_s for one in slices)
    return {
        "rate_per_s": rounded(spread_of([one.rate_per_s for one in slices])),
        "latency_ms": rounded(quantiles(latencies_ms)),
        "latency_count": len(latencies_ms),
        "cpu_s_per_picture": round(sum(one.cpu_s for one in slices) / count, 4),
        "cpu_share": round(sum(one.cpu_s for one in slices) / (span_s * available_cores()), 3),
        "client_cpu_share": round(sum(one.client_cpu_s for one in slices) / (span_s * available_cores()), 4),
        "idle_rivals_cpu_share": round(max(one.idle_cpu_share for one in slices), 4),
        "objects_per_picture": round(sum(one.object_count for one in slices) / count, 3),
        "memory_bytes": max(one.memory_bytes for one in slices),
        "codes": dict(sum((Counter(one.codes) for one in slices), Counter[str]())),
        "slices": [_described(one) for one in slices],
    }


def factors_of(ours: Sequence[Slice], theirs: Sequence[Slice]) -> dict[str, dict[str, float]]:
    """Return by how much we are faster, over the pairs of slices: throughput, and latencies at two quantiles."""
    pairs = [pair for pair in zip(ours, theirs, strict=True) if all(one.latencies_ms for one in pair)]
    if len(pairs) < FEWEST_ROUNDS:
        return {}
    factors = {"throughput": [our.rate_per_s / their.rate_per_s for our, their in pairs]}
    for name in ("p50", "p99"):
        factors[name] = [
            quantiles(their.latencies_ms)[name] / quantiles(our.latencies_ms)[name] for our, their in pairs
        ]
    return {name: rounded(spread_of(values)) for name, values in factors.items()}


def _described(one: Slice) -> dict[str, Any]:
    latencies = rounded(quantiles(one.latencies_ms))
    return {
        "duration_s": round(one.duration_s, 2),
        "rate_per_s": round(one.rate_per_s, 3),
        **{f"{name}_ms": latencies.get(name) for name in ("p50", "p99")},
        "cpu_s": round(one.cpu_s, 2),
    }
