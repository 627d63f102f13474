"""`shitu bench search`."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Optional

import typer
from rich.console import Console

from shitu_bench.load import command_options as options
from shitu_bench.models.devices import measuring_environment
from shitu_bench.refusals import refusals_in_plain_words

NAME: Final = "gallery_search"
"""Of the file of results."""
_SIZES: Final = (100_000, 1_000_000)
_TIMEOUT_S: Final = 3 * 3600.0
"""For one kind and size: HNSW of a million rows is built in a quarter of an hour, or more."""
_PACKAGES: Final = ("faiss-cpu", "numpy", "shitu")


class SearchKind(str, Enum):
    """Index kinds that are measured."""

    FLAT = "flat"
    IVF = "ivf"
    HNSW = "hnsw"


def search(
    *,
    size: Annotated[Optional[list[int]], typer.Option(min=1000, help="Items; may be given again.")] = None,
    kind: Annotated[Optional[list[SearchKind]], typer.Option(help="Index kind; may be given again.")] = None,
    folder: Annotated[Optional[Path], typer.Option(help="For the galleries; a temporary one by default.")] = None,
    out: Annotated[
        Optional[Path],
        typer.Option(help="File of the results; others in it stay as they are.", callback=options.writable),
    ] = None,
) -> None:
    """Measure searches of galleries beside FAISS itself and numpy: with a million items most of an hour, and 8 GB."""
    from shitu_bench.isolated import run_isolated  # noqa: PLC0415
    from shitu_bench.records import RESULTS_DIR  # noqa: PLC0415

    console = Console(stderr=True)
    target = out or RESULTS_DIR / f"{NAME}.json"
    with ExitStack() as stack, refusals_in_plain_words(console):
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shitu-bench-")))
        for rows in size or _SIZES:
            for one in kind or list(SearchKind):
                plan = {"size": rows, "kind": one.value, "folder": str(place / str(rows))}
                with console.status(f"{one.value} of {rows} items"):
                    figures = run_isolated(
                        "shitu_bench.galleries.gallery_search", plan, measuring_environment(1), _TIMEOUT_S
                    )
                _keep(target, rows, one.value, figures)
                console.print(f"measured {one.value} of {rows}")


def _keep(target: Path, size: int, kind: str, figures: dict[str, Any]) -> None:
    """Put figures into the results, with what they were measured on."""
    from shitu_bench.galleries.synthetic_vectors import SEED  # noqa: PLC0415
    from shitu_bench.records import read, record, write  # noqa: PLC0415

    results = read(target) if target.exists() else {"sizes": {}}
    results["sizes"].setdefault(str(size), {})[kind] = record(figures, seed=SEED, packages=_PACKAGES)
    write(target, results)
