"""`shitu gallery create | list | show | search | delete`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

from shitu_client import tables
from shitu_client.client import DEFAULT_SERVER, AsyncClient
from shitu_client.command_line import (
    EncoderOption,
    MatchThresholdOption,
    Name,
    PerLabelOption,
    Server,
    TopKOption,
    WhereOption,
    YesOption,
    out,
    run,
    where_of,
)
from shitu_client.errors import InputError
from shitu_client.gallery_results import GalleryInfo, ItemPage
from shitu_client.results import Match
from shitu_client.values import field_types


class Metric(str, Enum):
    """What makes two vectors near."""

    INNER_PRODUCT = "inner_product"
    L2 = "l2"


class Index(str, Enum):
    """How a gallery is searched."""

    AUTO = "auto"
    FLAT = "flat"
    HNSW = "hnsw"
    IVF = "ivf"


def register(gallery: typer.Typer) -> None:
    """Add the commands."""
    gallery.command()(create)
    gallery.command("list")(list_all)
    gallery.command()(show)
    gallery.command()(search)
    gallery.command()(delete)


def create(
    name: Annotated[str, typer.Argument(help="Name of the gallery.")],
    server: Server = DEFAULT_SERVER,
    *,
    encoder: EncoderOption = "",
    metric: Annotated[Metric, typer.Option(help="What makes two vectors near.")] = Metric.INNER_PRODUCT,
    index: Annotated[Index, typer.Option(help="How the gallery is searched.")] = Index.AUTO,
    field: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="NAME:TYPE",
            help="A field of the items' metadata that --where may name, of type string, number or boolean. "
            "May be given several times.",
        ),
    ] = None,
) -> None:
    """Create an empty gallery, bound to an encoder."""

    async def work(client: AsyncClient) -> GalleryInfo:
        fields = field_types(field or [])
        return await client.create_gallery(name, encoder=encoder, metric=metric.value, index=index.value, fields=fields)

    tables.print_gallery(out, run(server, work))


def list_all(server: Server = DEFAULT_SERVER) -> None:
    """List all galleries with their aliases."""
    tables.print_galleries(out, run(server, AsyncClient.list_galleries))


def show(
    name: Name,
    server: Server = DEFAULT_SERVER,
    *,
    label: Annotated[str, typer.Option(help="Only items of this label.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most items to list.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show a gallery and its first items."""

    async def work(client: AsyncClient) -> tuple[GalleryInfo, ItemPage]:
        return await client.get_gallery(name), await client.list_items(name, page_size=limit, label=label)

    info, page = run(server, work)
    if json:
        typer.echo(tables.as_json(info, page))
        return
    tables.print_gallery(out, info)
    tables.print_items(out, page)


def search(
    name: Name,
    picture: Annotated[Optional[Path], typer.Argument(help="Picture of one product; embedded whole.")] = None,
    server: Server = DEFAULT_SERVER,
    *,
    item: Annotated[str, typer.Option(help="Instead of a picture, the id of an item: what is like it?")] = "",
    where: WhereOption = None,
    per_label: PerLabelOption = 0,
    top_k: TopKOption = None,
    match_threshold: MatchThresholdOption = None,
) -> None:
    """Show the items that are nearest to a picture or to an item."""

    async def work(client: AsyncClient) -> list[Match]:
        if (picture is None) == (not item):
            raise InputError(f"expected a picture or --item, got {'neither' if picture is None else 'both'}")
        return await client.search(
            name,
            picture,
            item_id=item,
            top_k=top_k,
            match_threshold=match_threshold,
            where=await where_of(client, name, where),
            matches_per_label=per_label,
        )

    tables.print_matches(out, run(server, work))


def delete(
    name: Annotated[str, typer.Argument(help="Name of the gallery; an alias will not do.")],
    server: Server = DEFAULT_SERVER,
    *,
    yes: YesOption = False,
) -> None:
    """Delete a gallery, all its items and its aliases."""
    if not yes:
        typer.confirm(f"Delete gallery {name}, all its items and its aliases?", abort=True)
    run(server, lambda client: client.delete_gallery(name))
    tables.print_line(out, f"deleted {name}")
