"""Throughput of one gateway worker and of several, on models that cost nothing: both servers run side by side and are loaded in turn."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from shitu_bench.errors import BenchError
from shitu_bench.load.live import live_bar
from shitu_bench.load.measurements import Measurement, Target, answered, available_cores, measured
from shitu_bench.load.plans import LoadPlan
from shitu_bench.load.runs import PACKAGES
from shitu_bench.load.targets import target_of
from shitu_bench.records import record
from shitu_bench.scaling.models import ZERO_DET, ZERO_REC, place_zero_models
from shitu_bench.scaling.processor_quota import limited
from shitu_bench.serving.processes import ServerProcesses
from shitu_bench.serving.server import BenchServer, ServerOptions
from shitu_bench.serving.workload import WorkloadOptions
from shitu_bench.summaries import spread_of


@dataclass(frozen=True)
class ScalingOptions:
    """How it is measured."""

    plan: LoadPlan
    """Of each run; closed loop."""
    workers: int = 2
    """Compared with one."""
    pairs: int = 7
    """Runs of each server."""
    pin: bool = False
    """Each gateway has one processor to itself; all else, the generator too, has those that are left, or all where none is."""
    quota: float = 0.0
    """Processors' time that each gateway may use, so that several gateways together leave enough for all else; 0 does not limit."""
    environment: tuple[tuple[str, str], ...] = ()
    """More SHITU_* variables of both servers."""


def scaling_results(workload: WorkloadOptions, options: ScalingOptions, console: Console) -> dict[str, Any]:
    """Measure, and return it as results.

    Raises:
        BenchError: a server does not start or answers nothing, or there are too few processors to pin to.
    """
    if options.pin and available_cores() < options.workers:
        raise BenchError(
            f"--pin needs a processor for each of {options.workers} workers, there are {available_cores()}"
        )
    with _targets(workload, options, console) as targets:
        runs = _runs(targets, options, console)
    figures = {
        "workers": options.workers,
        "pinned": options.pin,
        "quota": options.quota,
        "pairs": options.pairs,
        "environment": dict(options.environment),
        "workload": workload.described(),
        "one": _side(runs[1]),
        "several": _side(runs[options.workers]),
        **_ratios(runs[1], runs[options.workers], options.workers),
    }
    return record(figures, seed=workload.seed, packages=PACKAGES)


Runs = dict[int, list[Measurement]]
"""By the number of workers, in the order in which they were made."""


@contextmanager
def _targets(workload: WorkloadOptions, options: ScalingOptions, console: Console) -> Iterator[dict[int, Target]]:
    with ExitStack() as stack:
        repository = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shitu-bench-")))
        place_zero_models(repository)
        targets = {}
        for workers in (1, options.workers):
            server = ServerOptions(
                workers,
                detector=ZERO_DET.name,
                encoder=ZERO_REC.name,
                model_repository=repository,
                environment=dict(options.environment),
            )
            with console.status(f"starting a server with {workers} worker(s)"):
                running = stack.enter_context(BenchServer(server))
            targets[workers] = target_of(running, workload, console)
        if options.pin:
            stack.enter_context(_pinned([target.processes for target in targets.values() if target.processes]))
        if options.quota:
            stack.enter_context(limited(_gateways(targets), options.quota))
        yield targets


def _gateways(targets: dict[int, Target]) -> list[list[psutil.Process]]:
    servers = [target.processes.parts() for target in targets.values() if target.processes is not None]
    return [processes for parts in servers for part, processes in parts.items() if part.startswith("gateway")]


def _runs(targets: dict[int, Target], options: ScalingOptions, console: Console) -> Runs:
    runs: Runs = {workers: [] for workers in targets}
    with live_bar(console) as bar:
        task = bar.add_task("pairs", total=options.pairs * len(targets), note="")
        for pair in range(options.pairs):
            for workers in sorted(targets, reverse=pair % 2 == 1):
                measurement = answered(measured(targets[workers], options.plan), f"with {workers} worker(s)")
                runs[workers].append(measurement)
                bar.update(task, advance=1, note=f"{workers} worker(s): {measurement.outcome.rate_per_s:.0f}/s")
    return runs


def _side(runs: list[Measurement]) -> dict[str, Any]:
    parts = sorted({part for one in runs for part in one.cpu_s})
    costs = {part: spread_of([one.cpu_ms_per_answer().get(part, 0.0) for one in runs]) for part in parts}
    client = [1000 * one.outcome.client_cpu_s / one.ok_count for one in runs]
    return {
        "rate_per_s": spread_of([one.outcome.rate_per_s for one in runs]),
        "cpu_ms_per_answer": costs | {"load generator": spread_of(client)},
        "cpu_share": spread_of([_used_share(one) for one in runs]),
        "p99_ms": spread_of([one.latency_ms("p99") for one in runs]),
        "codes": [dict(one.outcome.codes) for one in runs],
    }


def _used_share(run: Measurement) -> float:
    """Return what server and generator took of the processors' time; near 1 more workers cannot help on this machine."""
    return (sum(run.cpu_s.values()) + run.outcome.client_cpu_s) / (available_cores() * run.plan.duration_s)


def _ratios(one: list[Measurement], several: list[Measurement], workers: int) -> dict[str, Any]:
    """Return how many times as much several workers do, as measured, and if the gateways' CPU time were the limit."""
    pairs = list(zip(one, several, strict=True))
    return {
        "ratio": spread_of([more.outcome.rate_per_s / less.outcome.rate_per_s for less, more in pairs]),
        # Each worker on a processor of its own does 1 / (its CPU time for an answer).
        "ratio_by_gateway_cpu": spread_of(
            [workers * _gateway_cost(less) / _gateway_cost(more) for less, more in pairs]
        ),
    }


def _gateway_cost(run: Measurement) -> float:
    return run.gateway_cpu_s / run.ok_count


@contextmanager
def _pinned(servers: list[ServerProcesses]) -> Iterator[None]:
    """Give gateway n the n-th processor, and all else, with this process and what it starts, the rest."""
    cores = sorted(os.sched_getaffinity(0))
    most = max(sum(part.startswith("gateway") for part in server.parts()) for server in servers)
    rest = cores[most:] or cores
    for server in servers:
        for part, processes in server.parts().items():
            is_gateway = part.startswith("gateway")
            _pin(processes, [cores[int(part.split()[1])]] if is_gateway else rest)
    os.sched_setaffinity(0, rest)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _pin(processes: list[psutil.Process], cores: list[int]) -> None:
    for process in processes:
        for thread in process.threads():  # each has an affinity of its own
            os.sched_setaffinity(thread.id, cores)
