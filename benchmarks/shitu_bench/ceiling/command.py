"""`shitu bench ceiling`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Optional

import typer
from rich.console import Console
from rich.table import Table

from shitu_bench.load import command_options as options
from shitu_bench.refusals import refusals_in_plain_words
from shitu_models.specs import (
    DEMO_DET,
    DEMO_REC,
    PP_SHITUV2_DET,
    PP_SHITUV2_REC,
    PP_SHITUV2_REC_CLIP_VIT_BASE,
)

NAME: Final = "ceiling"
"""Of the file of results."""
_PACKAGES: Final = ("onnxruntime", "nvidia-pytriton", "numpy", "shitu")


class Pack(str, Enum):
    """A detector and an encoder."""

    DEMO = "demo"
    LCNET = "lcnet"
    VIT_BASE = "vit-base"


_MODELS: Final = {
    Pack.DEMO: (DEMO_DET.name, DEMO_REC.name),
    Pack.LCNET: (PP_SHITUV2_DET.name, PP_SHITUV2_REC.name),
    Pack.VIT_BASE: (PP_SHITUV2_DET.name, PP_SHITUV2_REC_CLIP_VIT_BASE.name),
}
"""Total over Pack."""


def ceiling(
    *,
    pack: Annotated[Optional[list[Pack]], typer.Option(help="Models; may be given again. All by default.")] = None,
    pairs: Annotated[int, typer.Option(min=2, help="Of slices: the server, then its models alone.")] = 9,
    slice_s: Annotated[float, typer.Option(min=1, help="Seconds of each slice, or more.")] = 15.0,
    least_pictures: Annotated[int, typer.Option(min=1, help="That a slice must have time for.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, max=48, help="Requests in flight.")] = 16,
    pictures: Annotated[int, typer.Option(min=1, help="Different ones.")] = 32,
    workers: Annotated[int, typer.Option(min=1, help="Gateway processes.")] = 1,
    instances: Annotated[int, typer.Option(min=1, help="Of each model.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Of an instance; 0 shares the processors.")] = 0,
    triton_alone: Annotated[
        bool,
        typer.Option("--triton-alone/--no-triton-alone", help="Load Triton itself too, where perf_analyzer is found."),
    ] = True,
    perf_analyzer: Annotated[
        Optional[Path],
        typer.Option(help="NVIDIA's load generator; that on the PATH or of `make perf-analyzer` by default."),
    ] = None,
    out: options.Out = None,
) -> None:
    """Measure what share of ONNX Runtime in process the whole server reaches, in pairs of slices."""
    from shitu_bench.ceiling.shares import SEED, CeilingPlan, measured_ceiling  # noqa: PLC0415
    from shitu_bench.ceiling.triton_load import PerfAnalyzer  # noqa: PLC0415
    from shitu_bench.models.official_repository import official_repository  # noqa: PLC0415
    from shitu_bench.records import RESULTS_DIR, record, write  # noqa: PLC0415
    from shitu_bench.serving.server import ServerOptions  # noqa: PLC0415

    console = Console(stderr=True)
    figures: dict[str, Any] = {}
    with refusals_in_plain_words(console):
        program = PerfAnalyzer.found(perf_analyzer) if triton_alone else None
        for one in pack or list(Pack):
            names = _MODELS[one]
            repository = None if one is Pack.DEMO else official_repository(names, console)
            server = ServerOptions(
                workers, instances, threads, detector=names[0], encoder=names[1], model_repository=repository
            )
            plan = CeilingPlan(server, pairs, slice_s, least_pictures, concurrency, pictures)
            figures[one.value] = measured_ceiling(plan, program, console)
        missing = [] if program else ["Triton alone by perf_analyzer, which `make perf-analyzer` fetches"]
        results = record({"packs": figures, "not_measured": missing}, seed=SEED, packages=_PACKAGES)
        write(out or RESULTS_DIR / f"{NAME}.json", results)
    Console().print(_table(figures))


def _table(packs: Mapping[str, Any]) -> Table:
    table = Table(title="The whole server beside its models alone in ONNX Runtime")
    for column in ("pack", "pictures/s", "models alone", "ratio", "quartiles", "generator's CPU", "ratio without it"):
        table.add_column(column, justify="left" if column == "pack" else "right")
    for name, figures in packs.items():
        ratio = figures["ratio"]
        table.add_row(
            name,
            f"{figures['rate_per_s']['median']:.2f}",
            f"{figures['ceiling_per_s']['median']:.2f}",
            f"{ratio['median']:.3f}",
            f"{ratio['low']:.3f}-{ratio['high']:.3f}",
            f"{figures['generator_cpu_share']['median']:.1%}",
            f"{figures['ratio_without_generator']['median']:.3f}",
        )
    return table
