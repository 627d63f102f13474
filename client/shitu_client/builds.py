"""Building a gallery from labelled pictures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

from shitu_client.client import AsyncClient
from shitu_client.deliveries import Delivery, DeliveryOptions, reason_of
from shitu_client.errors import AlreadyExistsError, FailedPreconditionError
from shitu_client.items import AddOutcome, NewItem
from shitu_client.patience import Patience
from shitu_client.picture_reader import BuildOptions, PictureReader, PresentItem
from shitu_client.pictures import LabelledPicture
from shitu_client.progress import progress_bar

__all__ = ["BuildOptions", "BuildOutcome", "build_gallery"]

_PAGE_SIZE: Final = 1000
_NO_METADATA: Final[Mapping[str, Any]] = {}


@dataclass
class BuildOutcome:
    """What came of a build; failures by the picture's id."""

    added_count: int = 0
    """Sent and stored, be it new or in the place of another."""
    replaced_count: int = 0
    """Of these, those that replaced an item."""
    present_count: int = 0
    """Not sent, for they are in the gallery already."""
    duplicate_count: int = 0
    """Left out as duplicates."""
    elapsed_s: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)
    unsent_count: int = 0
    """Not even looked at, because the build stopped."""
    stopped: str = ""
    """Why it stopped before its end; building again goes on."""


async def build_gallery(
    client: AsyncClient,
    name: str,
    pictures: Iterable[LabelledPicture],
    concurrency: int,
    console: Console,
    *,
    encoder: str = "",
    options: BuildOptions | None = None,
) -> BuildOutcome:
    """Add pictures to a gallery, created where it is not there; building again sends only what is missing or changed.

    A picture or a request that fails is noted and does not stop the rest; a server that restarts or is busy is waited for. Of all
    pictures, only those of the requests in flight are in memory.

    Args:
        client: of the server.
        name: of the gallery.
        pictures: to add.
        concurrency: requests in flight.
        console: for progress and notes.
        encoder: that the gallery shall be bound to; the server's default, or that of a gallery which is there, where empty.
        options: how pictures become items.

    Raises:
        ShituClientError: the gallery cannot be created, or is there and bound to another encoder.
    """
    options = options or BuildOptions()
    patience = Patience(options.patience_s, say=lambda text: console.print(text, highlight=False))
    present = await _opened(client, name, encoder, patience, console)
    reader = PictureReader(pictures, present, options)
    delivery = Delivery(client, name, patience, DeliveryOptions(concurrency, skip_duplicates=options.skip_duplicates))
    start_s = time.perf_counter()
    with progress_bar(console, "images") as progress:
        build = _Build(reader, progress, len(pictures) if isinstance(pictures, Sized) else None)
        await delivery.run(build.next_batch, build.report)
    outcome = build.outcome
    outcome.elapsed_s = time.perf_counter() - start_s
    if delivery.stopped:
        outcome.stopped = delivery.stopped
        outcome.unsent_count = delivery.unsent_count + sum(1 for _ in reader.rest())
    return outcome


class _Build:
    """Counts what is done, and shows it."""

    def __init__(self, reader: PictureReader, progress: Progress, total: int | None) -> None:
        self.outcome = BuildOutcome()
        self._reader = reader
        self._progress = progress
        self._task = progress.add_task("adding", total=total, note="")

    async def next_batch(self) -> Sequence[NewItem] | None:
        """Return what the gallery lacks of the next pictures; None after the last."""
        step = await asyncio.to_thread(self._reader.next_step)
        outcome = self.outcome
        outcome.present_count += step.present_count
        outcome.duplicate_count += step.duplicate_count
        outcome.failures.update(step.failures)
        self._advance(step.looked_at - len(step.items))
        return step.items if step.looked_at else None

    def report(self, added: AddOutcome) -> None:
        """Count what became of a batch."""
        outcome = self.outcome
        outcome.added_count += added.stored_count
        outcome.replaced_count += len(added.replaced_ids)
        outcome.duplicate_count += len(added.skipped)
        outcome.failures.update({failure.id: reason_of(failure) for failure in added.failures})
        self._advance(added.stored_count + len(added.skipped) + len(added.failures))

    def _advance(self, count: int) -> None:
        present, failed = self.outcome.present_count, len(self.outcome.failures)
        notes = [f"{present} there"] if present else []
        notes += [f"{failed} failed"] if failed else []
        self._progress.update(self._task, advance=count, note=", ".join(notes))


async def _opened(
    client: AsyncClient, name: str, encoder: str, patience: Patience, console: Console
) -> dict[str, PresentItem]:
    """Create the gallery; where it is there, return what it holds."""
    try:
        await patience.call(lambda: client.create_gallery(name, encoder=encoder))
    except AlreadyExistsError:
        await patience.call(lambda: _check_bound(client, name, encoder))
        console.print(f"adding to the gallery {name}, which is there already", highlight=False)
    else:
        return {}
    return await _present_items(client, name, patience)


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


async def _present_items(client: AsyncClient, name: str, patience: Patience) -> dict[str, PresentItem]:
    """Return what the gallery holds, by id."""
    present: dict[str, PresentItem] = {}
    token = ""
    while True:
        page = await patience.call(lambda token=token: client.list_items(name, page_size=_PAGE_SIZE, page_token=token))  # type: ignore[misc]
        for item in page.items:
            # Of many items without any there is one empty mapping.
            present[item.id] = PresentItem(item.label, item.image_digest, item.metadata or _NO_METADATA)
        token = page.next_page_token
        if not token:
            return present
