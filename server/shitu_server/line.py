"""The line that requests stand in for the models: first come, first served, and none is begun that would be done too late."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from shitu_server.admission import Admission, busy
from shitu_server.errors import DeadlineExceededError, OverloadedError
from shitu_server.pace import Pace

_LEAST_RETRY_S: Final = 0.1
_MOST_RETRY_S: Final = 5.0


class Line:
    """So many requests are worked on at a time, in the order in which they came: all at once would be done at the same time, late.

    Belongs to one event loop.
    """

    def __init__(self, most_requests: int, most_at_work: int) -> None:
        """Begin with nobody in line.

        Args:
            most_requests: in line, at work, or with the work behind them; over it they are refused at their entrance. 1 or more.
            most_at_work: 1 or more.
        """
        self._most_requests = most_requests
        self._most_at_work = most_at_work
        self._work = Admission("requests at work", most_at_work)
        self._pace = Pace()
        self.in_flight = 0

    @contextmanager
    def admit(self, deadline_s: float | None) -> Iterator[None]:
        """Count a request while the body runs, in which it takes its `turn`.

        Args:
            deadline_s: a time of `time.monotonic()`; what would not be done by then is not begun. Were it, a line longer than the
                clients' patience would be all work that nobody waits for any more.

        Raises:
            OverloadedError: there are too many, or the line is too long for the deadline.
            DeadlineExceededError: it has passed.
        """
        if self.in_flight >= self._most_requests:
            raise self._refusal(f"{self.in_flight} pictures in flight, the limit is {self._most_requests}")
        self._check_time(deadline_s)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    @asynccontextmanager
    async def turn(self, deadline_s: float | None) -> AsyncIterator[None]:
        """Wait for one's turn, which lasts as long as the body.

        Raises:
            OverloadedError: the line took longer than was thought, and the time left is too short for the work.
            DeadlineExceededError: the turn did not come in time.
        """
        has_to_wait = self._work.is_full
        async with self._work.room(1, deadline_s):
            if has_to_wait:  # else it is tried, whatever was seen before: an idle server refuses nothing
                self._check_left(deadline_s, self._pace.shortest_s)
            begin_s = time.monotonic()
            try:
                yield
            except (DeadlineExceededError, asyncio.CancelledError):
                self._pace.note_cut_off(time.monotonic() - begin_s)
                raise
            self._pace.note(time.monotonic() - begin_s)

    def _check_time(self, deadline_s: float | None) -> None:
        needed_s = self._wait_s() + self._pace.shortest_s if self._work.is_full else 0.0
        self._check_left(deadline_s, needed_s)

    def _check_left(self, deadline_s: float | None, needed_s: float) -> None:
        left_s = math.inf if deadline_s is None else deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceededError("the deadline passed before the work was begun")
        if needed_s > left_s:
            raise self._refusal(
                f"{self._work.waiting} pictures stand in line, this takes about {needed_s:.2f} s, and {left_s:.2f} s are left"
            )

    def _wait_s(self) -> float:
        """Return how long who comes now stands in line, about."""
        return self._pace.mean_s * (self._work.waiting + 1) / self._most_at_work

    def _refusal(self, why: str) -> OverloadedError:
        return busy(why, min(max(self._wait_s(), _LEAST_RETRY_S), _MOST_RETRY_S))
