"""`shitu bench load`."""

from __future__ import annotations

from typing import Annotated, Optional

import typer
from rich.console import Console

from shitu_bench.load import command_options as options
from shitu_bench.load.plans import LoadPlan, WorkloadKind


def load(
    *,
    server: Annotated[
        Optional[str], typer.Option(help="host:port of a gateway that runs; one is started where unset.")
    ] = None,
    gallery: Annotated[Optional[str], typer.Option(help="Its gallery that is searched.")] = None,
    rate: Annotated[
        Optional[list[float]],
        typer.Option(min=0.001, help="Open loop: Poisson arrivals, requests/s; may be given again, one run for each."),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=4096, help="Closed loop, where no rate is given: callers.")
    ] = 16,
    duration: Annotated[float, typer.Option(min=0.1, max=86400, help="Of each run, seconds.")] = 30.0,
    warm_up: Annotated[float, typer.Option(min=0, max=3600, help="Before each, not counted, seconds.")] = 3.0,
    workload: options.Workload = WorkloadKind.FIXED,
    pictures: options.Pictures = 32,
    vectors: options.Vectors = 0,
    processes: options.Processes = 1,
    connections: options.Connections = 4,
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
    """Send pictures to a server, at rates of their own or by callers that wait, and measure what comes back and what it costs."""
    from shitu_bench.load.runs import load_results  # noqa: PLC0415
    from shitu_bench.serving.server import ServerOptions  # noqa: PLC0415
    from shitu_bench.serving.workload import WorkloadOptions  # noqa: PLC0415

    if (server is None) != (gallery is None):
        raise typer.BadParameter("--server and --gallery go together")
    if server is not None and environment:
        raise typer.BadParameter("--set is for a server that is started, and --server names one that runs already")
    own = ServerOptions(
        workers, instances, threads, detector, encoder, model_repository, options.environment_of(environment)
    )
    plans = [
        LoadPlan(duration, warm_up, one, concurrency, processes, connections, deadline, seed=seed)
        for one in rate or (None,)
    ]
    drawn = WorkloadOptions(workload, pictures, gallery or "bench", vectors, seed)
    console = Console(stderr=True)
    with options.ending_in_order(console):
        options.keep(load_results(own if server is None else server, drawn, plans, console), out)
