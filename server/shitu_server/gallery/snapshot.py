"""Searching the rows of a gallery as they were at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shitu_server.filters import Filter
from shitu_server.gallery.building import Indexed
from shitu_server.gallery.columns import Mask, Recent
from shitu_server.gallery.exact import NO_PLACE, Candidates, Ranked, exact_us, merged, ranked, scan
from shitu_server.gallery.neighbours import Bits
from shitu_server.gallery.rows import Entry, RowsView, entries_of
from shitu_server.types import Metric, Vectors

SPARE_CANDIDATES: Final = 8
"""Candidates beyond those asked for, so that ties at the end are seen, and those that 16-bit copies put in a wrong order."""
DEEPER: Final = 4
"""How many times as far a search looks that did not find enough."""


class Found(NamedTuple):
    """An entry and its score, at most 1."""

    entry: Entry
    score: float


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


class IndexSnapshot:
    """Rows that do not change; any number of threads may search it."""

    def __init__(
        self, views: Sequence[RowsView | None], chunk_rows: int, metric: Metric, indexed: Indexed | None
    ) -> None:
        """For `GalleryIndex` only.

        Args:
            views: the chunks.
            chunk_rows: most rows of a chunk.
            metric: of the gallery.
            indexed: graph or lists of some of the rows.
        """
        self._views = views
        self._chunk_rows = chunk_rows
        self._metric = metric
        self._indexed = indexed
        self._allowed_rows: Recent[Allowed] = Recent()
        self._outside_rows: Recent[Allowed] = Recent()
        self._selections: Recent[Bits] = Recent()
        self._row_count = sum(len(view.vectors) for view in views if view is not None)
        self.count: Final = sum(view.alive_count for view in views if view is not None)
        """Living rows."""

    def search(self, queries: Vectors, k: int, where: Filter | None = None, per_label: int = 0) -> list[list[Found]]:
        """Return the nearest rows of each query, best first, of equal scores the older first.

        The scores do not depend on which queries are searched together. Without graph or lists nothing nearer is passed over;
        with them, less than one in a hundred.

        Args:
            queries: float32 [n, dimension]; L2-normalised, unless the metric is L2.
            k: 1 or more: rows, or labels where these are grouped.
            where: which rows may be found; checked against the fields (`filters.check_filter`). All where None.
            per_label: most rows of one label: of the k labels that have the nearest rows, so many each. 0 does not group.
        """
        allowed = self._allowed(where)
        if not len(queries) or not allowed.count:
            return [[] for _ in queries]
        return self._told(self._nearest(queries, min(k, allowed.count), where))

    def _nearest(self, queries: Vectors, k: int, where: Filter | None) -> Ranked:
        """Return the k nearest rows, [n, k]; there are so many."""
        if self._indexed is None:
            return self._exactly_nearest(queries, k, where)
        return self._nearly_nearest(queries, k, where, self._indexed)

    def _exactly_nearest(self, queries: Vectors, k: int, where: Filter | None) -> Ranked:
        allowed = self._allowed(where)
        result = _void(len(queries), k)
        unsettled = np.arange(len(queries))
        depth, copy = k + SPARE_CANDIDATES, False
        while len(unsettled):
            parts = list(self._scanned(queries[unsettled], depth, allowed, copy=copy))
            candidates = merged(parts, depth)
            best = self._ranked(queries[unsettled], candidates)
            _store(result, unsettled, best)
            # An unseen row may be nearer, or as near and older.
            open_ = (best.scores[:, k - 1] <= candidates.bound) & (candidates.bound > -np.inf)
            unsettled, depth, copy = unsettled[open_], DEEPER * depth, True
        return result

    def _nearly_nearest(self, queries: Vectors, k: int, where: Filter | None, indexed: Indexed) -> Ranked:
        neighbours = indexed.neighbours
        allowed, outside = self._allowed(where), self._outside(where)
        share = (allowed.count - outside.count) / neighbours.count
        result = _void(len(queries), k)
        unsettled = np.arange(len(queries))
        depth = k + SPARE_CANDIDATES
        width = neighbours.width(depth, share) if share else 0
        while len(unsettled):
            exact_cost_us = exact_us(self._row_count, allowed.count, len(unsettled))
            if not share or neighbours.cost_us(width, share) * len(unsettled) > exact_cost_us:
                _store(result, unsettled, self._exactly_nearest(queries[unsettled], k, where))
                break
            found = self._indexed_candidates(queries[unsettled], depth, width, where, indexed)
            parts = [found, *self._scanned(queries[unsettled], depth, outside, copy=False)]
            best = self._ranked(queries[unsettled], merged(parts, depth) if len(parts) > 1 else found)
            _store(result, unsettled, best)
            unsettled, width = unsettled[result.places[unsettled, k - 1] == NO_PLACE], DEEPER * width
        return result

    def _indexed_candidates(
        self, queries: Vectors, depth: int, width: int, where: Filter | None, indexed: Indexed
    ) -> Candidates:
        scores, positions = indexed.neighbours.find(queries, depth, width, self._selected(where, indexed))
        void = (positions < 0) | ~indexed.alive[positions]
        places = indexed.places[positions]
        places[void], scores[void] = NO_PLACE, -np.inf
        unknown = np.full(len(queries), np.inf)
        return Candidates(scores, places, unknown, unknown)

    def _scanned(self, queries: Vectors, depth: int, allowed: Allowed, *, copy: bool) -> Iterator[Candidates]:
        for number, (view, mask, count) in enumerate(zip(self._views, allowed.masks, allowed.counts, strict=True)):
            if view is not None and count:
                first_place = number * self._chunk_rows
                yield scan(view, first_place, mask, count, queries, depth, self._metric, copy=copy)

    def _ranked(self, queries: Vectors, candidates: Candidates) -> Ranked:
        return ranked(self._views, self._chunk_rows, queries, candidates.places, self._metric)

    def _told(self, best: Ranked) -> list[list[Found]]:
        known = best.places != NO_PLACE
        numbers, slots = np.divmod(best.places[known], self._chunk_rows)
        entries = entries_of(self._views, numbers.tolist(), slots.tolist(), best.row_ids[known].tolist())
        found = list(map(Found._make, zip(entries, best.scores[known].tolist(), strict=True)))
        ends = np.cumsum(np.count_nonzero(known, axis=1)).tolist()
        return [found[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]

    def _allowed(self, where: Filter | None) -> Allowed:
        """Return the living rows that a filter allows."""
        allowed = self._allowed_rows.get(where)
        if allowed is None:
            allowed = _filtered(self._views, [None if view is None else view.alive for view in self._views], where)
            self._allowed_rows.put(where, allowed)
        return allowed

    def _outside(self, where: Filter | None) -> Allowed:
        """Return those of them that neither graph nor lists hold."""
        outside = self._outside_rows.get(where)
        if outside is None:
            outside = _filtered(self._views, [None if view is None else view.outside for view in self._views], where)
            self._outside_rows.put(where, outside)
        return outside

    def _selected(self, where: Filter | None, indexed: Indexed) -> Bits | None:
        """Return the positions that may be found, for `Neighbours.find`; None where all may."""
        if where is None and indexed.alive_count == len(indexed.alive):
            return None
        bits = self._selections.get(where)
        if bits is None:
            bits = np.packbits(self._selection(where, indexed), bitorder="little")
            self._selections.put(where, bits)
        return bits

    def _selection(self, where: Filter | None, indexed: Indexed) -> Mask:
        if where is None:
            return indexed.alive
        by_place = np.zeros(len(self._views) * self._chunk_rows, dtype=np.bool_)
        for number, (view, mask) in enumerate(zip(self._views, self._allowed(where).masks, strict=True)):
            if view is not None:
                begin = number * self._chunk_rows
                by_place[begin : begin + len(view.vectors)] = True if mask is None else mask
        return by_place[indexed.places] & indexed.alive


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


def _void(query_count: int, k: int) -> Ranked:
    shape = (query_count, k)
    return Ranked(np.full(shape, -np.inf, dtype=np.float32), np.full(shape, NO_PLACE), np.full(shape, NO_PLACE))


def _store(result: Ranked, queries: NDArray[np.int64], best: Ranked) -> None:
    """Put what was found for some queries beside what was found for the others."""
    k = min(result.places.shape[1], best.places.shape[1])
    result.scores[queries, :k] = best.scores[:, :k]
    result.places[queries, :k] = best.places[:, :k]
    result.row_ids[queries, :k] = best.row_ids[:, :k]
