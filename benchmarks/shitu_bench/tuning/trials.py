"""Settings for the machine at hand: one after the other is varied, and what answers most requests a second is kept.

Each candidate is a server of its own, which takes the same load in a closed loop. Servers of a machine differ by a few percent from
one moment to the next; so the best one meets the default in the end, in turns on the same machine, and is only called better where
it is in nearly all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

import psutil
from rich.console import Console

from shitu_bench.errors import BenchError
from shitu_bench.load.live import named
from shitu_bench.load.measurements import Measurement, available_cores
from shitu_bench.load.plans import LoadPlan
from shitu_bench.load.runs import PACKAGES, watched
from shitu_bench.load.targets import started_target
from shitu_bench.records import record
from shitu_bench.serving.server import ServerOptions
from shitu_bench.serving.workload import WorkloadOptions
from shitu_bench.summaries import spread_of
from shitu_models.triton_config import Accelerator

DELAY: Final = "SHITU_MAX_QUEUE_DELAY_US"
ACCELERATOR: Final = "SHITU_ACCELERATOR"
_DELAYS_US: Final = (0, 1000, 2000)
_MOST_WORKERS: Final = 8
_MOST_INSTANCES: Final = 8
_MEMORY_SHARE: Final = 0.7
"""Of what is free, that all instances may take together."""


@dataclass(frozen=True)
class TuningOptions:
    """How long and how often."""

    plan: LoadPlan
    """Of every run."""
    pairs: int = 7
    """Of runs of the best candidate and of the default, in turns."""


@dataclass(frozen=True)
class Trial:
    """A candidate and what it did."""

    server: ServerOptions
    measurement: Measurement
    models_bytes: int
    """Memory of all instances of all models."""

    @property
    def rate_per_s(self) -> float:
        """OK answers a second."""
        return self.measurement.outcome.rate_per_s

    def described(self) -> dict[str, Any]:
        """Return it as it is kept in results."""
        return {
            "settings": settings_of(self.server),
            "rate_per_s": round(self.rate_per_s, 3),
            "p50_ms": round(self.measurement.latency_ms("p50"), 3),
            "p99_ms": round(self.measurement.latency_ms("p99"), 3),
            "cpu_ms_per_answer": self.measurement.cpu_ms_per_answer(),
        }


@dataclass(frozen=True)
class Tuning:
    """What was tried, and what is best."""

    trials: tuple[Trial, ...]
    """The default first."""
    best: ServerOptions
    ratios: tuple[float, ...]
    """Of the best to the default, pair by pair; none where the default is the best."""

    @property
    def chosen(self) -> ServerOptions:
        """The best where it is better in at least three quarters of the pairs, else the default."""
        if self.ratios and spread_of(self.ratios)["low"] > 1:
            return self.best
        return self.trials[0].server

    @staticmethod
    def delay(server: ServerOptions) -> str:
        """Return how long Triton holds requests back, for people."""
        return f"{server.environment[DELAY]} us" if DELAY in server.environment else "default"

    def results(self, seed: int) -> dict[str, Any]:
        """Return it as results."""
        figures = {
            "trials": [trial.described() for trial in self.trials],
            "best": settings_of(self.best),
            "best_by_default": spread_of(self.ratios) if self.ratios else {},
            "chosen": settings_of(self.chosen),
        }
        return record(figures, seed=seed, packages=PACKAGES)


def tuned(server: ServerOptions, workload: WorkloadOptions, options: TuningOptions, console: Console) -> Tuning:
    """Try settings on this machine, beginning with those of `server`. Raises BenchError."""
    trials = [_tried(server, workload, options.plan, console)]
    best = trials[0]
    for vary in (_instances, _workers, _delays):
        for candidate in vary(best.server, trials[0]):
            trial = _tried(candidate, workload, options.plan, console)
            trials.append(trial)
            best = max(best, trial, key=lambda one: one.rate_per_s)
    ratios = () if best is trials[0] else _compared(best.server, server, workload, options, console)
    return Tuning(tuple(trials), best.server, ratios)


def settings_of(server: ServerOptions) -> dict[str, str]:
    """Return the variables of `shitu serve` that say it."""
    return {
        "SHITU_WORKERS": str(server.workers),
        "SHITU_INSTANCES": str(server.instances),
        "SHITU_THREADS": str(server.threads),
        **server.environment,
    }


def _tried(server: ServerOptions, workload: WorkloadOptions, plan: LoadPlan, console: Console) -> Trial:
    with started_target(server, workload, console) as target:
        measurement = watched(target, plan, console, _shown(server))
        assert target.processes is not None
        used = target.processes.use()
    models_bytes = sum(use.pss_bytes for part, use in used.items() if part.startswith("stub"))
    return Trial(server, measurement, models_bytes)


def _compared(
    best: ServerOptions, default: ServerOptions, workload: WorkloadOptions, options: TuningOptions, console: Console
) -> tuple[float, ...]:
    """Load both in turns, while the other one stands by."""
    with ExitStack() as stack:
        targets = [stack.enter_context(started_target(server, workload, console)) for server in (best, default)]
        ratios = []
        for pair in range(options.pairs):
            order = (0, 1) if pair % 2 else (1, 0)
            rates = {}
            for which in order:
                title = f"pair {pair + 1} of {options.pairs}, {named(options.plan)}"
                rates[which] = watched(targets[which], options.plan, console, title).outcome.rate_per_s
            if not rates[1]:
                raise BenchError(f"the default answered nothing in {title}; give it longer with --duration")
            ratios.append(rates[0] / rates[1])
    return tuple(ratios)


def _instances(server: ServerOptions, first: Trial) -> Iterator[ServerOptions]:
    """More instances of fewer threads each, as far as the processors and the memory go."""
    cores, count = available_cores(), 2 * server.instances
    while count <= min(cores, _MOST_INSTANCES) and _fits(count, first):
        yield replace(server, instances=count, threads=max(1, cores // count))
        count *= 2


def _fits(count: int, first: Trial) -> bool:
    """Return whether so many instances fit into memory, as large as those of the first trial were."""
    return count * first.models_bytes <= _MEMORY_SHARE * psutil.virtual_memory().available


def _workers(server: ServerOptions, _first: Trial) -> Iterator[ServerOptions]:
    count = 2 * server.workers
    while count <= min(available_cores(), _MOST_WORKERS):
        yield replace(server, workers=count)
        count *= 2


def _delays(server: ServerOptions, _first: Trial) -> Iterator[ServerOptions]:
    """Others than it has, given or by default."""
    accelerator = Accelerator(server.environment.get(ACCELERATOR, Accelerator.NONE.value))
    own_us = int(server.environment.get(DELAY, accelerator.queue_delay_us))
    for delay_us in _DELAYS_US:
        if delay_us != own_us:
            yield replace(server, environment={**server.environment, DELAY: str(delay_us)})


def _shown(server: ServerOptions) -> str:
    threads = server.threads or "all"
    return f"{server.workers} workers, {server.instances} instances of {threads} threads, delay {Tuning.delay(server)}"
