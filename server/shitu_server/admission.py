"""Admission: more than a limit in flight is refused at once, or waits its turn, so that what is accepted stays fast.

Triton's own queue policies are not used: they stall the batcher and collapse goodput under overload.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, NamedTuple, TypeVar

from shitu_server.errors import DeadlineExceededError, OverloadedError

T = TypeVar("T")

_MAX_PATIENCE_S: Final = 60.0
"""How long a call without a deadline is tried again."""
_LEAST_RETRY_S: Final = 0.1
_MOST_RETRY_S: Final = 5.0
"""Of what refused requests are told, which is otherwise how long what is in flight takes."""
_MEMORY: Final = 0.9
"""Share of what was seen before that counts on when one more is seen: after 22 a tenth is left."""


class _Waiter(NamedTuple):
    amount: int
    granted: asyncio.Future[None]


class _Pace:
    """How long each of those in flight takes, by what was seen last; requests of long queues tell most of it."""

    def __init__(self) -> None:
        self._took_s = 0.0
        self._among = 0.0

    def note(self, took_s: float, among: int) -> None:
        """One left that came as the last of so many in flight."""
        self._took_s = _MEMORY * self._took_s + took_s
        self._among = _MEMORY * self._among + among

    def fade(self) -> None:
        """Trust what was seen a little less: it keeps new things from being seen."""
        self._took_s *= _MEMORY

    def wait_s(self, among: int) -> float:
        """Return how long one will probably take that comes as the last of so many; 0 where nothing was seen yet."""
        return among * self._took_s / self._among if self._among else 0.0


class Admission:
    """Counts what is in flight: pictures, pixels, crops or calls. Belongs to one event loop."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._waiters: deque[_Waiter] = deque()
        self._pace = _Pace()
        self.in_flight = 0

    def check(self) -> None:
        """Raise OverloadedError where the limit is reached."""
        if self.in_flight >= self._limit:
            raise self.refusal(f"{self.in_flight} {self._name} in flight, the limit is {self._limit}")

    @contextmanager
    def admit(self, deadline_s: float | None = None) -> Iterator[None]:
        """Count one while the body runs.

        Args:
            deadline_s: a time of `time.monotonic()`; what would probably not be done by then is not begun. Were it, a queue
                longer than the clients' patience would be all work that nobody waits for any more.

        Raises:
            OverloadedError: the limit is reached, or the deadline is too near.
        """
        self.check()
        self._check_time(deadline_s)
        self.in_flight += 1
        among, begin_s = self.in_flight, time.monotonic()
        try:
            yield
        except (DeadlineExceededError, asyncio.CancelledError):
            self._note_cut_off(time.monotonic() - begin_s, among)
            raise
        else:
            self._pace.note(time.monotonic() - begin_s, among)
        finally:
            self._release(1)

    def _check_time(self, deadline_s: float | None) -> None:
        if deadline_s is None or not self.in_flight:  # one is always tried: else nothing new would ever be seen
            return
        wait_s, left_s = self._pace.wait_s(self.in_flight + 1), deadline_s - time.monotonic()
        if wait_s > left_s:
            raise self.refusal(
                f"with {self.in_flight} {self._name} in flight this takes about {wait_s:.2f} s, and {max(0.0, left_s):.2f} s are left"
            )

    def _note_cut_off(self, took_s: float, among: int) -> None:
        """One was given up: it would have taken longer, which says something only where that is long already."""
        if took_s > self._pace.wait_s(among):
            self._pace.note(took_s, among)

    def refusal(self, why: str) -> OverloadedError:
        """Return the error for a request that is not done now, with the time when to come again."""
        retry_after_s = min(max(self._pace.wait_s(self.in_flight), _LEAST_RETRY_S), _MOST_RETRY_S)
        return OverloadedError(f"busy: {why}; try again in about {retry_after_s:.1f} s", retry_after_s)

    @asynccontextmanager
    async def room(self, amount: int, deadline_s: float | None) -> AsyncIterator[None]:
        """Wait in line until the limit is not reached, then count `amount` while the body runs.

        For work of a request that was admitted already. The count can pass the limit by one request; otherwise one that needs
        more than the limit would never get in.

        Raises:
            DeadlineExceededError: no room before the deadline (a time of `time.monotonic()`).
        """
        await self._enter(amount, deadline_s)
        try:
            yield
        finally:
            self._release(amount)

    async def _enter(self, amount: int, deadline_s: float | None) -> None:
        if self.in_flight < self._limit and not self._waiters:
            self.in_flight += amount
            return
        waiter = _Waiter(amount, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await asyncio.wait_for(waiter.granted, None if deadline_s is None else deadline_s - time.monotonic())
        except asyncio.TimeoutError as error:
            self._forget(waiter)
            raise DeadlineExceededError(f"the deadline passed while {self._name} were waiting for room") from error
        except asyncio.CancelledError:
            self._forget(waiter)
            raise

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif not waiter.granted.cancelled():  # granted in the same moment
            self._release(waiter.amount)

    def _release(self, amount: int) -> None:
        self.in_flight -= amount
        while self._waiters and self.in_flight < self._limit:
            waiter = self._waiters.popleft()
            if not waiter.granted.done():  # else it timed out or was cancelled
                self.in_flight += waiter.amount
                waiter.granted.set_result(None)


class Line:
    """Requests are worked on in the order in which they came, so many at a time: all at once would be done at the same time, late.

    Belongs to one event loop.
    """

    def __init__(self, requests: Admission, most_at_work: int) -> None:
        """Begin with nobody in line.

        Args:
            requests: those in line and those at work; over its limit they are refused at their entrance.
            most_at_work: 1 or more.
        """
        self._requests = requests
        self._work = Admission("requests at work", most_at_work)
        self._pace = _Pace()
        """Of work alone."""

    @asynccontextmanager
    async def turn(self, deadline_s: float | None) -> AsyncIterator[None]:
        """Wait for one's turn, which lasts as long as the body.

        Raises:
            OverloadedError: there are too many; or, on coming or when it is one's turn, it would not be done in time.
            DeadlineExceededError: the turn did not come in time.
        """
        with self._requests.admit(deadline_s):
            async with self._work.room(1, deadline_s):
                self._check_time(deadline_s)
                begin_s = time.monotonic()
                yield
                self._pace.note(time.monotonic() - begin_s, 1)

    def _check_time(self, deadline_s: float | None) -> None:
        """Leave out what the line has kept too long: models would run for an answer that comes too late."""
        left_s = math.inf if deadline_s is None else deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceededError("the deadline passed while the request stood in line")
        if self._pace.wait_s(1) > left_s:
            self._pace.fade()
            raise self._requests.refusal(
                f"the work takes about {self._pace.wait_s(1):.2f} s, and {left_s:.2f} s are left"
            )


async def patiently(work: Callable[[], Awaitable[T]], deadline_s: float | None) -> T:
    """Do work again and again while it is refused as too much, until the deadline (a time of `time.monotonic()`).

    For streams, batches and bulk writes, whose callers are held back by flow control and need no refusals.

    Raises:
        OverloadedError: still refused at the deadline.
    """
    end_s = time.monotonic() + _MAX_PATIENCE_S if deadline_s is None else deadline_s
    while True:
        try:
            return await work()
        except OverloadedError as error:
            # Spread, so that those who were refused together do not come back together.
            pause_s = error.retry_after_s * random.uniform(0.5, 1.5)  # noqa: S311
            if time.monotonic() + pause_s >= end_s:
                raise
            await asyncio.sleep(pause_s)
