"""`shitu bench quality`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from shitu_bench.load import command_options as options
from shitu_bench.models.devices import measuring_environment
from shitu_bench.refusals import refusals_in_plain_words

NAME: Final = "quality"
"""Of the file of results."""
_TIMEOUT_S: Final = 3600.0
_PACKAGES: Final = ("faiss-cpu", "onnxruntime", "numpy", "shitu")


def quality(
    *,
    size: Annotated[int, typer.Option(min=10_000, help="Items of the gallery that is searched.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=2, help="In each, every way of searching has a second.")] = 7,
    scenes: Annotated[int, typer.Option(min=1, max=2000, help="Drawn shelves that are recognised.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other brands.")] = 2026,
    out: options.Out = None,
) -> None:
    """Measure recall beside speed: of searches, by how widely they look; and of the demo models on drawn shelves."""
    from shitu_bench.isolated import run_isolated  # noqa: PLC0415
    from shitu_bench.records import RESULTS_DIR, record, write  # noqa: PLC0415

    console = Console(stderr=True)
    with refusals_in_plain_words(console):
        plan = {"size": size, "rounds": rounds}
        search = run_isolated("shitu_bench.galleries.quality_process", plan, measuring_environment(1), _TIMEOUT_S)
        figures = {"search": search, "recognition": _recognition(scenes, seed, console)}
        write(out or RESULTS_DIR / f"{NAME}.json", record(figures, seed=seed, packages=_PACKAGES))
    Console().print(_table(search["points"]))


def _recognition(scenes: int, seed: int, console: Console) -> dict[str, Any]:
    """Return what `shitu demo` finds of what was drawn, and how fast."""
    from shitu_bench.errors import BenchError  # noqa: PLC0415
    from shitu_client import ShituClientError  # noqa: PLC0415
    from shitu_train.demo import DemoError, run_demo  # noqa: PLC0415
    from shitu_train.render import DemoSizes  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="shitu-bench-") as folder:
        try:
            with console.status("drawing shelves, recognising what is on them"):
                figures = asyncio.run(run_demo(Path(folder), DemoSizes(scenes=scenes), seed, Console(quiet=True)))
        except (DemoError, ShituClientError) as error:
            raise BenchError(f"the drawn shelves could not be recognised: {error}") from error
    return asdict(figures)


def _table(points: list[Mapping[str, Any]]) -> Table:
    table = Table(title="Recall beside speed")
    for column in ("index", "width", "of its own", "recall@1", "recall@10", "queries/s"):
        table.add_column(column, justify="left" if column == "index" else "right")
    for point in points:
        recall = point["recall"]
        table.add_row(
            point["kind"],
            str(point["width"] or "all"),
            f"{point['width_factor']:g}",
            f"{recall['at_1']:.4f}",
            f"{recall['at_10']:.4f}",
            f"{point['queries_per_s']['median']:,.0f}",
        )
    return table
