"""What was computed lately."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

V = TypeVar("V")

CACHED_FILTERS: Final = 8
"""Masks that a part of the rows keeps, 16 KB each. Callers use few filters at a time, and batches of the same come in a row."""


class Recent(Generic[V]):
    """The values used last, for any thread."""

    def __init__(self, most: int = CACHED_FILTERS) -> None:
        self._most = most
        self._values: dict[Hashable, V] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """Return the value of a key, if it is still there."""
        with self._lock:
            value = self._values.pop(key, None)
            if value is not None:
                self._values[key] = value
            return value

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value instead of the one that was not used for longest."""
        with self._lock:
            self._values[key] = value
            if len(self._values) > self._most:
                self._values.pop(next(iter(self._values)))
