"""Galleries from PaddleX's index files, and back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from shitu_client.client import AsyncClient
from shitu_client.deliveries import Delivery, DeliveryOptions, reason_of
from shitu_client.errors import InputError, NotFoundError
from shitu_client.gallery_results import GalleryInfo
from shitu_client.items import MAX_VECTORS_PER_REQUEST, AddOutcome, NewItem
from shitu_client.listings import full_items
from shitu_client.paddlex_index import Metric, PaddlexIndex, check_writable, read_index, write_index
from shitu_client.patience import Patience
from shitu_client.progress import progress_bar

_METRICS: Final[dict[Metric, str]] = {"IP": "inner_product", "L2": "l2"}
_LENGTH_TOLERANCE: Final = 1e-3


@dataclass
class ImportOutcome:
    """What came of an import; failures by the item's id."""

    gallery: GalleryInfo
    stored_count: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    stopped: str = ""


async def import_index(
    client: AsyncClient,
    name: str,
    folder: Path,
    *,
    encoder: str,
    encoder_fingerprint: str,
    concurrency: int,
    console: Console,
) -> ImportOutcome:
    """Add PaddleX's vectors to a gallery, created where it is not there; item `paddlex-<n>` has PaddleX's id n.

    Args:
        client: of the server.
        name: of the gallery.
        folder: that PaddleX saved.
        encoder: name of the served encoder that made the vectors; the newest version is taken.
        encoder_fingerprint: instead, a name for the encoder.
        concurrency: requests in flight.
        console: for progress and notes.

    Raises:
        InputError: the folder cannot be read, or does not go with the encoder or the gallery.
        ShituClientError: the gallery cannot be created.
    """
    index = await asyncio.to_thread(read_index, folder)
    info = await _target(client, name, index, encoder, encoder_fingerprint, console)
    outcome = ImportOutcome(info)
    batches = _batches(index)
    patience = Patience(say=lambda text: console.print(text, highlight=False), has_answered=True)
    delivery = Delivery(client, name, patience, DeliveryOptions(concurrency, info.encoder_fingerprint))
    with progress_bar(console, "items") as progress:
        task = progress.add_task("importing", total=len(index.ids))

        async def next_batch() -> Sequence[NewItem] | None:
            return next(batches, None)

        def report(added: AddOutcome) -> None:
            outcome.stored_count += added.stored_count
            outcome.failures.update({failure.id: reason_of(failure) for failure in added.failures})
            progress.advance(task, added.stored_count + len(added.failures))

        await delivery.run(next_batch, report)
    outcome.stopped = delivery.stopped
    return outcome


async def export_index(client: AsyncClient, name: str, folder: Path, index_type: str, console: Console) -> int:
    """Write a gallery as PaddleX's index files; returns the number of items.

    Raises:
        InputError: the folder holds something, or the gallery too few items.
        ShituClientError: the gallery cannot be read.
    """
    check_writable(folder)
    info = await client.get_gallery(name)
    labels: list[str] = []
    rows: list[NDArray[np.float32]] = []
    with progress_bar(console, "items") as progress:
        task = progress.add_task("reading", total=info.item_count)
        async with aclosing(full_items(client, name)) as items:
            async for item in items:
                assert item.vector is not None
                labels.append(item.label)
                rows.append(item.vector)
                progress.advance(task)
    vectors = np.stack(rows) if rows else np.empty((0, info.dimension), np.float32)
    metric = _metric_for(info, vectors, console)
    await asyncio.to_thread(write_index, folder, labels, vectors, metric, index_type)
    return len(labels)


async def _target(
    client: AsyncClient, name: str, index: PaddlexIndex, encoder: str, fingerprint: str, console: Console
) -> GalleryInfo:
    """Return the gallery, created where it is not there."""
    if encoder and fingerprint:
        raise InputError("expected --encoder or --encoder-fingerprint, got both")
    wanted = await _fingerprint_of(client, encoder, index, console) if encoder else fingerprint
    try:
        info = await client.get_gallery(name)
    except NotFoundError:
        return await _created(client, name, index, wanted)
    if wanted and wanted != info.encoder_fingerprint:
        raise InputError(
            f"gallery {name} is there already and bound to another encoder ({info.encoder_fingerprint}) than {wanted}; "
            f"choose another name"
        )
    _check_dimension(index, info.dimension, f"gallery {name}")
    console.print(f"adding to the gallery {name}, which is there already", highlight=False)
    return info


async def _created(client: AsyncClient, name: str, index: PaddlexIndex, fingerprint: str) -> GalleryInfo:
    if not fingerprint:
        raise InputError(
            f"expected --encoder, the served encoder that made the vectors (see `shitu encoders`), for there is no gallery {name} that "
            f"would say so; or --encoder-fingerprint with a name of your own"
        )
    return await client.create_gallery(
        name, encoder_fingerprint=fingerprint, dimension=index.vectors.shape[1], metric=_METRICS[index.metric]
    )


async def _fingerprint_of(client: AsyncClient, encoder: str, index: PaddlexIndex, console: Console) -> str:
    encoders = await client.list_encoders()
    found = next((one for one in encoders if one.name == encoder), None)
    if found is None:
        raise InputError(
            f"expected an encoder that is served: {', '.join({one.name: 0 for one in encoders})}; got {encoder}"
        )
    _check_dimension(index, found.dimension, f"encoder {encoder}")
    if found.profile != "paddlex":
        console.print(
            f"{encoder} is served with the profile {found.profile}: its vectors differ a little from those of PaddleX, and so do scores; "
            f"they do not under `shitu serve --profile paddlex`",
            highlight=False,
        )
    return found.fingerprint


def _check_dimension(index: PaddlexIndex, dimension: int, whose: str) -> None:
    if index.vectors.shape[1] != dimension:
        raise InputError(f"{whose} has vectors of length {dimension}, those of PaddleX have {index.vectors.shape[1]}")


def _batches(index: PaddlexIndex) -> Iterator[list[NewItem]]:
    for start in range(0, len(index.ids), MAX_VECTORS_PER_REQUEST):
        rows = range(start, min(start + MAX_VECTORS_PER_REQUEST, len(index.ids)))
        yield [NewItem(f"paddlex-{index.ids[row]}", index.labels[row], vector=index.vectors[row]) for row in rows]


def _metric_for(info: GalleryInfo, vectors: NDArray[np.float32], console: Console) -> Metric:
    """Return the metric for PaddleX: where vectors are L2-normalised, the inner product, for its L2 refuses what is equal."""
    lengths = np.linalg.norm(vectors, axis=1)
    if info.metric != _METRICS["L2"] or np.all(np.abs(lengths - 1) < _LENGTH_TOLERANCE):
        return "IP"
    console.print(
        "the gallery's vectors are not L2-normalised, so that the index has PaddleX's metric L2; PaddleX 3.3 takes the distance for a "
        "score, and drops matches that are too near",
        highlight=False,
    )
    return "L2"
