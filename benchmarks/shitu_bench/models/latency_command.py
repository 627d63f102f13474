"""`shitu bench latency`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Optional

import typer
from rich.console import Console
from rich.table import Table

from shitu_bench.load import command_options as options
from shitu_bench.models.devices import Device, default_threads
from shitu_bench.refusals import refusals_in_plain_words
from shitu_models.specs import DEMO_SPECS, OFFICIAL_SPECS, PP_SHITUV2_REC_CLIP_VIT_LARGE

NAME: Final = "latency"
"""Of the file of results."""
_COLUMNS: Final = ("batch", "ms", "pictures/s", "GFLOPs", "of peak", "T4 projected, ms", "PaddleX T4 / Xeon, ms")


def latency(
    *,
    model: Annotated[
        Optional[list[str]], typer.Option(help="A model; may be given again. All but ViT-L/14 by default.")
    ] = None,
    large: Annotated[bool, typer.Option("--large", help="ViT-L/14 too: 1.2 GB, made once.")] = False,
    device: Annotated[Device, typer.Option(help="What the models run on.")] = Device.CPU,
    batch: Annotated[Optional[list[int]], typer.Option(min=1, help="Pictures at a time; may be given again.")] = None,
    threads: Annotated[
        Optional[int], typer.Option(min=1, help="On the CPU; 8, or as many processors as there are, by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="At most.")] = 30,
    budget_s: Annotated[float, typer.Option(min=0, help="Seconds after which no further round begins.")] = 180.0,
    model_repository: Annotated[
        Optional[Path],
        typer.Option(help="Folder with all models; by default official ones are made, with random weights."),
    ] = None,
    out: options.Out = None,
) -> None:
    """Measure models in FP32, a picture at a time, beside the device's peak and PaddleX's published figures."""
    import onnx  # noqa: F401, PLC0415  the process that measures needs it, and would say so less plainly

    from shitu_bench.models.latency import LatencyPlan, measured_latencies, repositories_of  # noqa: PLC0415
    from shitu_bench.records import RESULTS_DIR, write  # noqa: PLC0415

    every = [spec.name for spec in (*DEMO_SPECS, *OFFICIAL_SPECS) if large or spec is not PP_SHITUV2_REC_CLIP_VIT_LARGE]
    console = Console(stderr=True)
    with refusals_in_plain_words(console):
        repositories = repositories_of(model or every, model_repository, console)
        batches = sorted({1, *(batch or [])})
        plan = LatencyPlan(repositories, batches, device.value, threads or default_threads(), rounds, budget_s)
        results = measured_latencies(plan)
        write(out or RESULTS_DIR / f"{NAME}.json", results)
        Console().print(_table(results))


def _table(results: Mapping[str, Any]) -> Table:
    peak = results["peak_flops"]["median"]
    table = Table(title=f"FP32, {results['device']}, {results['threads']} threads, peak {peak / 1e9:,.0f} GFLOPS")
    table.add_column("model")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for name, model in results["models"].items():
        for size, row in model["batches"].items():
            table.add_row(name, size, *_cells(model, row))
    return table


def _cells(model: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[str, ...]:
    published = model["published"]
    return (
        f"{row['latency_ms']['median']:.2f}",
        f"{row['rate_per_s']['median']:.1f}",
        f"{model['flops'] / 1e9:.2f}",
        f"{row['fraction_of_peak']['median']:.0%}",
        f"{model['t4_projection_ms']:.2f}",
        f"{published['normal']['t4_ms']} / {published['normal']['cpu_ms']}" if published else "-",
    )
