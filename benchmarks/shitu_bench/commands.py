"""`shitu bench ...`: measure a model, a server, a gallery."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands that measure."""
    bench = typer.Typer(help="Measure models, servers and galleries.", no_args_is_help=True)
    app.add_typer(bench, name="bench")
