"""Reads of the database that wait in line for one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from shitu_server.errors import OverloadedError
from shitu_server.gallery.reader import StoreReader
from shitu_server.gallery.waiting import within

T = TypeVar("T")

RETRY_AFTER_S: Final = 0.1


class ReadQueue:
    """One connection, one thread, a limit of reads that wait."""

    def __init__(self, path: Path, most_waiting: int) -> None:
        """Raises ConfigurationError where the database cannot be opened."""
        self._reader = StoreReader(path)
        self._executor = ThreadPoolExecutor(1, "gallery-reader")
        self._most_waiting = most_waiting
        self._waiting = 0

    async def read(self, read: Callable[[StoreReader], T], deadline_s: float | None) -> T:
        """Return what `read` returns. Raises OverloadedError, DeadlineExceededError, and what `read` raises."""
        if self._waiting >= self._most_waiting:
            raise OverloadedError(f"{self._waiting} reads wait already", RETRY_AFTER_S)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await within(loop.run_in_executor(self._executor, read, self._reader), deadline_s)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Finish the read that runs."""
        self._executor.shutdown()
        self._reader.close()
