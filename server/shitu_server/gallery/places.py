"""Where the row of each item stands, see `rows`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from shitu_server.gallery.exact import NO_PLACE, Places

SHARD_COUNT: Final = 32
"""Of the places of the rows: a single dictionary of a million holds up all threads for 55 ms when it grows."""


class PlaceByItem:
    """Where the living row of each item is."""

    def __init__(self) -> None:
        self._shards: tuple[dict[str, int], ...] = tuple({} for _ in range(SHARD_COUNT))

    def __len__(self) -> int:
        return sum(map(len, self._shards))

    def put(self, item_ids: Iterable[str], first_place: int) -> None:
        """Note items whose rows stand one behind the other."""
        shards = self._shards
        for place, item_id in enumerate(item_ids, first_place):
            shards[hash(item_id) % SHARD_COUNT][item_id] = place

    def get(self, item_ids: Iterable[str]) -> list[int]:
        """Return the places; NO_PLACE for unknown items."""
        shards = self._shards
        return [shards[hash(item_id) % SHARD_COUNT].get(item_id, NO_PLACE) for item_id in item_ids]

    def pop(self, item_ids: Iterable[str]) -> Places:
        """Forget items; return the places of those that were known."""
        shards = self._shards
        places = [shards[hash(item_id) % SHARD_COUNT].pop(item_id, NO_PLACE) for item_id in item_ids]
        return np.array([place for place in places if place != NO_PLACE], dtype=np.int64)
