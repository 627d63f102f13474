"""Many items on their way into a gallery: some requests in flight, the rest not even made."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from shitu_client.client import AsyncClient
from shitu_client.errors import FailedPreconditionError, NotFoundError, ShituClientError, UnsupportedError
from shitu_client.items import AddOutcome, ItemFailure, NewItem, chunked, merged
from shitu_client.patience import Attempts, Patience, is_transient

_PLACE: Final = re.compile(r"^items\[\d+\](?:\.|: )")
DELIVERY_TIMEOUT_S: Final = 120.0
"""Of one request of many pictures; a large encoder on few processors takes its time."""

HOPELESS: Final = (FailedPreconditionError, NotFoundError, UnsupportedError)
"""What a call as a whole ends with only where the next one would end the same: no such gallery, its encoder is not served, ..."""

NextBatch = Callable[[], Awaitable["Sequence[NewItem] | None"]]
"""Returns what to send next, which may be empty, or None at the end. Several may be asked for at a time."""
Report = Callable[[AddOutcome], None]


@dataclass(frozen=True)
class DeliveryOptions:
    """How items are sent."""

    concurrency: int = 4
    encoder_fingerprint: str = ""
    skip_duplicates: bool = False


class Delivery:
    """Sends batches until there are no more, the server stays away, or it will take none; then `stopped` says so."""

    def __init__(self, client: AsyncClient, gallery: str, patience: Patience, options: DeliveryOptions) -> None:
        self._client = client
        self._gallery = gallery
        self._patience = patience
        self._options = options
        self.stopped = ""
        self.unsent_count = 0
        """Items of requests that were refused as the rest would be."""

    async def run(self, next_batch: NextBatch, report: Report) -> None:
        """Send all batches, each of which is asked for only when there is a place for it; `report` is told of each."""

        async def work() -> None:
            while not self.stopped and (batch := await next_batch()) is not None:
                report(await self._send(batch))

        await all_or_none([work() for _ in range(self._options.concurrency)])

    async def _send(self, items: Sequence[NewItem]) -> AddOutcome:
        """Send items; those that the server has no time for, or it all, again."""
        outcomes: list[AddOutcome] = []
        attempts = Attempts()
        while items:
            outcome = await self._tried(items)
            again = {failure.id: failure for failure in outcome.failures if is_transient(failure.error)}
            if len(again) < len(items):
                self._patience.succeeded()
            outcomes.append(replace(outcome, failures=tuple(f for f in outcome.failures if f.id not in again)))
            items = [item for item in items if item.id in again]
            if items and not await self._patience.wait(again[items[0].id].error, attempts):
                self._give_up(again[items[0].id].error, attempts)
                outcomes.append(AddOutcome(failures=tuple(again.values())))
                break
        return merged(outcomes)

    async def _tried(self, items: Sequence[NewItem]) -> AddOutcome:
        outcomes = []
        for chunk in chunked(items):
            if self.stopped:
                self.unsent_count += len(chunk)
            else:
                outcomes.append(await self._tried_request(chunk))
        return merged(outcomes)

    async def _tried_request(self, chunk: Sequence[NewItem]) -> AddOutcome:
        try:
            return await self._client.add_items(
                self._gallery,
                chunk,
                encoder_fingerprint=self._options.encoder_fingerprint,
                skip_duplicates=self._options.skip_duplicates,
            )
        except HOPELESS as error:
            self.stopped = self.stopped or error.message
            self.unsent_count += len(chunk)
            return AddOutcome()
        except ShituClientError as error:
            return AddOutcome(failures=tuple(ItemFailure(item.id, error) for item in chunk))

    def _give_up(self, error: ShituClientError, attempts: Attempts) -> None:
        if self._patience.is_lost(attempts):
            self.stopped = f"nothing could be sent for {self._patience.limit_s:g} s: {error.message}"


def reason_of(failure: ItemFailure) -> str:
    """Return why an item failed, without its place in a request that nobody has seen."""
    return _PLACE.sub("", failure.error.message)


async def all_or_none(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run works together; when one fails, the others end with it."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
