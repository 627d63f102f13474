"""Writes of items to Milvus: each reads first what is there, to tell what became of it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shitu_server.gallery.checks import CheckedItem, CheckedUpdate
from shitu_server.gallery.milvus.expressions import ID, among, filterable
from shitu_server.gallery.milvus.items import Items
from shitu_server.gallery.milvus.moments import Moments, WriteOrder
from shitu_server.gallery.milvus.rows import Row
from shitu_server.gallery.milvus.rpc import LOGICAL_BITS
from shitu_server.types import Added, AddResult, GalleryState, RemoveResult, UpdateResult

_FIRST_MS: Final = 1_577_836_800_000
"""2020; row ids count from there, for 69 years."""
_COUNTER_BITS: Final = 14
_PLACE_BITS: Final = 8
"""Items of a call."""


@dataclass(frozen=True)
class Writing:
    """The writes of one call."""

    items: Items
    moments: Moments
    order: WriteOrder

    async def add(self, checked: Sequence[CheckedItem], *, skip_duplicates: bool) -> AddResult:
        """Add or replace items. Raises NotFoundError, and as `Moments.pass_by`."""
        ids = [item.id for item in checked]
        digests = {item.image_digest.hex() for item in checked if item.image_digest}
        async with self.order.entered(self._keys(ids, digests)) as claim:
            now = await self.moments.present(self._deadline_s)
            moment = max(self.moments.readable(now), claim.written)
            row_ids = await self.items.row_ids(ids, moment)
            twins = await self.items.with_digests(digests, moment)
            added = _added(checked, row_ids, twins, skip_duplicates=skip_duplicates)
            rows = [
                self._row(item, row_ids.get(item.id) or _row_id(now, place), now)
                for place, (item, one) in enumerate(zip(checked, added, strict=True))
                if not one.skipped
            ]
            if rows:
                claim.written = moment = await self.items.upsert(rows)
        return AddResult(added, await self._seen(moment, written=bool(rows)))

    async def update(self, updates: Sequence[CheckedUpdate]) -> UpdateResult:
        """Change items that are there. Raises as `add`."""
        ids = [update.id for update in updates]
        async with self.order.entered(self._keys(ids)) as claim:
            now = await self.moments.present(self._deadline_s)
            moment = max(self.moments.readable(now), claim.written)
            stored = {row.id: row for row in await self.items.rows(among(ID, ids), moment, vectors=True)}
            rows = [self._changed(stored[update.id], update, now) for update in updates if update.id in stored]
            if rows:
                claim.written = moment = await self.items.upsert(rows)
        return UpdateResult(tuple(row.id for row in rows), await self._seen(moment, written=bool(rows)))

    async def remove(self, ids: Sequence[str]) -> RemoveResult:
        """Remove items that are there. Raises as `add`."""
        async with self.order.entered(self._keys(ids)) as claim:
            now = await self.moments.present(self._deadline_s)
            moment = max(self.moments.readable(now), claim.written)
            stored = await self.items.row_ids(ids, moment)
            removed = tuple(item_id for item_id in dict.fromkeys(ids) if item_id in stored)
            if removed:
                claim.written = moment = await self.items.remove(removed)
        return RemoveResult(removed, await self._seen(moment, written=bool(removed)))

    async def _seen(self, moment: int, *, written: bool) -> GalleryState:
        """Wait until the write is seen by all; return the state."""
        if written:
            await self.moments.pass_by(moment, self._deadline_s)
        return GalleryState(self.items.bound.generation, moment)

    def _row(self, item: CheckedItem, row_id: int, now: int) -> Row:
        fields = filterable(json.loads(item.metadata_json), self.items.bound.options.fields)
        digest = item.image_digest.hex()
        return Row(item.id, item.label, item.metadata_json, fields, digest, row_id, now, time.time(), item.vector)

    def _changed(self, row: Row, update: CheckedUpdate, now: int) -> Row:
        label = row.label if update.label is None else update.label
        metadata = row.metadata if update.metadata_json is None else update.metadata_json
        fields = filterable(json.loads(metadata), self.items.bound.options.fields)
        return dataclasses.replace(
            row, label=label, metadata=metadata, fields=fields, sequence=now, update_time_s=time.time()
        )

    def _keys(self, ids: Sequence[str], digests: Sequence[str] | set[str] = ()) -> list[tuple[str, str, str]]:
        """Return what the write concerns."""
        collection = self.items.bound.collection
        return [*((collection, ID, item_id) for item_id in ids), *((collection, "digest", one) for one in digests)]

    @property
    def _deadline_s(self) -> float | None:
        return self.items.deadline_s


def _added(
    checked: Sequence[CheckedItem], row_ids: dict[str, int], twins: dict[str, list[str]], *, skip_duplicates: bool
) -> tuple[Added, ...]:
    """Return what becomes of each item, as if they were added one after another."""
    added = []
    for item in checked:
        digest = item.image_digest.hex()
        others = [one for one in twins.get(digest, ()) if one != item.id] if digest else []
        twin = others[0] if others else ""
        skipped = skip_duplicates and bool(twin)
        added.append(Added(item.id in row_ids and not skipped, twin, skipped))
        if not skipped:
            for ids in twins.values():  # what it was made of before counts no more
                if item.id in ids:
                    ids.remove(item.id)
            if digest:
                twins.setdefault(digest, []).append(item.id)
    return tuple(added)


def _row_id(timestamp: int, place: int) -> int:
    """Return a number that grows with the timestamp and with the place in the call, in 63 bits."""
    milliseconds = (timestamp >> LOGICAL_BITS) - _FIRST_MS
    counter = timestamp & ((1 << _COUNTER_BITS) - 1)
    return (milliseconds << _COUNTER_BITS | counter) << _PLACE_BITS | place & ((1 << _PLACE_BITS) - 1)
