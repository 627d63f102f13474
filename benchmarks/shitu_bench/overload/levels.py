"""A server under less and more than it can do: the peak by callers that wait, then Poisson arrivals at multiples of it.

A machine is not equally fast all the time, so that this is done in several rounds: each has a peak of its own, and every second goes
through the levels from the top.

What refusals cost is measured on a second server, which admits one picture at a time: the load of the highest level is sent there,
nearly all of it is refused, and what the few answers cost is taken off: as much as those of one caller, since they, too, share no calls.
A regression over the levels would call it a cost of refusals when answers become dearer under load.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from rich.console import Console

from shitu_bench.load.measurements import Measurement, Target, answered
from shitu_bench.load.plans import LoadPlan
from shitu_bench.load.runs import PACKAGES, watched
from shitu_bench.load.targets import started_target
from shitu_bench.overload.figures import (
    QUEUE_FACTOR,
    Expiry,
    Level,
    Round,
    expiry_figures,
    gateway_cpu_per_refusal_s,
    round_figures,
    servers_of,
    summary_figures,
)
from shitu_bench.records import record
from shitu_bench.serving.batches import Executions, added
from shitu_bench.serving.server import ServerOptions
from shitu_bench.serving.workload import WorkloadOptions

_EXPIRY_FACTOR: Final = 2.0
_REST_S: Final = 1.0
"""After a run, for what the models still run."""


@dataclass(frozen=True)
class OverloadOptions:
    """How long and how hard."""

    plan: LoadPlan
    """Of every run, save rate and concurrency; the concurrency is that of the peak."""
    rounds: int = 3
    factors: tuple[float, ...] = (0.5, QUEUE_FACTOR, 1.0, 2.0, 5.0)
    """Of the peak, ascending."""


@dataclass(frozen=True)
class Overload:
    """All that was measured."""

    unloaded: Measurement
    """One caller."""
    rounds: tuple[Round, ...]
    expiry: Expiry
    refusing: Measurement
    """Of the server that refuses nearly all."""


def overload_results(
    server: ServerOptions, workload: WorkloadOptions, options: OverloadOptions, console: Console
) -> dict[str, Any]:
    """Measure, and return it as results.

    Raises:
        BenchError: a server does not start, or not a single request was answered at the peak or before.
    """
    measured = _measured(server, workload, options, console)
    peaks = [one.peak for one in measured.rounds]
    refusal_s = gateway_cpu_per_refusal_s(measured.unloaded, measured.refusing)
    servers = servers_of(measured.unloaded, peaks)
    rounds = [round_figures(one, measured.unloaded, refusal_s, servers, workload.seed) for one in measured.rounds]
    figures = {
        "server": server.described(),
        "workload": workload.described(),
        "unloaded": measured.unloaded.described(),
        "gateway_cpu_ms_per_refusal": round(1000 * refusal_s, 4),
        "summary": summary_figures(rounds),
        "rounds": rounds,
        "expiry": expiry_figures(measured.expiry),
        "refusing": measured.refusing.described(),
    }
    return record(figures, seed=workload.seed, packages=PACKAGES)


def _measured(server: ServerOptions, workload: WorkloadOptions, options: OverloadOptions, console: Console) -> Overload:
    plan = options.plan
    with started_target(server, workload, console) as target:
        alone = replace(plan, concurrency=1, processes=1)
        unloaded = answered(watched(target, alone, console, "unloaded"), "of one caller")
        rounds = tuple(_round(target, options, number, console) for number in range(options.rounds))
        most_per_s = rounds[-1].peak.outcome.rate_per_s
        expiry = _expiry(target, server, _opened(plan, _EXPIRY_FACTOR * most_per_s), rounds[-1].levels, console)
    refusing = _refusing(server, workload, _opened(plan, max(options.factors) * most_per_s), console)
    return Overload(unloaded, rounds, expiry, refusing)


def _round(target: Target, options: OverloadOptions, number: int, console: Console) -> Round:
    plan, title = replace(options.plan, seed=options.plan.seed + number), f"round {number + 1} of {options.rounds}, "
    peak = answered(watched(target, plan, console, f"{title}peak"), "at the peak")
    factors = options.factors[::-1] if number % 2 else options.factors
    levels = [_level(target, plan, factor, peak.outcome.rate_per_s, console, title) for factor in factors]
    return Round(peak, tuple(sorted(levels, key=lambda level: level.factor)))


def _opened(plan: LoadPlan, rate_per_s: float) -> LoadPlan:
    return replace(plan, rate_per_s=rate_per_s)


def _level(target: Target, plan: LoadPlan, factor: float, peak_per_s: float, console: Console, title: str) -> Level:
    plan = _opened(plan, factor * peak_per_s)
    return Level(factor, watched(target, plan, console, f"{title}{factor:g} times the peak"))


def _expiry(
    target: Target, server: ServerOptions, plan: LoadPlan, levels: tuple[Level, ...], console: Console
) -> Expiry:
    """Send twice the peak with the median latency of that level as the deadline: much of what is admitted expires."""
    nearest = min(levels, key=lambda level: abs(level.factor - _EXPIRY_FACTOR))
    deadline_s = nearest.measurement.latency_ms("p50") / 1000
    if not 0 < deadline_s < plan.deadline_s:  # nothing was answered there
        deadline_s = plan.deadline_s / 2
    before = target.executions()
    # All of it counts, since what the models run is counted from begin to end.
    measurement = watched(target, replace(plan, warm_up_s=0.0, deadline_s=deadline_s), console, "short deadline")
    time.sleep(_REST_S)
    ran = added(before, target.executions())
    return Expiry(measurement, _items(ran, server.detector), _items(ran, server.encoder))


def _items(ran: Mapping[str, Executions], model: str) -> int:
    return ran[model].item_count if model in ran else 0


def _refusing(server: ServerOptions, workload: WorkloadOptions, plan: LoadPlan, console: Console) -> Measurement:
    narrow = replace(server, environment={**server.environment, "SHITU_MAX_PICTURES_IN_FLIGHT": "1"})
    with started_target(narrow, workload, console) as target:
        return watched(target, plan, console, "refusals alone")
