"""`shitu gallery build | export | import-paddlex | export-paddlex`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from shitu_client import tables
from shitu_client.builds import BuildOptions, BuildOutcome, build_gallery
from shitu_client.client import DEFAULT_SERVER, AsyncClient
from shitu_client.command_line import EncoderOption, Name, Server, err, finish, out, run
from shitu_client.deliveries import DELIVERY_TIMEOUT_S
from shitu_client.exports import ExportOutcome, export_labels
from shitu_client.gallery_results import GalleryInfo
from shitu_client.metadata_files import read_metadata
from shitu_client.paddlex_transfers import ImportOutcome, export_index, import_index
from shitu_client.patience import Patience
from shitu_client.pictures import Half, read_labels

HalfOption = Annotated[
    Optional[Half],
    typer.Option(help="Only every other picture of each label: build with one half, recognise the other."),
]
Root = Annotated[
    Optional[Path],
    typer.Option(help="Folder that a label file's paths are relative to; its own folder by default."),
]
ConcurrencyOption = Annotated[int, typer.Option(min=1, max=32, help="Requests in flight.")]


class PaddlexIndexType(str, Enum):
    """As PaddleX names them."""

    FLAT = "Flat"
    IVF = "IVF"
    HNSW32 = "HNSW32"


def register(gallery: typer.Typer) -> None:
    """Add the commands."""
    gallery.command()(build)
    gallery.command()(export)
    gallery.command("import-paddlex")(import_paddlex)
    gallery.command("export-paddlex")(export_paddlex)


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
    detect: Annotated[
        bool,
        typer.Option("--detect", help="The pictures show more than the product: take what the detector is surest of."),
    ] = False,
    skip_duplicates: Annotated[
        bool,
        typer.Option(
            "--skip-duplicates", help="Leave out pictures of which there is an item already, under another id."
        ),
    ] = False,
    metadata: Annotated[
        Optional[Path], typer.Option(help='Metadata of the items: a file with lines {"id": ..., "metadata": {...}}.')
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Send also what is in the gallery already.")] = False,
    errors: Annotated[
        Optional[Path], typer.Option(help="Save what failed here, a line `path<tab>reason` for each.")
    ] = None,
    concurrency: ConcurrencyOption = 4,
) -> None:
    """Add labelled pictures to a gallery, which is created where it is not there.

    What is there already is not sent again: a build that was interrupted goes on. A bad picture never stops the rest.
    """

    async def work(client: AsyncClient) -> tuple[GalleryInfo, BuildOutcome]:
        labels = read_labels(source, root, half)
        if errors is not None:
            # At once, so that a place where nothing can be written is said before the build and not after it.
            tables.save_failures(errors, labels.faults)
        options = BuildOptions(
            detect=detect,
            again=again,
            skip_duplicates=skip_duplicates,
            metadata=read_metadata(metadata) if metadata is not None else {},
        )
        strange = options.metadata.keys() - {picture.id for picture in labels.pictures}
        if strange:
            tables.print_line(err, f"{len(strange)} ids of {metadata} are of no picture here, such as {min(strange)}")
        outcome = await build_gallery(client, name, labels.pictures, concurrency, err, encoder=encoder, options=options)
        outcome.failures = {**labels.faults, **outcome.failures}
        if errors is not None:
            tables.save_failures(errors, outcome.failures)
        return await Patience(has_answered=True).call(lambda: client.get_gallery(name)), outcome

    info, outcome = run(
        server, work, timeout_s=DELIVERY_TIMEOUT_S, interrupted="interrupted; the same command again goes on"
    )
    tables.print_build(out, info, outcome, saved_to=errors)
    finish(not outcome.failures and not outcome.stopped)


def export(
    name: Name,
    file: Annotated[Path, typer.Argument(help="Label file to be written, a line `id<tab>label` for each item.")],
    server: Server = DEFAULT_SERVER,
    *,
    pictures: Annotated[
        Optional[Path],
        typer.Option(
            help="Save the items' pictures in this folder, a folder for each label, as `gallery build` reads them. "
            "They are thumbnails. The label file then has their paths in it."
        ),
    ] = None,
) -> None:
    """Write the labels of a gallery, and its pictures, to files."""

    async def work(client: AsyncClient) -> ExportOutcome:
        return await export_labels(client, name, file, pictures, err)

    outcome = run(server, work)
    tables.print_export(out, outcome, file, pictures)
    finish(not outcome.failures)


def import_paddlex(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Folder with vector.index and id_map.yaml, as PaddleX saves it.")],
    server: Server = DEFAULT_SERVER,
    *,
    encoder: Annotated[
        str, typer.Option(help="The served encoder that is PaddleX's: the gallery is bound to its newest version.")
    ] = "",
    encoder_fingerprint: Annotated[
        str, typer.Option(help="Instead, any name for the encoder, where you will search with vectors only.")
    ] = "",
    concurrency: ConcurrencyOption = 4,
) -> None:
    """Add the vectors of an index of PaddleX to a gallery, which is created where it is not there.

    Vectors of PaddleX go with those of a server that preprocesses as PaddleX does: shitu serve --profile paddlex.
    """

    async def work(client: AsyncClient) -> ImportOutcome:
        return await import_index(
            client,
            name,
            folder,
            encoder=encoder,
            encoder_fingerprint=encoder_fingerprint,
            concurrency=concurrency,
            console=err,
        )

    outcome = run(
        server, work, timeout_s=DELIVERY_TIMEOUT_S, interrupted="interrupted; the same command again begins anew"
    )
    tables.print_import(out, outcome)
    finish(not outcome.failures and not outcome.stopped)


def export_paddlex(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Folder to be made, with vector.index and id_map.yaml.")],
    server: Server = DEFAULT_SERVER,
    *,
    index_type: Annotated[
        PaddlexIndexType, typer.Option(help="PaddleX can remove from Flat only.")
    ] = PaddlexIndexType.FLAT,
) -> None:
    """Write a gallery as an index that PaddleX reads: `pipeline.predict(picture, index="FOLDER")`."""

    async def work(client: AsyncClient) -> int:
        return await export_index(client, name, folder, index_type.value, err)

    count = run(server, work)
    tables.print_line(out, f"wrote {count} items of {name} to {folder}")
