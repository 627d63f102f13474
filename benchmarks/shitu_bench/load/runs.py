"""Plans one after the other on one server, as results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console

from shitu_bench.errors import BenchError
from shitu_bench.load.live import followed_live, named
from shitu_bench.load.measurements import Measurement, Target, measured
from shitu_bench.load.plans import LoadPlan
from shitu_bench.load.tables import load_tables
from shitu_bench.load.targets import foreign_target, started_target
from shitu_bench.records import record
from shitu_bench.serving.server import ServerOptions
from shitu_bench.serving.workload import WorkloadOptions

PACKAGES: Final = ("grpcio", "numpy", "onnxruntime", "nvidia-pytriton")
"""Whose versions stand in the results of all measurements under load."""


def load_results(
    server: ServerOptions | str, workload: WorkloadOptions, plans: Sequence[LoadPlan], console: Console
) -> dict[str, Any]:
    """Run plans, print tables of what came of them, and return it as results.

    Args:
        server: to be started, or host:port of one that runs, whose gallery the workload names.
        workload: what is sent.
        plans: one after the other.
        console: for the progress.

    Raises:
        BenchError: nothing can be measured, or nothing was answered.
    """
    with _target(server, workload, console) as target:
        measurements = [watched(target, plan, console) for plan in plans]
    for table in load_tables(measurements):
        Console().print(table)
    if not any(one.outcome.rate_per_s for one in measurements):
        raise BenchError(f"not a single request was answered: {dict(measurements[0].outcome.codes)}")
    figures = {
        "server": server if isinstance(server, str) else server.described(),
        "workload": workload.described(),
        "runs": [one.described() for one in measurements],
    }
    return record(figures, seed=workload.seed, packages=PACKAGES)


def watched(target: Target, plan: LoadPlan, console: Console, title: str = "") -> Measurement:
    """Measure a plan, and show how far it is."""
    with followed_live(console, title or named(plan), plan.warm_up_s + plan.duration_s) as progress:
        return measured(target, plan, progress)


@contextmanager
def _target(server: ServerOptions | str, workload: WorkloadOptions, console: Console) -> Iterator[Target]:
    if isinstance(server, str):
        yield foreign_target(server, workload, console)
    else:
        with started_target(server, workload, console) as target:
            yield target
