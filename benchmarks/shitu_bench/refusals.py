"""How commands that measure say what keeps them from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from shitu_bench.errors import BenchError
from shitu_models.repository import RepositoryError


@contextmanager
def refusals_in_plain_words(console: Console) -> Iterator[None]:
    """Print the message of what is expected to go wrong, and end with code 1."""
    try:
        yield
    except (BenchError, RepositoryError) as error:
        console.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error
