"""Building a gallery from labelled pictures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console

from shitu_client.client import AsyncClient
from shitu_client.errors import AlreadyExistsError, FailedPreconditionError, ShituClientError
from shitu_client.items import NewItem
from shitu_client.pictures import LabelledPicture
from shitu_client.progress import progress_bar

_PICTURES_PER_REQUEST: Final = 16


@dataclass
class BuildOutcome:
    """What came of a build; failures by the picture's id."""

    added_count: int = 0
    elapsed_s: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)


async def build_gallery(
    client: AsyncClient,
    name: str,
    pictures: Sequence[LabelledPicture],
    concurrency: int,
    console: Console,
    *,
    encoder: str = "",
) -> BuildOutcome:
    """Add pictures to a gallery, created where it is not there; building again replaces items and doubles none.

    A request that fails is noted for each of its pictures and does not stop the rest.

    Args:
        client: of the server.
        name: of the gallery.
        pictures: to add.
        concurrency: requests in flight.
        console: for progress and notes.
        encoder: that the gallery shall be bound to; the server's default, or that of a gallery which is there, where empty.

    Raises:
        ShituClientError: the gallery cannot be created, or is there and bound to another encoder.
    """
    try:
        await client.create_gallery(name, encoder=encoder)
    except AlreadyExistsError:
        await _check_bound(client, name, encoder)
        console.print(f"adding to the gallery {name}, which is there already", highlight=False)
    outcome = BuildOutcome()
    places = asyncio.Semaphore(concurrency)
    start_s = time.perf_counter()
    with progress_bar(console) as progress:
        task = progress.add_task("adding", total=len(pictures))

        async def one(chunk: Sequence[LabelledPicture]) -> None:
            async with places:
                await _add_chunk(client, name, chunk, outcome)
                progress.advance(task, len(chunk))

        starts = range(0, len(pictures), _PICTURES_PER_REQUEST)
        await asyncio.gather(*(one(pictures[start : start + _PICTURES_PER_REQUEST]) for start in starts))
    outcome.elapsed_s = time.perf_counter() - start_s
    return outcome


async def _check_bound(client: AsyncClient, name: str, encoder: str) -> None:
    """Refuse to fill a gallery with vectors of another encoder than the one that is wished, of whichever version."""
    if not encoder:
        return
    fingerprint = (await client.get_gallery(name)).encoder_fingerprint
    bound = [one for one in await client.list_encoders() if one.fingerprint == fingerprint]
    if encoder not in {one.name for one in bound}:
        of = f"{bound[0].name} version {bound[0].version}" if bound else f"one that is not served ({fingerprint})"
        raise FailedPreconditionError(
            f"gallery {name} is there already and bound to another encoder, {of}; leave --encoder {encoder} out to add to it, "
            f"or delete it, or choose another name"
        )


async def _add_chunk(client: AsyncClient, name: str, chunk: Sequence[LabelledPicture], outcome: BuildOutcome) -> None:
    items = []
    for picture in chunk:
        try:
            items.append(NewItem(picture.id, picture.label, await asyncio.to_thread(picture.path.read_bytes)))
        except OSError as error:
            outcome.failures[picture.id] = f"cannot be read: {error.strerror}"
    try:
        failures = await client.add_items(name, items)
    except ShituClientError as error:
        outcome.failures.update({item.id: error.message for item in items})
        return
    outcome.failures.update({failure.id: failure.error.message for failure in failures})
    outcome.added_count += len(items) - len(failures)
