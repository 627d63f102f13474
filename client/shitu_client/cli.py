"""The command `shitu`. Each installed part adds its subcommands through the entry points `shitu.commands`.

An entry point that needs an extra has the name of its command and names the extra.
"""

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
    points = sorted(entry_points(group=_GROUP), key=lambda point: point.name)
    missing = {point.name: point for point in points if not _registered(app, point)}
    wanted = missing.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if wanted is not None:
        extras = ",".join(wanted.extras)
        message = f"[red]error:[/] `shitu {wanted.name}` is not installed: pip install 'shitu\\[{extras}]'"
        Console(stderr=True).print(message, highlight=False)
        raise SystemExit(EXIT_FAILED)
    app()


def _registered(app: typer.Typer, point: EntryPoint) -> bool:
    try:
        point.load()(app)
    except ModuleNotFoundError as error:
        # The packages of an extra that is not installed; a module of our own that is missing is a fault.
        if (error.name or "").startswith(_OUR_PACKAGES):
            raise
        return False
    return True
