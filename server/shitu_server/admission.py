"""Admission: more than a limit of items in flight is refused at once, so that what is accepted stays fast.

Triton's own queue policies are not used: they stall the batcher and collapse goodput under overload.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from shitu_server.errors import OverloadedError


class Admission:
    """Counts the items in flight at one model."""

    def __init__(self, name: str, max_items: int, retry_after_s: float = 0.2) -> None:
        self._name = name
        self._max_items = max_items
        self._retry_after_s = retry_after_s
        self.in_flight_items = 0

    def check(self) -> None:
        """Raise OverloadedError when no item more is admitted."""
        if self.in_flight_items >= self._max_items:
            raise OverloadedError(
                f"{self._name} is busy: {self.in_flight_items} items in flight, the limit is {self._max_items}; "
                f"try again in {self._retry_after_s} s",
                self._retry_after_s,
            )

    @contextmanager
    def admit(self, items: int) -> Iterator[None]:
        """Hold `items` places while the body runs.

        A request is admitted whole as long as the limit is not reached before it, so the count can pass the limit by one
        request; otherwise one with many boxes would never get in.

        Raises:
            OverloadedError: the limit is reached.
        """
        self.check()
        self.in_flight_items += items
        try:
            yield
        finally:
            self.in_flight_items -= items
