"""How commands that measure say what keeps them from it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape

from shitu_bench.errors import BenchError
from shitu_models.repository import RepositoryError

_EXTRAS: Final = "shitu[server,train,bench]"


def saying_what_is_missing(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that says in one line how to install a package that it lacks."""

    @functools.wraps(command)
    def said(**options: object) -> None:
        try:
            command(**options)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("shitu"):
                raise
            missing = f"this needs {error.name}: pip install {_EXTRAS!r}, or `make dev` in the checkout"
            raise _refused(Console(stderr=True), missing) from error

    return said


@contextmanager
def refusals_in_plain_words(console: Console) -> Iterator[None]:
    """Print the message of what is expected to go wrong, and end with code 1."""
    try:
        yield
    except (BenchError, RepositoryError) as error:
        raise _refused(console, str(error)) from error


def _refused(console: Console, message: str) -> SystemExit:
    """Print what keeps a command from measuring, and return what ends it."""
    console.print(f"[red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    return SystemExit(1)
