"""Turns of calls to several models on the same processors: a long call has them for itself, short ones run side by side.

On a CPU each call uses all processors that there are. Side by side long ones push each other out of the caches, while short ones fill
the gaps between each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

Leave = Callable[[], None]
"""Says that the call has ended."""
Begin = Callable[[Leave], None]
"""Begins the call."""


class _Waiter(NamedTuple):
    is_long: bool
    begin: Begin


class Turns:
    """Belongs to one event loop."""

    def __init__(self, long_calls: int | None) -> None:
        """Begin with nothing running.

        Args:
            long_calls: that may run at a time, with no short one beside them; None where calls do not disturb each other.
        """
        self._long_calls = long_calls
        self.are_limited: Final = long_calls is not None
        """Whether a long call keeps others waiting."""
        self._long_count = 0
        self._short_count = 0
        self._line: deque[_Waiter] = deque()

    def ask(self, *, is_long: bool, begin: Begin) -> None:
        """Begin a call when it is its turn, at once or later; those who ask come in their order, so that nobody is passed for ever.

        Args:
            is_long: whether it wants the processors for itself.
            begin: does not raise. What it is given is to be called once, when the call has ended or there is none to make. A call that was
                cancelled has ended here, though a model may be at it a little longer: that cannot be seen.
        """
        self._line.append(_Waiter(is_long, begin))
        self._advance()

    def _advance(self) -> None:
        while self._line and self._has_room(is_long=self._line[0].is_long):
            is_long, begin = self._line.popleft()
            self._count(1, is_long=is_long)
            begin(partial(self._leave, is_long=is_long))

    def _has_room(self, *, is_long: bool) -> bool:
        if self._long_calls is None:
            return True
        return not self._short_count and self._long_count < self._long_calls if is_long else not self._long_count

    def _leave(self, *, is_long: bool) -> None:
        self._count(-1, is_long=is_long)
        self._advance()

    def _count(self, change: int, *, is_long: bool) -> None:
        if is_long:
            self._long_count += change
        else:
            self._short_count += change
