"""Calls of several requests, merged into one: while one is answered, what is asked meanwhile gathers for the next.

Nothing waits for company: an idle server calls at once, a busy one calls seldom and with much. Each call saved is a message less to
write, to send, to read and to answer, on both sides.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Generic, TypeVar

from shitu_server.errors import DeadlineExceededError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class _Entry(Generic[K, T, R]):
    key: K
    item: T
    size: int
    deadline_s: float | None
    answer: asyncio.Future[R]
    is_waiting: bool = True


class Merger(Generic[K, T, R]):
    """Belongs to one event loop."""

    def __init__(
        self,
        name: str,
        call: Callable[[K, Sequence[T], float | None], Awaitable[Sequence[R]]],
        *,
        most_size: Callable[[K], int],
        most_calls: int,
        item_faults: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        """Begin with nothing in flight.

        Args:
            name: of what is called, for people.
            call: answers items of the same key, by a deadline of `time.monotonic()` if there is one, with a result for each. It is
                cancelled when nobody waits for it any more.
            most_size: of a call; an item that is larger has a call for itself.
            most_calls: in flight at a time.
            item_faults: what a call raises that one of its items may be to blame for: they are then asked for one by one, so that
                the others do not suffer for it.
        """
        self._name = name
        self._call = call
        self._most_size = most_size
        self._most_calls = most_calls
        self._item_faults = item_faults
        self._waiting: deque[_Entry[K, T, R]] = deque()
        self._calls: dict[asyncio.Task[None], Sequence[_Entry[K, T, R]]] = {}
        self._is_scheduled = False
        self._closed_by: Exception | None = None
        self.waiting_size = 0
        """Of all that is in no call yet."""

    async def submit(self, key: K, item: T, size: int, deadline_s: float | None) -> R:
        """Return the result of an item.

        Args:
            key: items of the same key may share a call.
            item: what is asked.
            size: of it, in the unit of `most_size`.
            deadline_s: a time of `time.monotonic()` after which the result is of no use, or None.

        Raises:
            DeadlineExceededError: the deadline passed first.
            Exception: what the call raises, or what this was closed with.
        """
        if self._closed_by is not None:
            raise self._closed_by
        late = DeadlineExceededError(f"the deadline passed before {self._name} answered")
        left_s = math.inf if deadline_s is None else deadline_s - time.monotonic()
        if left_s <= 0:
            raise late
        loop = asyncio.get_running_loop()
        entry = _Entry[K, T, R](key, item, size, deadline_s, loop.create_future())
        self._waiting.append(entry)
        self.waiting_size += size
        self._schedule(loop)
        timer = None if math.isinf(left_s) else loop.call_later(left_s, _fail, entry.answer, late)
        try:
            return await entry.answer
        finally:
            if timer is not None:
                timer.cancel()
            if entry.is_waiting:  # too late, or cancelled
                self._waiting.remove(entry)
                self._leave(entry)

    async def close(self, reason: Exception) -> None:
        """Cancel what is in flight; who still waits is told the reason."""
        self._closed_by = reason
        entries = [*self._waiting, *(entry for entries in self._calls.values() for entry in entries)]
        for entry in entries:
            _fail(entry.answer, reason)
        calls = list(self._calls)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin at the end of this turn of the event loop: what is asked in the same turn goes together."""
        if not self._is_scheduled and len(self._calls) < self._most_calls:
            self._is_scheduled = True
            loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._is_scheduled = False
        while len(self._calls) < self._most_calls and (entries := self._taken()):
            task = asyncio.create_task(self._answer(entries))
            self._calls[task] = entries
            task.add_done_callback(self._end)
            _cancel_when_unwanted(task, entries)

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._calls[task]
        self._begin()

    def _taken(self) -> list[_Entry[K, T, R]]:
        """Take the first that someone still waits for, and of its key as many more as fit, in their order."""
        first = next((entry for entry in self._waiting if not entry.answer.done()), None)
        if first is None:
            return []
        taken: list[_Entry[K, T, R]] = []
        room = max(self._most_size(first.key), first.size)
        for entry in self._waiting:
            if entry.key != first.key or entry.answer.done():
                continue
            if entry.size > room:
                break
            taken.append(entry)
            room -= entry.size
        for entry in taken:
            self._leave(entry)
        self._waiting = deque(entry for entry in self._waiting if entry.is_waiting)
        return taken

    def _leave(self, entry: _Entry[K, T, R]) -> None:
        entry.is_waiting = False
        self.waiting_size -= entry.size

    async def _answer(self, entries: Sequence[_Entry[K, T, R]]) -> None:
        deadlines = [entry.deadline_s for entry in entries if entry.deadline_s is not None]
        latest_s = max(deadlines) if len(deadlines) == len(entries) else None
        try:
            results = await self._call(entries[0].key, [entry.item for entry in entries], latest_s)
        except asyncio.CancelledError:
            for entry in entries:
                entry.answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # raised where it is awaited
            if len(entries) > 1 and isinstance(error, self._item_faults):
                await asyncio.gather(*(self._answer([entry]) for entry in entries if not entry.answer.done()))
            for entry in entries:
                _fail(entry.answer, error)
        else:
            for entry, result in zip(entries, results, strict=True):
                if not entry.answer.done():
                    entry.answer.set_result(result)


def places_of(parts: Iterable[Sized]) -> list[slice]:
    """Return where each part lies when all are joined: a call's results are handed out by these."""
    sizes = [len(part) for part in parts]
    return [slice(end - size, end) for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]


def _fail(answer: asyncio.Future[R], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _cancel_when_unwanted(task: asyncio.Task[None], entries: Sequence[_Entry[K, T, R]]) -> None:
    left = len(entries)

    def one_less(_: asyncio.Future[R]) -> None:
        nonlocal left
        left -= 1
        if not left:
            task.cancel()

    for entry in entries:
        entry.answer.add_done_callback(one_less)
