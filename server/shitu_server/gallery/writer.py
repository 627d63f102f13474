"""Writes of many calls, one after another in one thread, and one commit for all that wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from shitu_server.errors import DeadlineExceededError, OverloadedError, UnavailableError
from shitu_server.gallery.ledger import Ledger
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.writes import Write

_log = logging.getLogger(__name__)
R = TypeVar("R")

GROUP_CALLS: Final = 64
"""More in one commit gain little: the fsync is shared well enough, and the first would wait for the last."""
TIDY_INTERVAL_S: Final = 0.2
BUSY_TIDY_INTERVAL_S: Final = 1.0
"""The same while writes never cease."""
RETRY_AFTER_S: Final = 0.5


@dataclass
class _Call:
    write: Write[Any]
    deadline_s: float | None
    future: asyncio.Future[Any]


class GroupWriter:
    """The only way to the ledger."""

    def __init__(self, ledger: Ledger, limits: GalleryLimits) -> None:
        """Start with a running event loop."""
        self._ledger = ledger
        self._limits = limits
        self._executor = ThreadPoolExecutor(1, "gallery-writer")
        self._waiting: deque[_Call] = deque()
        self._waiting_bytes = 0
        self._changed = asyncio.Event()
        self._closing = False
        self._tidied_s = time.monotonic()
        self._task = asyncio.create_task(self._run())

    async def write(self, write: Write[R], deadline_s: float | None) -> R:
        """Return when the write is durable and visible.

        A caller that gives up while its write is being committed does not undo it.

        Raises:
            OverloadedError: too many writes wait.
            DeadlineExceededError: the deadline passed; the write was not begun, or it may yet be done.
            UnavailableError: closing.
            ShituError: as the write says.
        """
        if self._closing or self._task.done():
            raise UnavailableError("the gallery is closing")
        size_bytes = write.size_bytes
        if (
            len(self._waiting) >= self._limits.write_queue_calls
            or self._waiting_bytes + size_bytes > self._limits.write_queue_bytes
        ):
            message = f"{len(self._waiting)} writes of {self._waiting_bytes} bytes wait already"
            raise OverloadedError(message, RETRY_AFTER_S)
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(write, deadline_s, future))
        self._waiting_bytes += size_bytes
        self._changed.set()
        try:
            return await asyncio.wait_for(future, None if deadline_s is None else deadline_s - time.monotonic())
        except asyncio.TimeoutError as error:
            raise DeadlineExceededError("the deadline passed; the write may yet be done") from error

    def wake(self) -> None:
        """Look whether there is something to tidy up."""
        self._changed.set()

    async def close(self) -> None:
        """Finish the writes that wait, then stop."""
        self._closing = True
        self._changed.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._executor.shutdown()

    async def _run(self) -> None:
        while True:
            self._changed.clear()  # what comes from here on is seen before it waits
            calls = self._take()
            if calls:
                await self._commit(calls)
                if time.monotonic() - self._tidied_s > BUSY_TIDY_INTERVAL_S:
                    await self._tidy()
            elif self._waiting:
                continue
            elif self._closing:
                return
            else:
                await self._wait(TIDY_INTERVAL_S if await self._tidy() else None)

    async def _tidy(self) -> bool:
        self._tidied_s = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._ledger.tidy)
        except Exception:  # noqa: BLE001  # a bug; the writer lives on
            _log.exception("tidying failed")
            return False

    async def _wait(self, most_s: float | None) -> None:
        """Wait for something to do."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), most_s)

    def _take(self) -> list[_Call]:
        """Take writes that someone still waits for."""
        taken: list[_Call] = []
        while self._waiting and len(taken) < GROUP_CALLS:
            call = self._waiting.popleft()
            self._waiting_bytes -= call.write.size_bytes
            late = call.deadline_s is not None and call.deadline_s <= time.monotonic()
            if not late and not call.future.done():  # `write` itself tells the caller that it is late
                taken.append(call)
        return taken

    async def _commit(self, calls: list[_Call]) -> None:
        loop = asyncio.get_running_loop()
        writes = [call.write for call in calls]
        try:
            outcomes = await loop.run_in_executor(self._executor, self._ledger.apply, writes)
        except Exception as error:  # noqa: BLE001  # a bug; each caller gets it and the writer lives on
            outcomes = [error] * len(calls)
        for call, outcome in zip(calls, outcomes, strict=True):
            if call.future.done():
                continue
            if isinstance(outcome, Exception):
                call.future.set_exception(outcome)
            else:
                call.future.set_result(outcome)
