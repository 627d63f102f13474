"""`shitu bench scaling`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shitu_bench.load import command_options as options
from shitu_bench.load.plans import LoadPlan
from shitu_bench.summaries import shown


def scaling(
    *,
    workers: Annotated[int, typer.Option(min=2, max=64, help="Gateway workers that are compared with one.")] = 2,
    pairs: Annotated[int, typer.Option(min=2, max=1000, help="Runs of each server, in turn.")] = 7,
    duration: Annotated[float, typer.Option(min=0.5, max=3600, help="Of each run, seconds.")] = 5.0,
    warm_up: Annotated[float, typer.Option(min=0, max=600, help="Before each, seconds.")] = 1.0,
    concurrency: Annotated[int, typer.Option(min=1, max=4096, help="Callers.")] = 24,
    pin: Annotated[bool, typer.Option("--pin", help="Give each gateway one processor of its own.")] = False,
    quota: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Processors' time that each gateway may use: several must leave enough for all else."
        ),
    ] = 0.0,
    pictures: options.Pictures = 16,
    vectors: options.Vectors = 0,
    processes: options.Processes = 1,
    connections: options.Connections = 16,
    deadline: options.Deadline = 10.0,
    seed: options.Seed = 5,
    environment: options.Environment = None,
    out: options.Out = None,
) -> None:
    """Compare one gateway worker with several, on models that compute nothing."""
    from shitu_bench.scaling.ratios import ScalingOptions, scaling_results  # noqa: PLC0415
    from shitu_bench.serving.workload import WorkloadOptions  # noqa: PLC0415

    plan = LoadPlan(duration, warm_up, None, concurrency, processes, connections, deadline, seed=seed)
    variables = tuple(options.environment_of(environment).items())
    console = Console(stderr=True)
    with options.ending_in_order(console):
        chosen = ScalingOptions(plan, workers, pairs, pin, quota, variables)
        results = scaling_results(
            WorkloadOptions(picture_count=pictures, vector_count=vectors, seed=seed), chosen, console
        )
        Console().print(_table(results))
        options.keep(results, out)


def _table(results: Mapping[str, Any]) -> Table:
    sides = (results["one"], results["several"])
    table = Table(title=f"{results['pairs']} pairs; median (quartiles)")
    table.add_column("")
    for title in ("1 worker", f"{results['workers']} workers"):
        table.add_column(title, justify="right")
    table.add_row("answers/s", *(shown(side["rate_per_s"], 1) for side in sides))
    table.add_row("ratio", "", shown(results["ratio"], 3))
    table.add_row("ratio by the gateways' CPU time", "", shown(results["ratio_by_gateway_cpu"], 3))
    table.add_row("p99, ms", *(shown(side["p99_ms"], 1) for side in sides))
    table.add_row("processors in use", *(shown(side["cpu_share"], 3) for side in sides))
    for part in sides[1]["cpu_ms_per_answer"]:
        costs = (side["cpu_ms_per_answer"].get(part) for side in sides)
        table.add_row(f"{part}, CPU ms for an answer", *("-" if cost is None else shown(cost, 2) for cost in costs))
    return table
