"""Of the labels that have the nearest rows, the nearest rows each."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shitu_server.filters import Filter
from shitu_server.gallery.exact import NO_PLACE, Places, Ranked, Scores, by_chunk, nearly_by_label, scored_pairs
from shitu_server.gallery.nearest import Allowed, NearestRows
from shitu_server.types import Vectors

Codes = NDArray[np.int64]
Numbers = NDArray[np.int64]

LEAST_DEPTH: Final = 4
"""Rows looked at first for each label wanted, at least."""
MOST_DEPTH: Final = 4096
"""Where so many rows do not bring enough labels, the best row of every label is computed."""
DEEPER: Final = 4
BIG_LABEL_ROWS: Final = 1024
"""Labels with more rows are searched one by one; all rows of the others are scored exactly, together."""
LABEL_TABLE: Final = 4 * 1024 * 1024
"""Scores of queries and labels that are held at once, 16 MB."""


class _Wanted(NamedTuple):
    """Labels that queries want rows of; each pair once."""

    queries: Numbers
    """int64 [p], their numbers."""
    codes: Codes
    """int64 [p]."""


class _Pairs(NamedTuple):
    """Rows of the wanted labels."""

    queries: Numbers
    codes: Codes
    places: Places


def nearest_by_label(rows: NearestRows, queries: Vectors, k: int, where: Filter | None, per_label: int) -> Ranked:
    """Return the `per_label` nearest rows of each of the k labels that have the nearest rows, [n, any].

    Without graph or lists they are exactly those. With them a label may be missed, but of those that are told no row is.

    Args:
        rows: of a snapshot.
        queries: float32 [n, dimension], one or more.
        k: labels wanted.
        where: see `IndexSnapshot.search`; it allows one row at least.
        per_label: rows wanted of each.
    """
    sizes = _label_sizes(rows, rows.allowed(where))
    k = min(k, int(np.count_nonzero(sizes)))
    wanted = _wanted_labels(rows, queries, k, where, sizes)
    big = sizes[wanted.codes] > max(BIG_LABEL_ROWS, per_label)
    pairs = [
        _rows_of_small_labels(rows, _Wanted(wanted.queries[~big], wanted.codes[~big]), where, len(sizes)),
        *_rows_of_big_labels(rows, queries, _Wanted(wanted.queries[big], wanted.codes[big]), where, per_label),
    ]
    together = _Pairs(*(np.concatenate(values) for values in zip(*pairs, strict=True)))
    return _told(rows, queries, together, k, per_label)


def _label_sizes(rows: NearestRows, allowed: Allowed) -> NDArray[np.int64]:
    """Return how many allowed rows each label has, int64 [labels]; of all labels that there are or once were."""
    label_count = max(len(view.columns.labels.texts) for view in rows.views if view is not None)
    sizes = np.zeros(label_count, dtype=np.int64)
    for view, mask, count in zip(rows.views, allowed.masks, allowed.counts, strict=True):
        if view is not None and count:
            codes = view.columns.labels.codes
            sizes += np.bincount(codes if mask is None else codes[mask], minlength=label_count)
    return sizes


def _wanted_labels(
    rows: NearestRows, queries: Vectors, k: int, where: Filter | None, sizes: NDArray[np.int64]
) -> _Wanted:
    """Return the k labels of each query that have the nearest rows, or some more where that is not settled yet."""
    labels = np.flatnonzero(sizes)
    if k == len(labels):
        return _Wanted(np.repeat(np.arange(len(queries)), k), np.tile(labels, len(queries)))
    row_count = int(sizes.sum())
    depth = round(k * max(LEAST_DEPTH, row_count / len(labels)))
    unsettled = np.arange(len(queries))
    parts: list[_Wanted] = []
    while len(unsettled) and depth <= MOST_DEPTH:
        best = rows.nearest(queries[unsettled], min(depth, row_count), where)
        codes = _codes(rows, best.places)
        leads = _is_first(codes) & (codes != NO_PLACE)
        leads &= np.cumsum(leads, axis=1) <= k
        settled = np.count_nonzero(leads, axis=1) == k
        leads[~settled] = False
        which, columns = np.nonzero(leads)
        parts.append(_Wanted(unsettled[which], codes[which, columns]))
        unsettled, depth = unsettled[~settled], DEEPER * depth
    parts.extend(_labels_of_all_rows(rows, queries, unsettled, k, rows.allowed(where), len(sizes)))
    return _Wanted(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _labels_of_all_rows(
    rows: NearestRows, queries: Vectors, numbers: Numbers, k: int, allowed: Allowed, label_count: int
) -> list[_Wanted]:
    """Return the labels that may be among the k nearest of each query, by comparing with all rows."""
    parts = []
    step = max(1, LABEL_TABLE // label_count)
    for begin in range(0, len(numbers), step):
        some = numbers[begin : begin + step]
        scores, error = nearly_by_label(
            rows.views, allowed.masks, allowed.counts, queries[some], rows.metric, label_count
        )
        least = np.partition(scores, -k, axis=1)[:, -k] - 2 * error
        which, codes = np.nonzero(scores >= least[:, np.newaxis])
        parts.append(_Wanted(some[which], codes))
    return parts


def _rows_of_small_labels(rows: NearestRows, wanted: _Wanted, where: Filter | None, label_count: int) -> _Pairs:
    """Return all allowed rows of labels."""
    is_wanted = np.zeros(label_count, dtype=np.bool_)
    is_wanted[wanted.codes] = True
    allowed = rows.allowed(where)
    places, codes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for number, (view, mask, count) in enumerate(zip(rows.views, allowed.masks, allowed.counts, strict=True)):
        if view is not None and count and len(wanted.codes):
            of_rows = view.columns.labels.codes
            slots = np.flatnonzero(is_wanted[of_rows] if mask is None else is_wanted[of_rows] & mask)
            places.append(number * rows.chunk_rows + slots)
            codes.append(of_rows[slots].astype(np.int64))
    all_codes = np.concatenate(codes)
    order = np.argsort(all_codes, kind="stable")
    begins = np.searchsorted(all_codes, wanted.codes, "left", sorter=order)
    counts = np.searchsorted(all_codes, wanted.codes, "right", sorter=order) - begins
    before = np.cumsum(counts) - counts
    found = order[np.repeat(begins - before, counts) + np.arange(counts.sum())]
    return _Pairs(np.repeat(wanted.queries, counts), all_codes[found], np.concatenate(places)[found])


def _rows_of_big_labels(
    rows: NearestRows, queries: Vectors, wanted: _Wanted, where: Filter | None, per_label: int
) -> list[_Pairs]:
    """Return the nearest rows of labels."""
    parts = []
    for code in np.unique(wanted.codes).tolist():
        numbers = wanted.queries[wanted.codes == code]
        best = rows.exactly_nearest(queries[numbers], per_label, _of_label(rows, rows.allowed(where), code))
        parts.append(_Pairs(np.repeat(numbers, per_label), np.full(best.places.size, code), best.places.ravel()))
    return parts


def _of_label(rows: NearestRows, allowed: Allowed, code: int) -> Allowed:
    masks, counts = [], []
    for view, mask in zip(rows.views, allowed.masks, strict=True):
        same = None if view is None else view.columns.labels.codes == code
        both = same if same is None or mask is None else same & mask
        masks.append(both)
        counts.append(0 if both is None else int(np.count_nonzero(both)))
    return Allowed(masks, counts)


def _told(rows: NearestRows, queries: Vectors, pairs: _Pairs, k: int, per_label: int) -> Ranked:
    """Score all pairs, and keep the nearest rows of the nearest labels."""
    scores, row_ids = scored_pairs(rows.views, rows.chunk_rows, queries, pairs.queries, pairs.places, rows.metric)
    order = np.lexsort((row_ids, -scores, pairs.codes, pairs.queries))
    numbers, codes, scores, row_ids, places = (
        values[order] for values in (pairs.queries, pairs.codes, scores, row_ids, pairs.places)
    )
    leads = np.ones(len(order), dtype=np.bool_)
    leads[1:] = (np.diff(numbers) != 0) | (np.diff(codes) != 0)
    label = np.cumsum(leads) - 1
    first = np.flatnonzero(leads)
    kept = (np.arange(len(order)) - first[label] < per_label) & (
        _ranks(numbers[first], scores[first], row_ids[first])[label] < k
    )
    numbers, scores, row_ids, places = (values[kept] for values in (numbers, scores, row_ids, places))
    ranks = _ranks(numbers, scores, row_ids)
    shape = (len(queries), int(ranks.max()) + 1)
    result = Ranked(np.full(shape, -np.inf, dtype=np.float32), np.full(shape, NO_PLACE), np.full(shape, NO_PLACE))
    result.scores[numbers, ranks] = scores
    result.places[numbers, ranks] = places
    result.row_ids[numbers, ranks] = row_ids
    return result


def _ranks(numbers: Numbers, scores: Scores, row_ids: NDArray[np.int64]) -> Numbers:
    """Return which in the order of its query each row is, from 0."""
    order = np.lexsort((row_ids, -scores, numbers))
    sorted_numbers = numbers[order]
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.searchsorted(sorted_numbers, sorted_numbers)
    return ranks


def _codes(rows: NearestRows, places: Places) -> Codes:
    """Return the labels of rows, int64 [n, m]; NO_PLACE where there is no row."""
    flat = places.ravel()
    codes = np.full(flat.size, NO_PLACE)
    order = np.argsort(flat, kind="stable")
    order = order[np.searchsorted(flat, 0, sorter=order) :]
    found = [view.columns.labels.codes[slots] for view, slots in by_chunk(rows.views, rows.chunk_rows, flat[order])]
    codes[order] = np.concatenate([np.empty(0, np.int32), *found])
    return codes.reshape(places.shape)


def _is_first(codes: Codes) -> NDArray[np.bool_]:
    """Return where a code stands for the first time in its line; bool [n, m]."""
    order = np.argsort(codes, axis=1, kind="stable")
    ordered = np.take_along_axis(codes, order, 1)
    fresh = np.ones(codes.shape, dtype=np.bool_)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    result = np.empty_like(fresh)
    np.put_along_axis(result, order, fresh, 1)
    return result
