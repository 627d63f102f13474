"""`shitu demo`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from shitu_client import ShituClientError
from shitu_train.demo import DemoError, run_demo
from shitu_train.render import DemoSizes


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for pictures and results; its parts are written anew.")] = Path(
        "demo"
    ),
    scenes: Annotated[int, typer.Option(min=1, max=2000, help="Shelves and tables to recognise.")] = 20,
    products: Annotated[int, typer.Option(min=2, max=500, help="Products in the gallery.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other brands.")] = 2026,
) -> None:
    """Draw products and shelves, start a server, recognise the products, and stop it."""
    console = Console()
    try:
        asyncio.run(run_demo(out, DemoSizes(products=products, scenes=scenes), seed, console))
    except (DemoError, ShituClientError, OSError) as error:
        Console(stderr=True).print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error
