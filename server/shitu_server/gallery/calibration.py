"""How widely graph or lists must be looked through is measured on the rows themselves: it differs ten times from gallery to gallery."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from shitu_server.gallery.exact import NO_PLACE, Places
from shitu_server.gallery.nearest import NearestRows, reach_for
from shitu_server.gallery.neighbours import BuildCancelledError, FaissNeighbours
from shitu_server.types import Metric, Vectors

PARTS_OF_DEPTH: Final = {10: 4, 100: 2, 1000: 1}
"""For so many nearest rows the widths are measured, each with so many parts of the queries: more rows need fewer queries."""
QUERIES_OF_PART: Final = 64
LEAST_SHARE: Final = 10
"""Not for more than one of so many rows: all are compared then."""
WANTED_RECALL: Final = 0.992
"""Of the queries that are made up. Real ones may be harder, so the search looks a step further: 0.99 is promised."""
TIE: Final = 1e-6
"""Of rows so nearly equal any will do."""
SEED: Final = 2


def widths_for(
    neighbours: FaissNeighbours, rows: NearestRows, places: Places, cancelled: threading.Event
) -> Mapping[int, int]:
    """Return how widely one must look for some reaches (`Neighbours.find`); it takes a few seconds for a million rows.

    Args:
        neighbours: just built.
        rows: that it was built of.
        places: int64 [m], of its positions; NO_PLACE for the dead.
        cancelled: once set, BuildCancelledError is raised soon.
    """
    living = places[places != NO_PLACE]
    deepest = min(len(living), max(min(PARTS_OF_DEPTH), len(living) // LEAST_SHARE), max(PARTS_OF_DEPTH))
    trials = [
        _Trial(neighbours, rows, places, queries, deepest, cancelled)
        for queries in _queries(neighbours, rows, places, living)
    ]
    widths: dict[int, int] = {}
    width = neighbours.LEAST_WIDTH
    for depth, part_count in PARTS_OF_DEPTH.items():
        parts = trials[:part_count]
        wanted = WANTED_RECALL * depth * sum(part.query_count for part in parts)
        if depth <= deepest:
            while width < neighbours.most_width and sum(part.found(depth, width) for part in parts) < wanted:
                width = neighbours.next_width(width)
            widths[parts[0].reach(depth)] = neighbours.next_width(width)
    return widths


def _queries(neighbours: FaissNeighbours, rows: NearestRows, places: Places, living: Places) -> Iterator[Vectors]:
    """Yield queries such as may come: as near to the rows as these are to one another, but none of them.

    Rows themselves are found too easily. So each is moved halfway to its nearest, and then by half of the difference of another row
    and the nearest of that: in a heap of rows that vary about a centre, the result varies about it as they do.
    """
    rng = np.random.default_rng(SEED)
    count = min(QUERIES_OF_PART * max(PARTS_OF_DEPTH.values()), len(living))
    sample = rng.choice(living, count, replace=False)
    for begin in range(0, count, QUERIES_OF_PART):
        vectors = rows.vectors(np.sort(sample[begin : begin + QUERIES_OF_PART]))
        _, positions = neighbours.looked_up(vectors, 2, neighbours.LEAST_WIDTH)
        nearest = np.where(positions[:, -1] < 0, NO_PLACE, places[positions[:, -1]])
        order = np.argsort(nearest, kind="stable")
        known = order[nearest[order] != NO_PLACE]
        moved = vectors.copy()
        if len(known):
            halfway = (rows.vectors(nearest[known]) - vectors[known]) / 2
            moved[known] += halfway + np.roll(halfway, 1, axis=0)
        if rows.metric is Metric.INNER_PRODUCT:
            moved /= np.linalg.norm(moved, axis=1, keepdims=True).clip(min=TIE)
        yield moved


class _Trial:
    """Queries, and what is nearest to them."""

    def __init__(
        self,
        neighbours: FaissNeighbours,
        rows: NearestRows,
        places: Places,
        queries: Vectors,
        deepest: int,
        cancelled: threading.Event,
    ) -> None:
        _check(cancelled)
        self._neighbours = neighbours
        self._rows = rows
        self._places = places
        self._queries = queries
        self._cancelled = cancelled
        self._alive_share = np.count_nonzero(places != NO_PLACE) / len(places)
        self._scores = rows.exactly_nearest(queries, deepest, rows.allowed(None)).scores

    @property
    def query_count(self) -> int:
        """How many there are."""
        return len(self._queries)

    def reach(self, depth: int) -> int:
        """Return how many rows to look at for so many living ones."""
        return reach_for(depth, self._alive_share)

    def found(self, depth: int, width: int) -> int:
        """Return how many of the nearest `depth` are found of each query, all together."""
        _check(self._cancelled)
        _, positions = self._neighbours.looked_up(self._queries, self.reach(depth), width)
        found = self._rows.ranked(self._queries, np.where(positions < 0, NO_PLACE, self._places[positions]))
        near = (found.scores >= self._scores[:, depth - 1, np.newaxis] - TIE) & (found.places != NO_PLACE)
        return int(np.minimum(np.count_nonzero(near, axis=1), depth).sum())


def _check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise BuildCancelledError
