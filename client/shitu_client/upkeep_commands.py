"""`shitu gallery alias | snapshot | restore | reembed | rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from shitu_client import tables
from shitu_client.client import DEFAULT_SERVER, AsyncClient
from shitu_client.command_line import Name, Server, YesOption, err, fail, finish, out, run
from shitu_client.errors import FailedPreconditionError, InputError, InvalidArgumentError
from shitu_client.gallery_results import GalleryInfo, ReembedProgress
from shitu_client.patience import Patience
from shitu_client.progress import bytes_bar, progress_bar
from shitu_client.reembeddings import reembed_gallery

_REMEDY_OF_CALL: Final = "; roll back with discard_writes, or do not"
"""What the server says to programs; people are told of an option, or asked."""

Alias = Annotated[str, typer.Argument(help="The other name; must not be that of a gallery.")]


def register(gallery: typer.Typer) -> None:
    """Add the commands."""
    alias = typer.Typer(
        help="Other names of galleries, moved from one to another at once for all.", no_args_is_help=True
    )
    alias.command("set")(set_alias)
    alias.command("delete")(delete_alias)
    gallery.add_typer(alias, name="alias")
    gallery.command()(snapshot)
    gallery.command()(restore)
    gallery.command()(reembed)
    gallery.command()(rollback)


def set_alias(alias: Alias, name: Name, server: Server = DEFAULT_SERVER) -> None:
    """Make an alias, or move it to another gallery."""
    info = run(server, lambda client: client.set_alias(alias, name))
    tables.print_line(out, f"{alias} is {info.name}")


def delete_alias(alias: Alias, server: Server = DEFAULT_SERVER) -> None:
    """Delete an alias; the gallery stays."""
    run(server, lambda client: client.delete_alias(alias))
    tables.print_line(out, f"deleted alias {alias}")


def snapshot(
    name: Name,
    file: Annotated[Path, typer.Argument(help="Where to save it; a file that is there is replaced when all is saved.")],
    server: Server = DEFAULT_SERVER,
) -> None:
    """Save a gallery as it is now to one file."""

    async def work(client: AsyncClient) -> int:
        with bytes_bar(err) as progress:
            task = progress.add_task("saving", total=None)
            return await client.snapshot_gallery(
                name, file, progress=lambda size: progress.update(task, completed=size)
            )

    size = run(server, work, interrupted=f"interrupted; {file} is as it was")
    tables.print_line(out, f"saved {name} to {file}: {size} bytes")


def restore(
    name: Annotated[str, typer.Argument(help="Name of the gallery to be made; there must be none.")],
    file: Annotated[Path, typer.Argument(help="The file of a snapshot.")],
    server: Server = DEFAULT_SERVER,
) -> None:
    """Make a gallery from the file of a snapshot."""

    async def work(client: AsyncClient) -> GalleryInfo:
        if not file.is_file():
            raise InputError(f"{file}: expected the file of a snapshot, there is none")
        with bytes_bar(err) as progress:
            task = progress.add_task("restoring", total=file.stat().st_size)
            try:
                return await client.restore_gallery(
                    name, file, progress=lambda size: progress.update(task, completed=size)
                )
            except InvalidArgumentError as error:
                if error.field != "data":
                    raise
                raise InputError(f"{file}: {error.message.removeprefix('data: ')}") from error

    tables.print_gallery(out, run(server, work, interrupted=f"interrupted; there is no gallery {name}"))


def reembed(
    name: Name,
    server: Server = DEFAULT_SERVER,
    *,
    encoder: Annotated[
        str, typer.Option(help="Encoder that shall embed the pictures (see `shitu encoders`); the default one.")
    ] = "",
) -> None:
    """Embed all pictures of a gallery with another encoder, while it is served; then it is published at once for all."""

    async def work(client: AsyncClient) -> GalleryInfo:
        with progress_bar(err, "items") as progress:
            task = progress.add_task("re-embedding", total=None)

            def report(step: ReembedProgress) -> None:
                progress.update(task, completed=step.embedded_count, total=step.item_count)

            patience = Patience(say=lambda text: tables.print_line(err, text))
            return await reembed_gallery(client, name, encoder, patience, report)

    again = f"interrupted; {name} is served as before, and `shitu gallery reembed {name}` goes on where this stopped"
    tables.print_gallery(out, run(server, work, interrupted=again))


def rollback(
    name: Name,
    server: Server = DEFAULT_SERVER,
    *,
    yes: YesOption = False,
    discard_writes: Annotated[
        bool,
        typer.Option(
            "--discard-writes",
            help="Also where items were written since the re-embedding: the former generation lacks them.",
        ),
    ] = False,
) -> None:
    """Bring back the generation before the last re-embedding; again, it undoes that."""
    info = run(server, lambda client: client.get_gallery(name))
    if not info.previous_generation:
        fail(f"{name} has no former generation: it was not re-embedded, or that one is gone")
        finish(done=False)
    question = (
        f"{info.name} goes back from generation {info.generation} ({info.item_count} items, encoder "
        f"{info.encoder_fingerprint}) to generation {info.previous_generation}"
    )
    if not yes:
        typer.confirm(f"{question}. Go back?", abort=True)
    refused = _rolled_back(server, name, discard_writes=discard_writes)
    if refused is None:
        return
    message = refused.message.removesuffix(_REMEDY_OF_CALL)
    if yes or discard_writes:
        # Refused for another reason than writes, it has no remedy.
        remedy = "; --discard-writes leaves them behind" if message != refused.message else ""
        fail(f"{message}{remedy}")
        finish(done=False)
    tables.print_line(err, message)
    typer.confirm("Go back without these writes?", abort=True)
    last = _rolled_back(server, name, discard_writes=True)
    if last is not None:
        fail(last.message)
        finish(done=False)


def _rolled_back(server: str, name: str, *, discard_writes: bool) -> FailedPreconditionError | None:
    """Roll back and show the gallery; returns why the server does not, for which there may be a remedy."""

    async def work(client: AsyncClient) -> GalleryInfo | FailedPreconditionError:
        try:
            return await client.rollback(name, discard_writes=discard_writes)
        except FailedPreconditionError as error:
            return error

    result = run(server, work)
    if isinstance(result, FailedPreconditionError):
        return result
    tables.print_gallery(out, result)
    return None
