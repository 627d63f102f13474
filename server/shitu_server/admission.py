"""Admission: more than a limit in flight is refused at once, or waits its turn, so that what is accepted stays fast.

Triton's own queue policies are not used: they stall the batcher and collapse goodput under overload.
"""

from __future__ import annotations

import asyncio
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
_RETRY_S: Final = 0.2
"""What is refused for its number is told, where nothing is known of how long it takes."""


class _Waiter(NamedTuple):
    amount: int
    granted: asyncio.Future[None]


class Admission:
    """Counts what is in flight: pixels, crops or calls. Belongs to one event loop."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._waiters: deque[_Waiter] = deque()
        self.in_flight = 0

    @property
    def is_full(self) -> bool:
        """Whether the next one would have to wait, or be refused."""
        return self.in_flight >= self._limit or bool(self._waiters)

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._waiters)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count one while the body runs.

        Raises:
            OverloadedError: the limit is reached.
        """
        if self.in_flight >= self._limit:
            raise busy(f"{self.in_flight} {self._name} in flight, the limit is {self._limit}", _RETRY_S)
        self.in_flight += 1
        try:
            yield
        finally:
            self._release(1)

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
        loop = asyncio.get_running_loop()
        waiter = _Waiter(amount, loop.create_future())
        self._waiters.append(waiter)
        # Not `wait_for`: before Python 3.12 it returns as if nothing were where it is cancelled and granted in the same turn of the loop.
        timer = None if deadline_s is None else loop.call_later(deadline_s - time.monotonic(), self._refuse, waiter)
        try:
            await waiter.granted
        except BaseException:
            self._forget(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _refuse(self, waiter: _Waiter) -> None:
        if not waiter.granted.done():
            late = DeadlineExceededError(f"the deadline passed while {self._name} were waiting for room")
            waiter.granted.set_exception(late)

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif not waiter.granted.cancelled() and waiter.granted.exception() is None:  # granted in the same moment
            self._release(waiter.amount)

    def _release(self, amount: int) -> None:
        self.in_flight -= amount
        while self._waiters and self.in_flight < self._limit:
            waiter = self._waiters.popleft()
            if not waiter.granted.done():  # else it timed out or was cancelled
                self.in_flight += waiter.amount
                waiter.granted.set_result(None)


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


def busy(why: str, retry_after_s: float) -> OverloadedError:
    """Return the error for what is not done now."""
    return OverloadedError(f"busy: {why}; try again in about {retry_after_s:.1f} s", retry_after_s)
