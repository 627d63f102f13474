"""`shitu recognize` and `shitu gallery ...`: options in, tables and pictures out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape

from shitu_client import tables
from shitu_client.builds import build_gallery
from shitu_client.cli import EXIT_FAILED
from shitu_client.client import DEFAULT_SERVER, AsyncClient
from shitu_client.errors import ShituClientError
from shitu_client.items import NewItem
from shitu_client.pictures import Half, LabelFileError, labelled_pictures, picture_paths
from shitu_client.runs import RunOptions, recognize_all

_out = Console()
_err = Console(stderr=True)

Server = Annotated[str, typer.Option(envvar="SHITU_SERVER", help="host:port of a gateway.")]
Name = Annotated[str, typer.Argument(help="Name of the gallery.")]
HalfOption = Annotated[
    Optional[Half],
    typer.Option(help="Only every other picture of each label: build with one half, recognise the other."),
]
EncoderOption = Annotated[
    str, typer.Option(help="Encoder of a gallery that is created (see `shitu encoders`); the server's default one.")
]
Root = Annotated[
    Optional[Path],
    typer.Option(help="Folder that a label file's paths are relative to; its own folder by default."),
]

gallery = typer.Typer(help="Build and look after galleries of labelled products.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the client's commands."""
    app.command()(recognize)
    app.command()(encoders)
    app.add_typer(gallery, name="gallery")


def recognize(
    pictures: Annotated[
        list[Path], typer.Argument(help="Pictures, folders of them, or one label file (with --labelled).")
    ],
    gallery: Annotated[str, typer.Option("--gallery", "-g", help="Name of the gallery.")],
    server: Server = DEFAULT_SERVER,
    *,
    out: Annotated[Optional[Path], typer.Option(help="Save annotated pictures and JSON results here.")] = None,
    labelled: Annotated[
        bool, typer.Option(help="The true labels are known: a label file or a folder for each label.")
    ] = False,
    root: Root = None,
    half: HalfOption = None,
    whole_image: Annotated[bool, typer.Option(help="Do not detect: the whole picture is one object.")] = False,
    detection_threshold: Annotated[Optional[float], typer.Option(help="Least score of a box, 0 to 1.")] = None,
    match_threshold: Annotated[Optional[float], typer.Option(help="Least score of a match, -1 to 1.")] = None,
    top_k: Annotated[Optional[int], typer.Option(help="Most matches for an object.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Pictures in flight.")] = 8,
) -> None:
    """Recognise the products in pictures; with --labelled, print recall@1 too."""
    options = RunOptions(gallery, whole_image, detection_threshold, match_threshold, top_k, concurrency)

    async def run(client: AsyncClient) -> bool:
        if labelled:
            truth = {p.path: p.label for source in pictures for p in labelled_pictures(source, root, half)}
        else:
            truth = dict.fromkeys(picture_paths(pictures), "")
        outcome = await recognize_all(client, truth, options, out, _err)
        tables.print_recognitions(_out, outcome, labelled=labelled)
        return not outcome.failures

    _run(server, run)


def encoders(server: Server = DEFAULT_SERVER) -> None:
    """List the encoders that the server runs."""

    async def run(client: AsyncClient) -> bool:
        tables.print_encoders(_out, await client.list_encoders())
        return True

    _run(server, run)


@gallery.command("create")
def create(name: Name, server: Server = DEFAULT_SERVER, *, encoder: EncoderOption = "") -> None:
    """Create an empty gallery, bound to an encoder."""

    async def run(client: AsyncClient) -> bool:
        tables.print_galleries(_out, [await client.create_gallery(name, encoder=encoder)])
        return True

    _run(server, run)


@gallery.command("list")
def list_all(server: Server = DEFAULT_SERVER) -> None:
    """List all galleries."""

    async def run(client: AsyncClient) -> bool:
        tables.print_galleries(_out, await client.list_galleries())
        return True

    _run(server, run)


@gallery.command("build")
def build(
    name: Name,
    source: Annotated[
        Path, typer.Argument(help="Label file (`path<tab>label`), or folder with a folder for each label.")
    ],
    server: Server = DEFAULT_SERVER,
    *,
    root: Root = None,
    half: HalfOption = None,
    encoder: EncoderOption = "",
    concurrency: Annotated[int, typer.Option(min=1, max=32, help="Requests in flight.")] = 4,
) -> None:
    """Add labelled pictures to a gallery, which is created where it is not there. A bad picture never stops the rest."""

    async def run(client: AsyncClient) -> bool:
        pictures = labelled_pictures(source, root, half)
        outcome = await build_gallery(client, name, pictures, concurrency, _err, encoder=encoder)
        tables.print_build(_out, await client.get_gallery(name), outcome)
        return not outcome.failures

    _run(server, run)


@gallery.command("add")
def add(
    name: Name,
    label: Annotated[str, typer.Argument(help="What the pictures show.")],
    pictures: Annotated[
        list[Path], typer.Argument(help="Pictures, or folders of them; the path becomes the item's id.")
    ],
    server: Server = DEFAULT_SERVER,
) -> None:
    """Add pictures of one product."""

    async def run(client: AsyncClient) -> bool:
        items = [NewItem(path.as_posix(), label, path.read_bytes()) for path in picture_paths(pictures)]
        failures = await client.add_items(name, items)
        for failure in failures:
            _fail(f"{failure.id}: {failure.error.message}")
        _out.print(f"added {len(items) - len(failures)} of {len(items)}")
        return not failures

    _run(server, run)


@gallery.command("remove")
def remove(
    name: Name, ids: Annotated[list[str], typer.Argument(help="Ids of the items.")], server: Server = DEFAULT_SERVER
) -> None:
    """Remove items."""

    async def run(client: AsyncClient) -> bool:
        removed = set(await client.remove_items(name, ids))
        for unknown in (item_id for item_id in ids if item_id not in removed):
            _fail(f"{unknown}: no such item in {name}")
        _out.print(f"removed {len(removed)} of {len(ids)}")
        return len(removed) == len(set(ids))

    _run(server, run)


@gallery.command("show")
def show(
    name: Name,
    server: Server = DEFAULT_SERVER,
    *,
    label: Annotated[str, typer.Option(help="Only items of this label.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most items to list.")] = 20,
) -> None:
    """Show a gallery and its first items."""

    async def run(client: AsyncClient) -> bool:
        tables.print_galleries(_out, [await client.get_gallery(name)])
        tables.print_items(_out, await client.list_items(name, page_size=limit, label=label))
        return True

    _run(server, run)


@gallery.command("delete")
def delete(
    name: Name,
    server: Server = DEFAULT_SERVER,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a gallery and all its items."""
    if not yes:
        typer.confirm(f"Delete gallery {name} and all its items?", abort=True)

    async def run(client: AsyncClient) -> bool:
        await client.delete_gallery(name)
        _out.print(f"deleted {escape(name)}")
        return True

    _run(server, run)


def _run(server: str, work: Callable[[AsyncClient], Coroutine[Any, Any, bool]]) -> None:
    async def connected() -> bool:
        async with AsyncClient(server) as client:
            return await work(client)

    try:
        if not asyncio.run(connected()):
            raise SystemExit(EXIT_FAILED)
    except (ShituClientError, LabelFileError, OSError) as error:
        _fail(str(error))
        raise SystemExit(EXIT_FAILED) from error
    except KeyboardInterrupt as error:
        raise SystemExit(130) from error


def _fail(message: str) -> None:
    _err.print(f"[red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
