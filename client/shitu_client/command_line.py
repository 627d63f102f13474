"""What all commands share: options, consoles, how a command runs and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Final, Optional, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from shitu_client.cli import EXIT_FAILED
from shitu_client.client import DEFAULT_TIMEOUT_S, AsyncClient
from shitu_client.conditions import condition_of
from shitu_client.errors import InputError, ShituClientError, UnreachableError, said_of
from shitu_client.filters import Condition

T = TypeVar("T")

EXIT_INTERRUPTED: Final = 130

out = Console()
err = Console(stderr=True)

Server = Annotated[str, typer.Option(envvar="SHITU_SERVER", help="host:port of a gateway.")]
Name = Annotated[str, typer.Argument(help="Name of the gallery, or an alias.")]
EncoderOption = Annotated[
    str, typer.Option(help="Encoder of a gallery that is created (see `shitu encoders`); the server's default one.")
]
WhereOption = Annotated[
    Optional[list[str]],
    typer.Option(
        help="Which items may be found: brand=cola, price>=2, 'brand in cola,pepsi', or a filter as JSON. "
        "May be given several times: all must hold."
    ),
]
PerLabelOption = Annotated[
    int, typer.Option(min=0, help="Most matches of one label; then --top-k is the number of labels. 0 does not group.")
]
TopKOption = Annotated[Optional[int], typer.Option(help="Most matches.")]
MatchThresholdOption = Annotated[Optional[float], typer.Option(help="Least score of a match, -1 to 1.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def run(
    server: str,
    work: Callable[[AsyncClient], Coroutine[Any, Any, T]],
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    interrupted: str = "",
) -> T:
    """Return what the work returns with a client; what it fails with is said, and ends the program.

    Args:
        server: host:port.
        work: to be done.
        timeout_s: of each call.
        interrupted: what Ctrl-C leaves, to be said then.
    """

    async def connected() -> T:
        async with AsyncClient(server, timeout_s=timeout_s) as client:
            return await work(client)

    try:
        return asyncio.run(connected())
    except (ShituClientError, InputError, OSError) as error:
        remedy = " --server names another" if isinstance(error, UnreachableError) else ""
        fail(f"{said_of(error)}{remedy}")
        raise SystemExit(EXIT_FAILED) from error
    except KeyboardInterrupt as error:
        if interrupted:
            err.print(escape(interrupted), highlight=False, soft_wrap=True)
        raise SystemExit(EXIT_INTERRUPTED) from error


def finish(done: bool) -> None:
    """End the program with the status of a failure, unless all was done."""
    if not done:
        raise SystemExit(EXIT_FAILED)


def fail(message: str) -> None:
    """Say what went wrong."""
    err.print(f"[red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)


async def where_of(client: AsyncClient, gallery: str, texts: Sequence[str] | None) -> Condition | None:
    """Return the condition that was typed, its values read as the types that the gallery declares."""
    if not texts:
        return None
    return condition_of(texts, (await client.get_gallery(gallery)).fields)
