"""`shitu bench overload`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from shitu_bench.load import command_options as options
from shitu_bench.load.plans import LoadPlan, WorkloadKind
from shitu_bench.overload.level_cells import level_cells
from shitu_bench.summaries import shown

_COLUMNS: Final = (
    "offered",
    "goodput of the peak",
    "adjusted",
    "refused",
    "p99, ms",
    "p99 by that at 1x",
    "refusals p50, ms",
    "retry hints, ms",
)
"""Of those that there are, what fits into a terminal."""


def overload(
    *,
    duration: Annotated[float, typer.Option(min=0.5, max=3600, help="Of each run that counts, seconds.")] = 20.0,
    warm_up: Annotated[float, typer.Option(min=0, max=600, help="Before each, seconds.")] = 3.0,
    rounds: Annotated[int, typer.Option(min=1, help="Of the peak and all loads.")] = 3,
    concurrency: Annotated[
        int, typer.Option(min=1, max=4096, help="Callers at the peak, fewer than are refused.")
    ] = 24,
    workload: options.Workload = WorkloadKind.FIXED,
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
    """Measure a server at its peak, and with half of it to five times as much: goodput, refusals, and what is done for nothing."""
    from shitu_bench.overload.levels import OverloadOptions, overload_results  # noqa: PLC0415
    from shitu_bench.serving.server import ServerOptions  # noqa: PLC0415
    from shitu_bench.serving.workload import WorkloadOptions  # noqa: PLC0415

    variables = options.environment_of(environment)
    server = ServerOptions(workers, instances, threads, detector, encoder, model_repository, variables)
    drawn = WorkloadOptions(workload, pictures, vector_count=vectors, seed=seed)
    plan = LoadPlan(duration, warm_up, None, concurrency, processes, connections, deadline, seed=seed)
    console = Console(stderr=True)
    with options.ending_in_order(console):
        results = overload_results(server, drawn, OverloadOptions(plan, rounds), console)
        for table in (_levels(results), _rest(results)):
            Console().print(table)
        options.keep(results, out)


def _levels(results: Mapping[str, Any]) -> Table:
    peak = results["summary"]["peak"]
    others = sum(_other_answers(one["peak"]) for one in results["rounds"])
    warning = f"; [red]{others} other answers: too many callers[/]" if others else ""
    table = Table(
        title=f"Peak {shown(peak['goodput_per_s'], 1)} requests/s, p99 {shown(peak['p99_ms'], 1)} ms{warning}; medians (least to largest)"
    )
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for level in results["summary"]["levels"]:
        cells = level_cells(level)
        table.add_row(*(cells[column] for column in _COLUMNS))
    return table


def _other_answers(figures: Mapping[str, Any]) -> int:
    return sum(count for code, count in figures["codes"].items() if code != "OK")


def _rest(results: Mapping[str, Any]) -> Table:
    expiry = results["expiry"]
    table = Table(show_header=False)
    table.add_row("gateway CPU for a refusal, ms", f"{results['gateway_cpu_ms_per_refusal']:.3f}")
    for queue in results["summary"]["queue"]:
        for name, service in (("of_the_peak", "the peak"), ("of_the_level", "this load")):
            table.add_row(
                f"p99 at {queue['factor']:g} x by that of M/D/c, service time of {service}",
                f"{shown(queue['measured_ms.p99'], 0)} / {shown(queue[f'{name}.predicted_ms.p99'], 0)} ms = "
                f"{shown(queue[f'{name}.p99_by_predicted'], 2)}",
            )
    table.add_row(
        f"deadline {1000 * expiry['deadline_s']:.0f} ms at 2 x",
        f"{expiry['codes'].get('OK', 0)} answered, {expiry['expired_count']} expired; the detector ran {expiry['detector_items']} "
        f"pictures, the encoder {expiry['encoder_items']} crops for {expiry['objects_in_ok_answers']} objects in answers",
    )
    return table
