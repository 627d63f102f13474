"""Turns of calls to several models on the same processors: a long call has its share for itself, short ones run side by side.

On a CPU the instances of a model share the processors, and each call uses the share of one: with a single instance all that there are.
Side by side on one share long calls push each other out of the caches, while short ones fill the gaps between each other. Turns are
those of one gateway: several do not know of each other's calls.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Final, NamedTuple

Leave = Callable[[], None]
"""Says that the call has ended."""
Begin = Callable[[Leave], None]
"""Begins the call."""


class _Kind(Enum):
    LONG = "long"
    SHORT = "short"


class _Waiter(NamedTuple):
    kind: _Kind
    begin: Begin


class Turns:
    """Belongs to one event loop."""

    def __init__(self, long_calls: int | None) -> None:
        """Begin with nothing running.

        Args:
            long_calls: that may run at a time; in place of one of them, any number of short ones. None where calls do not disturb each
                other.
        """
        self._long_calls = long_calls
        self.are_limited: Final = long_calls is not None
        """Whether a long call keeps others waiting."""
        self._running = Counter[_Kind]()
        self._line: deque[_Waiter] = deque()

    def ask(self, *, is_long: bool, begin: Begin) -> None:
        """Begin a call when it is its turn, at once or later; those who ask come in their order, so that nobody is passed for ever.

        Args:
            is_long: whether it wants a share of the processors for itself.
            begin: does not raise. What it is given is to be called once, when the call has ended or there is none to make. A call that was
                cancelled has ended here, though a model may be at it a little longer: that cannot be seen.
        """
        self._line.append(_Waiter(_Kind.LONG if is_long else _Kind.SHORT, begin))
        self._advance()

    def _advance(self) -> None:
        while self._line and self._has_room(self._line[0].kind):
            kind, begin = self._line.popleft()
            self._running[kind] += 1
            begin(partial(self._leave, kind))

    def _has_room(self, kind: _Kind) -> bool:
        if self._long_calls is None:
            return True
        are_short_running = self._running[_Kind.SHORT] > 0
        if kind is _Kind.SHORT and are_short_running:
            return True
        return self._running[_Kind.LONG] + are_short_running < self._long_calls

    def _leave(self, kind: _Kind) -> None:
        self._running[kind] -= 1
        self._advance()
