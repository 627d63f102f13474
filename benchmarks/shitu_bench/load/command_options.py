"""Options that the commands under load share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from shitu_bench.load.plans import WorkloadKind
from shitu_bench.records import write
from shitu_bench.refusals import refusals_in_plain_words


def writable(path: Path | None) -> Path | None:
    """Return the path of a file to be, whose folder is there then: what cannot be written is refused before it is measured.

    Raises:
        typer.BadParameter: it is a folder, or its folder cannot be made or written.
    """
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"the folder {path.parent} cannot be made: {error.strerror}; name another") from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise typer.BadParameter(f"expected a file that can be written, got {path}; name another")
    return path


Workers = Annotated[int, typer.Option(min=1, help="Gateway processes of the server that is started.")]
Instances = Annotated[int, typer.Option(min=1, help="Of each of its models.")]
Threads = Annotated[int, typer.Option(min=0, help="Of an instance; 0 shares the processors among the instances.")]
Detector = Annotated[str, typer.Option(help="Model that finds the objects.")]
Encoder = Annotated[str, typer.Option(help="Model that makes the vectors.")]
Repository = Annotated[
    Optional[Path], typer.Option("--model-repository", help="Folder of the models; the one that comes with shitu.")
]
Environment = Annotated[
    Optional[list[str]], typer.Option("--set", help="SHITU_NAME=value for the server; may be given again.")
]
Workload = Annotated[
    WorkloadKind, typer.Option(help="fixed: 640x480, three objects; mixed: 320x240 to 1920x1080, one to six objects.")
]
Pictures = Annotated[int, typer.Option(min=1, max=1000, help="Different pictures.")]
Vectors = Annotated[int, typer.Option(min=0, help="Random vectors in the gallery; 0: drawn products.")]
Processes = Annotated[int, typer.Option(min=1, max=64, help="Of the load generator.")]
Connections = Annotated[int, typer.Option(min=1, max=256, help="Of each of its processes.")]
Deadline = Annotated[float, typer.Option(min=0.001, max=600, help="Of a call, seconds.")]
Out = Annotated[Optional[Path], typer.Option(help="File of the results, JSON.", callback=writable)]
Seed = Annotated[int, typer.Option(min=0, help="Of pictures, gallery and arrivals.")]


def environment_of(given: list[str] | None) -> dict[str, str]:
    """Return the variables of --set.

    Raises:
        typer.BadParameter: one is none of SHITU_NAME=value.
    """
    variables = {}
    for text in given or []:
        name, separator, value = text.partition("=")
        if not separator or not name.startswith("SHITU_"):
            raise typer.BadParameter(f"expected SHITU_NAME=value, got {text!r}", param_hint="--set")
        variables[name] = value
    return variables


@contextmanager
def ending_in_order(console: Console) -> Iterator[None]:
    """Say in plain words what keeps from measuring; at SIGTERM stop what was started, as at Ctrl-C."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with refusals_in_plain_words(console):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def keep(results: dict[str, Any], out: Path | None) -> None:
    """Write results where somebody wants them."""
    if out is not None:
        write(out, results)
