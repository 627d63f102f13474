"""Admission: more than a limit of items in flight is refused at once, so that what is accepted stays fast.

Triton's own queue policies are not used: they stall the batcher and collapse goodput under overload.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from shitu_server.errors import OverloadedError

T = TypeVar("T")

_MAX_PATIENCE_S: Final = 60.0
"""How long a call without a deadline is tried again."""


class Admission:
    """Counts items in flight: pictures in the gateway, or crops at the encoder."""

    def __init__(self, name: str, max_items: int, retry_after_s: float = 0.2) -> None:
        self._name = name
        self._max_items = max_items
        self._retry_after_s = retry_after_s
        self.in_flight_items = 0

    def check(self) -> None:
        """Raise OverloadedError where the limit is reached."""
        if self.in_flight_items >= self._max_items:
            raise OverloadedError(
                f"busy: {self.in_flight_items} {self._name} in flight, the limit is {self._max_items}; "
                f"try again in {self._retry_after_s} s",
                self._retry_after_s,
            )

    @contextmanager
    def hold(self, items: int) -> Iterator[None]:
        """Count `items` while the body runs, limit or not: the request was admitted, its work is half done."""
        self.in_flight_items += items
        try:
            yield
        finally:
            self.in_flight_items -= items

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count one item while the body runs.

        Raises:
            OverloadedError: the limit is reached.
        """
        self.check()
        with self.hold(1):
            yield


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
