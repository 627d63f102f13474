"""The client's commands: `shitu recognize`, `shitu encoders` and `shitu gallery ...`; options in, tables and pictures out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from shitu_client import gallery_commands, item_commands, tables, transfer_commands, upkeep_commands
from shitu_client.client import DEFAULT_SERVER, AsyncClient
from shitu_client.command_line import (
    MatchThresholdOption,
    PerLabelOption,
    Server,
    TopKOption,
    WhereOption,
    err,
    finish,
    out,
    run,
    where_of,
)
from shitu_client.pictures import labelled_pictures, picture_paths
from shitu_client.runs import RunOptions, recognize_all
from shitu_client.transfer_commands import HalfOption, Root


def register(app: typer.Typer) -> None:
    """Add the client's commands."""
    app.command()(recognize)
    app.command()(encoders)
    gallery = typer.Typer(help="Build and look after galleries of labelled products.", no_args_is_help=True)
    for part in (gallery_commands, transfer_commands, item_commands, upkeep_commands):
        part.register(gallery)
    app.add_typer(gallery, name="gallery")


def recognize(
    pictures: Annotated[
        list[Path], typer.Argument(help="Pictures, folders of them, or one label file (with --labelled).")
    ],
    gallery: Annotated[str, typer.Option("--gallery", "-g", help="Name of the gallery, or an alias.")],
    server: Server = DEFAULT_SERVER,
    *,
    out_folder: Annotated[
        Optional[Path], typer.Option("--out", help="Save annotated pictures and JSON results here.")
    ] = None,
    labelled: Annotated[
        bool, typer.Option(help="The true labels are known: a label file or a folder for each label.")
    ] = False,
    root: Root = None,
    half: HalfOption = None,
    whole_image: Annotated[bool, typer.Option(help="Do not detect: the whole picture is one object.")] = False,
    detection_threshold: Annotated[Optional[float], typer.Option(help="Least score of a box, 0 to 1.")] = None,
    match_threshold: MatchThresholdOption = None,
    top_k: TopKOption = None,
    where: WhereOption = None,
    per_label: PerLabelOption = 0,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Pictures in flight.")] = 8,
) -> None:
    """Recognise the products in pictures; with --labelled, print recall@1 too."""

    async def work(client: AsyncClient) -> bool:
        if labelled:
            truth = {p.path: p.label for source in pictures for p in labelled_pictures(source, root, half)}
        else:
            truth = dict.fromkeys(picture_paths(pictures), "")
        condition = await where_of(client, gallery, where)
        options = RunOptions(
            gallery, whole_image, detection_threshold, match_threshold, top_k, concurrency, condition, per_label
        )
        outcome = await recognize_all(client, truth, options, out_folder, err)
        tables.print_recognitions(out, outcome, labelled=labelled)
        return not outcome.failures

    finish(run(server, work))


def encoders(server: Server = DEFAULT_SERVER) -> None:
    """List the encoders that the server runs."""
    tables.print_encoders(out, run(server, AsyncClient.list_encoders))
