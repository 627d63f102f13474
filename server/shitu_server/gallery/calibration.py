"""How widely graph or lists must be looked through is measured on the rows themselves: it differs ten times from gallery to gallery."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_server.gallery.exact import NO_PLACE, Places, Ranked
from shitu_server.gallery.nearest import SPARE_CANDIDATES, NearestRows
from shitu_server.gallery.neighbours import BuildCancelledError, FaissNeighbours, Positions
from shitu_server.types import Vectors

DEPTHS: Final = (10, 100, 1000)
SAMPLE_ROWS: Final = 256
SAMPLES_AT_ONCE: Final = 64
WANTED_RECALL: Final = 0.997
"""Of the rows as queries. Measured on so few, and with others as queries, it may be less: 0.99 is promised."""
TIE: Final = 1e-6
SEED: Final = 2


def widths_for(
    neighbours: FaissNeighbours, rows: NearestRows, places: Places, cancelled: threading.Event
) -> Mapping[int, int]:
    """Return for some numbers of nearest rows how widely one must look to find them; a few seconds for a million rows.

    Args:
        neighbours: just built.
        rows: that it was built of.
        places: int64 [m], of its positions; NO_PLACE for the dead.
        cancelled: once set, BuildCancelledError is raised soon.
    """
    living = places[places != NO_PLACE]
    rng = np.random.default_rng(SEED)
    sample = np.sort(rng.choice(living, min(SAMPLE_ROWS, len(living)), replace=False))
    parts = [sample[begin : begin + SAMPLES_AT_ONCE] for begin in range(0, len(sample), SAMPLES_AT_ONCE)]
    deepest = min(DEPTHS[-1], len(living) - 1)
    trials = [_Trial(neighbours, rows, places, part, deepest, cancelled) for part in parts]
    widths: dict[int, int] = {}
    width = neighbours.LEAST_WIDTH
    for depth in DEPTHS:
        if depth > deepest:
            break
        while width < neighbours.most_width and sum(trial.found(depth, width) for trial in trials) < (
            WANTED_RECALL * depth * len(sample)
        ):
            width = neighbours.next_width(width)
        widths[depth] = width
    return widths


class _Trial:
    """Some rows as queries, and what is nearest to them."""

    def __init__(
        self,
        neighbours: FaissNeighbours,
        rows: NearestRows,
        places: Places,
        sample: Places,
        deepest: int,
        cancelled: threading.Event,
    ) -> None:
        _check(cancelled)
        self._neighbours = neighbours
        self._rows = rows
        self._places = places
        self._sample = sample
        self._cancelled = cancelled
        self._queries: Vectors = rows.vectors(sample)
        self._nearest: Ranked = rows.exactly_nearest(self._queries, deepest + 1, rows.allowed(None))

    def found(self, depth: int, width: int) -> int:
        """Return how many of the nearest `depth` are found of each row, itself not counted, all together."""
        _check(self._cancelled)
        _, positions = self._neighbours.find(self._queries, depth + SPARE_CANDIDATES, width, self._selected())
        places = np.where(positions < 0, NO_PLACE, self._places[positions])
        found = self._rows.ranked(self._queries, places)
        least = (
            self._nearest.scores[:, depth, np.newaxis] - TIE
        )  # with itself that is the last; of equal rows any will do
        near = (found.scores >= least) & (found.places != NO_PLACE)
        return int(np.minimum(np.count_nonzero(near, axis=1) - 1, depth).clip(min=0).sum())

    def _selected(self) -> NDArray[np.uint8] | None:
        alive = self._places != NO_PLACE
        return None if alive.all() else np.packbits(alive, bitorder="little")


def _check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise BuildCancelledError
