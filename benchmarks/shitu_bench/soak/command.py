"""`shitu bench soak`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from shitu_bench.load import command_options as options
from shitu_bench.load.plans import LoadPlan, WorkloadKind


def soak(
    *,
    duration: Annotated[float, typer.Option(min=1, max=7 * 86400, help="Seconds.")] = 3600.0,
    load: Annotated[float, typer.Option(min=0.01, max=2, help="Of the peak, which is measured first.")] = 0.8,
    warm_up: Annotated[
        float,
        typer.Option(min=0, max=3600, help="Seconds of the load before the first sample."),
    ] = 120.0,
    interval: Annotated[float, typer.Option(min=0.5, max=3600, help="Between samples, seconds.")] = 10.0,
    peak_duration: Annotated[float, typer.Option(min=0.5, max=600, help="How long the peak is measured.")] = 20.0,
    concurrency: Annotated[
        int, typer.Option(min=1, max=4096, help="Callers at the peak, fewer than are refused.")
    ] = 24,
    workload: options.Workload = WorkloadKind.MIXED,
    pictures: options.Pictures = 32,
    vectors: options.Vectors = 0,
    processes: options.Processes = 1,
    connections: options.Connections = 16,
    deadline: options.Deadline = 10.0,
    seed: options.Seed = 5,
    workers: options.Workers = 1,
    instances: options.Instances = 1,
    threads: options.Threads = 0,
    detector: options.Detector = "demo_det",
    encoder: options.Encoder = "demo_rec",
    model_repository: options.Repository = None,
    environment: options.Environment = None,
    out: options.Out = None,
) -> None:
    """Keep a server under load for long, and see whether it holds on to memory, descriptors or shared memory."""
    from shitu_bench.serving.server import ServerOptions  # noqa: PLC0415
    from shitu_bench.serving.workload import WorkloadOptions  # noqa: PLC0415
    from shitu_bench.soak.growth import SoakOptions, soak_results  # noqa: PLC0415

    variables = options.environment_of(environment)
    server = ServerOptions(workers, instances, threads, detector, encoder, model_repository, variables)
    drawn = WorkloadOptions(workload, pictures, vector_count=vectors, seed=seed)
    plan = LoadPlan(duration, warm_up, None, concurrency, processes, connections, deadline, seed=seed)
    console = Console(stderr=True)
    with options.ending_in_order(console):
        results = soak_results(server, drawn, SoakOptions(plan, load, interval, peak_duration), console)
        Console().print(_table(results))
        options.keep(results, out)


def _table(results: Mapping[str, Any]) -> Table:
    verdict, run = results["verdict"], results["run"]
    table = Table(title=f"{run['duration_s']:g} s at {run['offered_rate_per_s']:.1f} requests/s", show_header=False)
    table.add_row("OK answers", f"{run['codes'].get('OK', 0)}")
    table.add_row("other answers", f"{verdict['error_count']}")
    table.add_row("memory, last quarter by first", f"{verdict['memory_growth_percent']:+.2f} %")
    table.add_row("memory, fitted", f"{verdict['memory_growth_fitted_percent']:+.2f} %")
    for part, held in verdict["parts"].items():
        table.add_row(f"  {part}", f"{held['memory_growth_percent']:+.2f} %")
    table.add_row("descriptors", f"{verdict['descriptor_growth']:+.0f}")
    table.add_row("threads", f"{verdict['thread_growth']:+.0f}")
    table.add_row("files of shared memory", f"{verdict['shared_memory_file_growth']:+.0f}")
    table.add_row("verdict", "[green]nothing leaks[/]" if verdict["passed"] else "[red]see above[/]")
    return table
