"""`shitu gallery add | update | remove`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from shitu_client import tables
from shitu_client.client import DEFAULT_SERVER, AsyncClient
from shitu_client.command_line import Name, Server, fail, finish, out, run
from shitu_client.deliveries import DELIVERY_TIMEOUT_S
from shitu_client.errors import InputError, NotFoundError
from shitu_client.items import AddOutcome, ItemUpdate, NewItem
from shitu_client.pictures import picture_paths
from shitu_client.values import guessed_value, parsed_json, typed_value


def register(gallery: typer.Typer) -> None:
    """Add the commands."""
    gallery.command()(add)
    gallery.command()(update)
    gallery.command()(remove)


def add(
    name: Name,
    label: Annotated[str, typer.Argument(help="What the pictures show.")],
    pictures: Annotated[
        list[Path], typer.Argument(help="Pictures, or folders of them; the path becomes the item's id.")
    ],
    server: Server = DEFAULT_SERVER,
    *,
    detect: Annotated[
        bool,
        typer.Option("--detect", help="The pictures show more than the product: take what the detector is surest of."),
    ] = False,
    skip_duplicates: Annotated[
        bool, typer.Option("--skip-duplicates", help="Leave out pictures of which there is an item already.")
    ] = False,
) -> None:
    """Add pictures of one product."""

    async def work(client: AsyncClient) -> AddOutcome:
        items = (NewItem(path.as_posix(), label, path.read_bytes(), detect=detect) for path in picture_paths(pictures))
        return await client.add_items(name, items, skip_duplicates=skip_duplicates)

    outcome = run(server, work, timeout_s=DELIVERY_TIMEOUT_S)
    tables.print_added(out, outcome)
    for failure in outcome.failures:
        fail(f"{failure.id}: {failure.error.message}")
    finish(not outcome.failures)


def update(
    name: Name,
    ids: Annotated[list[str], typer.Argument(help="Ids of the items.")],
    server: Server = DEFAULT_SERVER,
    *,
    label: Annotated[Optional[str], typer.Option(help="The new label.")] = None,
    values: Annotated[
        Optional[list[str]],
        typer.Option("--set", metavar="KEY=VALUE", help="Set a field of the metadata, others stay. Again for more."),
    ] = None,
    unset: Annotated[
        Optional[list[str]],
        typer.Option(metavar="KEY", help="Take a field out of the metadata. Again for more."),
    ] = None,
    metadata: Annotated[Optional[str], typer.Option(metavar="JSON", help="Replace all metadata.")] = None,
) -> None:
    """Change labels and metadata of items; their vectors stay."""

    async def work(client: AsyncClient) -> list[str]:
        if label is None and not values and not unset and metadata is None:
            raise InputError("expected --label, --set, --unset or --metadata, got nothing to change")
        if metadata is not None:
            if values or unset:
                raise InputError("expected --metadata alone, which replaces all, or --set and --unset; got both")
            replaced = _object(metadata)
            return await client.update_items(name, [ItemUpdate(item_id, label, replaced) for item_id in ids])
        changes = await _changes(client, name, values or [])
        updates = await _updates(client, name, ids, label, changes, unset or [])
        return await client.update_items(name, updates)

    updated = set(run(server, work))
    for unknown in (item_id for item_id in ids if item_id not in updated):
        fail(f"{unknown}: no such item in {name}")
    tables.print_line(out, f"updated {len(updated)} of {len(set(ids))}")
    finish(updated == set(ids))


def remove(
    name: Name, ids: Annotated[list[str], typer.Argument(help="Ids of the items.")], server: Server = DEFAULT_SERVER
) -> None:
    """Remove items."""
    removed = set(run(server, lambda client: client.remove_items(name, ids)))
    for unknown in (item_id for item_id in ids if item_id not in removed):
        fail(f"{unknown}: no such item in {name}")
    tables.print_line(out, f"removed {len(removed)} of {len(ids)}")
    finish(len(removed) == len(set(ids)))


async def _changes(client: AsyncClient, gallery: str, values: Sequence[str]) -> dict[str, Any]:
    """Return what was typed as KEY=VALUE: of the type that the gallery declares, or what JSON makes of it."""
    if not values:
        return {}
    fields = (await client.get_gallery(gallery)).fields
    changes: dict[str, Any] = {}
    for text in values:
        key, sign, value = text.partition("=")
        if not key or not sign:
            raise InputError(f"--set: expected KEY=VALUE, got {text!r}")
        changes[key] = typed_value(value, fields[key], key) if key in fields else guessed_value(value)
    return changes


async def _updates(
    client: AsyncClient,
    gallery: str,
    ids: Sequence[str],
    label: str | None,
    changes: Mapping[str, Any],
    unset: Sequence[str],
) -> list[ItemUpdate]:
    """Return updates that keep what they do not name; the server replaces all metadata of an item, so the old is read first."""
    if not changes and not unset:
        return [ItemUpdate(item_id, label) for item_id in ids]
    updates = []
    for item_id in ids:
        try:
            old = (await client.get_item(gallery, item_id)).metadata
        except NotFoundError:
            continue
        kept = {key: value for key, value in old.items() if key not in unset}
        updates.append(ItemUpdate(item_id, label, {**kept, **changes}))
    return updates


def _object(text: str) -> dict[str, Any]:
    try:
        value = parsed_json(text)
    except ValueError as error:
        raise InputError(f"--metadata: expected a JSON object, got {text!r}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"--metadata: expected a JSON object, got {text!r}")
    return value
