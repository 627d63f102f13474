"""The command `shitu`. Each installed part adds its subcommands through the entry points `shitu.commands`."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import typer
from rich.console import Console

_GROUP: Final = "shitu.commands"
_OUR_PACKAGES: Final = ("shitu",)

EXIT_FAILED: Final = 1


def main() -> None:
    """Run the command line."""
    app = typer.Typer(
        name="shitu",
        help="Recognise any product from a few example pictures.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    missing = [point for point in sorted(entry_points(group=_GROUP), key=_order) if not _registered(app, point)]
    if missing and sys.argv[1:2] in (["serve"], ["demo"], ["train"]):
        Console(stderr=True).print(
            f"[red]error:[/] `shitu {sys.argv[1]}` needs the server: pip install 'shitu\\[server]'", highlight=False
        )
        raise SystemExit(EXIT_FAILED)
    app()


def _order(point: EntryPoint) -> str:
    return point.name


def _registered(app: typer.Typer, point: EntryPoint) -> bool:
    try:
        register = point.load()
    except ModuleNotFoundError as error:
        # The packages of an extra that is not installed; a module of our own that is missing is a fault.
        if (error.name or "").startswith(_OUR_PACKAGES):
            raise
        return False
    register(app)
    return True
