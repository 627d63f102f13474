"""`shitu tune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from shitu_bench.load import command_options as options
from shitu_bench.load.plans import LoadPlan, WorkloadKind

if TYPE_CHECKING:
    from shitu_bench.tuning.trials import Tuning


def tune(
    *,
    detector: options.Detector = "demo_det",
    encoder: options.Encoder = "demo_rec",
    model_repository: options.Repository = None,
    workload: options.Workload = WorkloadKind.FIXED,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Callers.")] = 16,
    duration: Annotated[float, typer.Option(min=1, max=600, help="Of each run, seconds.")] = 15.0,
    pairs: Annotated[
        int, typer.Option(min=2, max=50, help="Runs of the best and of the default settings in the end.")
    ] = 7,
    settings: Annotated[
        Optional[Path],
        typer.Option(help="Write the settings here, for `shitu serve --settings`.", callback=options.writable),
    ] = None,
    environment: options.Environment = None,
    seed: options.Seed = 5,
    out: options.Out = None,
) -> None:
    """Find the instances, threads, workers and queue delay with which this machine answers most. Takes some minutes."""
    from shitu_bench.serving.server import ServerOptions  # noqa: PLC0415
    from shitu_bench.serving.workload import WorkloadOptions  # noqa: PLC0415
    from shitu_bench.tuning.trials import TuningOptions, settings_of, tuned  # noqa: PLC0415

    given = options.environment_of(environment)
    server = ServerOptions(detector=detector, encoder=encoder, model_repository=model_repository, environment=given)
    plan = LoadPlan(duration, 3.0, concurrency=concurrency, connections=concurrency, seed=seed)
    console = Console(stderr=True)
    with options.ending_in_order(console):
        tuning = tuned(server, WorkloadOptions(workload, seed=seed), TuningOptions(plan, pairs), console)
        _print(tuning)
        options.keep(tuning.results(seed), out)
        if settings is not None:
            lines = [f"{name}={value}\n" for name, value in settings_of(tuning.chosen).items()]
            settings.write_text("".join(lines), encoding="utf-8")


def _print(tuning: Tuning) -> None:
    from shitu_bench.summaries import spread_of  # noqa: PLC0415
    from shitu_bench.tuning.trials import settings_of  # noqa: PLC0415

    table = Table(title="Requests a second")
    for name in ("workers", "instances", "threads", "delay", "requests/s", "p50 ms", "p99 ms"):
        table.add_column(name, justify="right")
    for trial in tuning.trials:
        server = trial.server
        table.add_row(
            str(server.workers),
            str(server.instances),
            str(server.threads or "all"),
            tuning.delay(server),
            f"{trial.rate_per_s:.1f}",
            f"{trial.measurement.latency_ms('p50'):.1f}",
            f"{trial.measurement.latency_ms('p99'):.1f}",
        )
    console = Console()
    console.print(table)
    if tuning.ratios:
        spread = spread_of(tuning.ratios)
        console.print(
            f"the best beside the default, {len(tuning.ratios)} pairs: {spread['median']:.3f} times "
            f"({spread['low']:.3f} to {spread['high']:.3f})"
        )
    chosen = " ".join(f"{name}={value}" for name, value in settings_of(tuning.chosen).items())
    kept = " (the default: nothing is better beyond the noise)" if tuning.chosen == tuning.trials[0].server else ""
    console.print(f"[bold]{chosen}[/]{kept}", highlight=False, soft_wrap=True)
