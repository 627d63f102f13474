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
from functools import partial
from typing import Final, Generic, TypeVar

from shitu_server.errors import (
    DeadlineExceededError,
    InternalError,
    OverloadedError,
    ShituError,
    UnavailableError,
)
from shitu_server.turns import Begin, Leave

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
R = TypeVar("R")

_RETRY_AFTER_S: Final = 0.1
"""A full line is worked off in about this time."""


@dataclass(eq=False)
class _Entry(Generic[K, T, R]):
    key: K
    item: T
    size: int
    deadline_s: float | None
    answer: asyncio.Future[R]
    is_waiting: bool = True
    is_alone: bool = False
    """A call that it shared failed, and one of those in it may be to blame."""


@dataclass(frozen=True)
class MergerLimits:
    """What a Merger does not exceed."""

    calls: int
    """In flight at a time."""
    waiting_size: float = math.inf
    """Of all that is in no call yet; more is refused. Unlimited where those who ask are limited already."""
    patience_s: float = math.inf
    """Longest wait of an item, in line and in its call, also where its deadline is later or there is none."""


def _at_once(begin: Begin) -> None:
    begin(lambda: None)


class Merger(Generic[K, T, R]):
    """Belongs to one event loop."""

    def __init__(
        self,
        name: str,
        call: Callable[[K, Sequence[T], float | None], Awaitable[Sequence[R]]],
        *,
        most_size: Callable[[K], int],
        limits: MergerLimits,
        item_faults: type[Exception] | tuple[type[Exception], ...] = (),
        ask_for_turn: Callable[[Begin], None] = _at_once,
    ) -> None:
        """Begin with nothing in flight.

        Args:
            name: of what is called, for people.
            call: answers items of the same key, by a deadline of `time.monotonic()` if there is one, with a result for each. It is
                cancelled when nobody waits for it any more.
            most_size: of a call of a key; an item that is larger has a call for itself. It does not raise.
            limits: of calls and of what waits.
            item_faults: what a call raises that one of its items may be to blame for: they then stand at the head of the line again,
                each for a call of its own, so that the others do not suffer for it.
            ask_for_turn: begins a call when it may be made, at once or later. What goes into it is chosen then: what came in the
                meantime shares it, and what nobody waits for any more is left out.
        """
        self._name = name
        self._call = call
        self._most_size = most_size
        self._limits = limits
        self._item_faults = item_faults
        self._ask_for_turn = ask_for_turn
        self._waiting: deque[_Entry[K, T, R]] = deque()
        self.waiting_size = 0
        """Of all that is in no call yet."""
        self._calls: dict[asyncio.Task[None], list[_Entry[K, T, R]]] = {}
        self._is_scheduled = False
        self._is_in_line = False
        """For a turn."""
        self._closed_by: ShituError | None = None

    async def submit(self, key: K, item: T, size: int, deadline_s: float | None) -> R:
        """Return the result of an item.

        Args:
            key: items of the same key may share a call.
            item: what is asked.
            size: of it, in the unit of `most_size`.
            deadline_s: a time of `time.monotonic()` after which the result is of no use, or None.

        Raises:
            DeadlineExceededError: the deadline passed first.
            OverloadedError: too much waits.
            UnavailableError: it took longer than the limit.
            Exception: what the call raises, or what this was closed with.
        """
        self._check_open(size)
        left_s = math.inf if deadline_s is None else deadline_s - time.monotonic()
        if left_s <= 0:
            raise self._late()
        loop = asyncio.get_running_loop()
        entry = _Entry[K, T, R](key, item, size, deadline_s, loop.create_future())
        self._wait(entry)
        self._schedule(loop)
        timer = self._end_of_patience(loop, entry.answer, left_s)
        try:
            return await entry.answer
        finally:
            if timer is not None:
                timer.cancel()
            if entry.is_waiting:  # too late, or cancelled
                self._waiting.remove(entry)
                self._leave(entry)
            # The traceback of a failure holds this frame; did the frame hold the failure, too, pictures would stay in memory until
            # the cyclic collector comes, uncounted by admission.
            del entry

    async def close(self, reason: ShituError) -> None:
        """Cancel what is in flight; who still waits is told the reason."""
        self._closed_by = reason
        entries = [*self._waiting, *(entry for entries in self._calls.values() for entry in entries)]
        for entry in entries:
            _fail(entry.answer, reason)
        calls = list(self._calls)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _check_open(self, size: int) -> None:
        if self._closed_by is not None:
            raise self._closed_by
        if self.waiting_size + size > self._limits.waiting_size:
            raise OverloadedError(
                f"{self._name} has {self.waiting_size} waiting already, the limit is {self._limits.waiting_size:g}",
                _RETRY_AFTER_S,
            )

    def _late(self) -> DeadlineExceededError:
        return DeadlineExceededError(f"the deadline passed before {self._name} answered")

    def _end_of_patience(
        self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[R], left_s: float
    ) -> asyncio.TimerHandle | None:
        """Let the answer fail when its time is over."""
        patience_s = self._limits.patience_s
        if left_s <= patience_s:
            return None if math.isinf(left_s) else loop.call_later(left_s, lambda: _fail(answer, self._late()))
        message = f"{self._name} gave no answer within {patience_s:g} s; try again"
        return loop.call_later(patience_s, lambda: _fail(answer, UnavailableError(message)))

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin at the end of this turn of the event loop: what is asked in the same turn goes together."""
        if not self._is_scheduled and self._has_room:
            self._is_scheduled = True
            loop.call_soon(self._begin)

    @property
    def _has_room(self) -> bool:
        return not self._is_in_line and len(self._calls) < self._limits.calls

    @property
    def _first(self) -> _Entry[K, T, R] | None:
        """Of those in line that somebody still waits for."""
        return next((entry for entry in self._waiting if not entry.answer.done()), None)

    def _begin(self) -> None:
        self._is_scheduled = False
        while self._has_room and self._first is not None:
            self._is_in_line = True
            self._ask_for_turn(self._call_next)

    def _call_next(self, leave: Leave) -> None:
        self._is_in_line = False
        if entries := self._taken():
            task = asyncio.create_task(self._answer(entries))
            self._calls[task] = entries
            task.add_done_callback(partial(self._end, leave))
            _cancel_when_unwanted(task, entries)
            if self._waiting:
                self._schedule(task.get_loop())
        else:
            leave()

    def _end(self, leave: Leave, task: asyncio.Task[None]) -> None:
        for entry in self._calls.pop(task):  # an error, since a cancelled handler gives its client no status at all
            _fail(entry.answer, UnavailableError(f"the call to {self._name} ended without an answer; try again"))
        leave()
        self._begin()

    def _taken(self) -> list[_Entry[K, T, R]]:
        """Take the first, and of its key as many more as fit, in their order."""
        first = self._first
        if first is None:
            return []
        taken = [first] if first.is_alone else self._alike(first)
        for entry in taken:
            self._leave(entry)
        self._waiting = deque(entry for entry in self._waiting if entry.is_waiting)
        return taken

    def _alike(self, first: _Entry[K, T, R]) -> list[_Entry[K, T, R]]:
        taken: list[_Entry[K, T, R]] = []
        room = max(self._most_size(first.key), first.size)
        for entry in self._waiting:
            if entry.key != first.key or entry.is_alone or entry.answer.done():
                continue
            if entry.size > room:
                break
            taken.append(entry)
            room -= entry.size
        return taken

    def _wait(self, entry: _Entry[K, T, R], *, at_head: bool = False) -> None:
        entry.is_waiting = True
        self.waiting_size += entry.size
        if at_head:
            self._waiting.appendleft(entry)
        else:
            self._waiting.append(entry)

    def _leave(self, entry: _Entry[K, T, R]) -> None:
        entry.is_waiting = False
        self.waiting_size -= entry.size

    async def _answer(self, entries: list[_Entry[K, T, R]]) -> None:
        """Call, and hand out what comes; whoever is still in `entries` afterwards, without an answer, is told so by `_end`."""
        deadlines = [entry.deadline_s for entry in entries if entry.deadline_s is not None]
        latest_s = max(deadlines) if len(deadlines) == len(entries) else None
        try:
            results = await self._results(entries[0].key, [entry.item for entry in entries], latest_s)
        except Exception as error:  # noqa: BLE001  # raised where it is awaited
            self._fail_all(entries, error)
        else:
            for entry, result in zip(entries, results, strict=True):
                if not entry.answer.done():
                    entry.answer.set_result(result)
        finally:
            del entries  # see `submit`: the traceback of a failure holds this frame as well

    async def _results(self, key: K, items: Sequence[T], deadline_s: float | None) -> Sequence[R]:
        results = await self._call(key, items, deadline_s)
        if len(results) != len(items):
            raise InternalError(f"{self._name} gave {len(results)} results for {len(items)} items")
        return results

    def _fail_all(self, entries: list[_Entry[K, T, R]], error: Exception) -> None:
        if len(entries) > 1 and isinstance(error, self._item_faults):
            self._ask_again(entries)
        else:
            for entry in entries:
                _fail(entry.answer, error)

    def _ask_again(self, entries: list[_Entry[K, T, R]]) -> None:
        """Let each stand at the head of the line for a call of its own, which may begin before this one has left."""
        while entries:
            entry = entries.pop()
            if not entry.answer.done():
                entry.is_alone = True
                self._wait(entry, at_head=True)


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
