"""The rows nearest to queries, by comparing all or by graph or lists, whichever is right and faster."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_server.filters import Filter
from shitu_server.gallery.column_views import Mask
from shitu_server.gallery.exact import NO_PLACE, Candidates, Places, Ranked, by_chunk, exact_us, merged, ranked, scan
from shitu_server.gallery.neighbours import Indexed
from shitu_server.gallery.recent import Recent
from shitu_server.gallery.rows import RowsView
from shitu_server.types import Metric, Vectors

SPARE_CANDIDATES: Final = 8
"""Candidates beyond those asked for, so that ties at the end are seen, and those that 16-bit copies put in a wrong order."""
SPARE_INDEXED: Final = 4
"""The same of graph or lists: 16-bit copies put those in a wrong order whose scores differ by less than 1e-5."""
SPREAD: Final = 2.5
"""Of so many standard deviations: with k = 10 about 2 of 100 queries must be searched again."""
LEAST_SHARE: Final = 1e-9
DEEPER: Final = 4
"""How many times as far a search looks that did not find enough."""


@dataclass(frozen=True)
class Allowed:
    """Living rows that may be found."""

    masks: Sequence[Mask | None]
    """Of each chunk, bool [n]; None where all rows of it are."""
    counts: Sequence[int]
    """Of each chunk."""

    @cached_property
    def count(self) -> int:
        """Of all chunks."""
        return sum(self.counts)


class NearestRows:
    """The rows of a snapshot. They do not change; any number of threads may search them."""

    def __init__(
        self,
        views: Sequence[RowsView | None],
        chunk_rows: int,
        metric: Metric,
        indexed: Indexed | None,
        *,
        prefer_indexed: bool = False,
    ) -> None:
        """Take what a snapshot consists of.

        Args:
            views: the chunks.
            chunk_rows: most rows of a chunk.
            metric: of the gallery.
            indexed: graph or lists of some of the rows.
            prefer_indexed: use them even where comparing is faster.
        """
        self.views: Final = views
        self.chunk_rows: Final = chunk_rows
        self.metric: Final = metric
        self._indexed = indexed
        self._prefer_indexed = prefer_indexed
        self._allowed_rows: Recent[Allowed] = Recent()
        self._outside_rows: Recent[Allowed] = Recent()
        self._eligible_positions: Recent[Mask] = Recent()
        self._row_count = sum(len(view.vectors) for view in views if view is not None)

    def nearest(self, queries: Vectors, k: int, where: Filter | None) -> Ranked:
        """Return the k nearest rows of each query, [n, k].

        Without graph or lists they are exactly those; with them, 99 of 100 are among them.

        Args:
            queries: float32 [n, dimension].
            k: not more than `allowed(where).count`.
            where: see `IndexSnapshot.search`.
        """
        if self._indexed is None:
            return self.exactly_nearest(queries, k, self.allowed(where))
        return self._nearly_nearest(queries, k, where, self._indexed)

    def exactly_nearest(self, queries: Vectors, k: int, allowed: Allowed) -> Ranked:
        """Return the k nearest of the allowed rows, [n, k]; there are so many."""
        unsettled, result = np.arange(len(queries)), _void(len(queries), k)
        depth, copy = k + SPARE_CANDIDATES, False
        while len(unsettled):
            parts = list(self._scanned(queries[unsettled], depth, allowed, copy=copy))
            candidates = merged(parts, depth)
            best = self.ranked(queries[unsettled], candidates.places)
            # An unseen row may be nearer, or as near and older.
            settled = (best.scores[:, k - 1] > candidates.bound) | (candidates.bound == -np.inf)
            if settled.all() and len(settled) == len(queries):
                return _first(best, k)
            _store(result, unsettled, best)
            unsettled, depth, copy = unsettled[~settled], DEEPER * depth, True
        return result

    def _nearly_nearest(self, queries: Vectors, k: int, where: Filter | None, indexed: Indexed) -> Ranked:
        allowed, outside = self.allowed(where), self._outside(where)
        inside_count = allowed.count - outside.count
        result = _void(len(queries), k)
        unsettled = np.arange(len(queries))
        reach = reach_for(k, inside_count / indexed.neighbours.count)
        while len(unsettled):
            if self._is_exact_better(len(unsettled), reach, allowed.count, indexed):
                _store(result, unsettled, self.exactly_nearest(queries[unsettled], k, allowed))
                break
            found = self._indexed_candidates(queries[unsettled], reach, where, indexed)
            parts = [found, *self._scanned(queries[unsettled], k + SPARE_INDEXED, outside, copy=False)]
            candidates = merged(parts, k + SPARE_INDEXED)
            best = self.ranked(queries[unsettled], candidates.places)
            # Of the nearest so many rows enough are allowed: then they are the nearest of those that are.
            settled = np.count_nonzero(found.places != NO_PLACE, axis=1) >= min(k, inside_count)
            if settled.all() and len(settled) == len(queries):
                return _first(best, k)
            _store(result, unsettled, best)
            unsettled, reach = unsettled[~settled], DEEPER * reach
        return result

    def _is_exact_better(self, query_count: int, reach: int, allowed_count: int, indexed: Indexed) -> bool:
        if reach > indexed.neighbours.count or self._prefer_indexed:
            return reach > indexed.neighbours.count
        cost_us = indexed.neighbours.cost_us(reach) * query_count
        return cost_us > exact_us(self._row_count, allowed_count, query_count)

    def _indexed_candidates(self, queries: Vectors, reach: int, where: Filter | None, indexed: Indexed) -> Candidates:
        scores, positions = indexed.neighbours.find(queries, reach)
        places = indexed.places[positions]
        void = positions < 0
        eligible = self._eligible(where, indexed)
        if eligible is not None:
            void |= ~eligible[positions]
        places[void], scores[void] = NO_PLACE, -np.inf
        anything, nothing = np.full(len(queries), np.inf), np.zeros(len(queries))
        return Candidates(scores, places, anything, nothing)

    def _scanned(self, queries: Vectors, depth: int, allowed: Allowed, *, copy: bool) -> Iterator[Candidates]:
        for number, (view, mask, count) in enumerate(zip(self.views, allowed.masks, allowed.counts, strict=True)):
            if view is not None and count:
                first_place = number * self.chunk_rows
                yield scan(view, first_place, mask, count, queries, depth, self.metric, copy=copy)

    def ranked(self, queries: Vectors, places: Places) -> Ranked:
        """Return candidates with their exact scores, in order; see `exact.ranked`."""
        return ranked(self.views, self.chunk_rows, queries, places, self.metric)

    def vectors(self, places: Places) -> Vectors:
        """Return the vectors of ascending places."""
        parts = by_chunk(self.views, self.chunk_rows, places)
        return np.concatenate([view.vectors.take(slots, axis=0) for view, slots in parts])

    def allowed(self, where: Filter | None) -> Allowed:
        """Return the living rows that a filter allows."""
        allowed = self._allowed_rows.get(where)
        if allowed is None:
            allowed = _filtered(self.views, [None if view is None else view.alive for view in self.views], where)
            self._allowed_rows.put(where, allowed)
        return allowed

    def _outside(self, where: Filter | None) -> Allowed:
        """Return those of them that neither graph nor lists hold."""
        outside = self._outside_rows.get(where)
        if outside is None:
            outside = _filtered(self.views, [None if view is None else view.outside for view in self.views], where)
            self._outside_rows.put(where, outside)
        return outside

    def _eligible(self, where: Filter | None, indexed: Indexed) -> Mask | None:
        """Return which positions of graph or lists a search may find, bool [m]; None where all."""
        if where is None:
            return None if indexed.alive_count == len(indexed.alive) else indexed.alive
        eligible = self._eligible_positions.get(where)
        if eligible is None:
            by_place = np.zeros(len(self.views) * self.chunk_rows, dtype=np.bool_)
            for number, (view, mask) in enumerate(zip(self.views, self.allowed(where).masks, strict=True)):
                if view is not None:
                    begin = number * self.chunk_rows
                    by_place[begin : begin + len(view.vectors)] = True if mask is None else mask
            eligible = by_place[indexed.places] & indexed.alive
            self._eligible_positions.put(where, eligible)
        return eligible


def reach_for(k: int, share: float) -> int:
    """Return how many of the nearest rows to look at, so that k of them are among a share of all; nearly always.

    Args:
        k: rows wanted.
        share: of the rows, 0 to 1.
    """
    if share == 1:
        return k + SPARE_INDEXED
    return math.ceil((k + SPREAD * math.sqrt(k)) / max(share, LEAST_SHARE)) + SPARE_INDEXED


def _filtered(views: Sequence[RowsView | None], masks: Sequence[Mask | None], where: Filter | None) -> Allowed:
    """Return those rows of some that a filter allows."""
    if where is not None:
        masks = [
            None if view is None else _both(view.columns.allowed(where), mask)
            for view, mask in zip(views, masks, strict=True)
        ]
    counts = [
        0 if view is None else len(view.vectors) if mask is None else int(np.count_nonzero(mask))
        for view, mask in zip(views, masks, strict=True)
    ]
    return Allowed(masks, counts)


def _both(allowed: Mask, mask: Mask | None) -> Mask:
    return allowed if mask is None else allowed & mask


def _first(best: Ranked, k: int) -> Ranked:
    return Ranked(best.scores[:, :k], best.places[:, :k], best.row_ids[:, :k])


def _void(query_count: int, k: int) -> Ranked:
    shape = (query_count, k)
    return Ranked(np.full(shape, -np.inf, dtype=np.float32), np.full(shape, NO_PLACE), np.full(shape, NO_PLACE))


def _store(result: Ranked, queries: NDArray[np.int64], best: Ranked) -> None:
    """Put what was found for some queries beside what was found for the others."""
    k = min(result.places.shape[1], best.places.shape[1])
    result.scores[queries, :k] = best.scores[:, :k]
    result.places[queries, :k] = best.places[:, :k]
    result.row_ids[queries, :k] = best.row_ids[:, :k]
