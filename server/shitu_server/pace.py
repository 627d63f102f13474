"""How long work takes, by what was seen last."""

from __future__ import annotations

from typing import Final

_MEMORY: Final = 0.9
"""Share of what was seen before that counts on when one more is seen: after 22 a tenth is left."""
_RISE: Final = 1.05
"""By which the shortest time that was seen grows with each that is seen: after 15 it is twice as long."""


class Pace:
    """Of work of one kind: what it takes in the mean, and at least."""

    def __init__(self) -> None:
        self._sum_s = 0.0
        self._weight = 0.0
        self.shortest_s = 0.0
        """About the least; 0 where nothing was seen yet."""

    @property
    def mean_s(self) -> float:
        """About the mean; 0 where nothing was seen yet."""
        return self._sum_s / self._weight if self._weight else 0.0

    def note(self, took_s: float) -> None:
        """Work was done."""
        self._count(took_s)
        self.shortest_s = min(took_s, _RISE * self.shortest_s) if self.shortest_s else took_s

    def note_cut_off(self, after_s: float) -> None:
        """Work was given up: it would have taken longer, which is news only where less was thought."""
        if not self.shortest_s:  # of which nothing is known by this
            self._count(max(after_s, self.mean_s))
        elif after_s > self.shortest_s:
            self.note(max(after_s, self.mean_s))

    def _count(self, took_s: float) -> None:
        self._sum_s = _MEMORY * self._sum_s + took_s
        self._weight = _MEMORY * self._weight + 1
