"""Comparing queries with rows: fast and nearly right over whole chunks, then exactly over the few that may be nearest."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

from shitu_server.errors import ConfigurationError
from shitu_server.gallery.column_views import Mask
from shitu_server.gallery.rows import RowsView
from shitu_server.types import Metric, Vectors

faiss: Any = untyped_faiss  # its types do not know what Python hands to pointers

Scores = NDArray[np.float32]
Places = NDArray[np.int64]

NO_PLACE: Final = -1
SCORE_ERROR: Final = 2e-6
"""Greatest difference between a score of `scan`, whose order of additions depends on the batch, and the exact one, for vectors of
length 1. The exact one is float32 too, but each pair is computed by itself, always in the same order; 512 numbers, 2e-8 off."""
BLAS_THRESHOLD: Final = 4 * 512
"""FAISS compares it with queries * dimension; its own 128,000 keeps batches under 250 queries off sgemm, 4 to 8 times slower."""

READ_US, COPY_US, MULTIPLY_US = 0.08, 0.25, 0.013
"""Microseconds a row of 512 numbers takes: to be read in its turn, to be picked out of its chunk, and to be multiplied with a query.

One thread of a Zen 4. By these 28 % of the rows of a chunk must be allowed for a single query to be compared with all of them rather
than with a copy of those that are allowed, and 80 % for 64 queries; measured were 20 % and 75 %.
"""

METRICS: Final = {Metric.INNER_PRODUCT: faiss.METRIC_INNER_PRODUCT, Metric.L2: faiss.METRIC_L2}


def check_faiss_packages() -> None:
    """Raise ConfigurationError where two FAISS packages are installed; they overwrite each other's files."""
    installed = set(importlib.metadata.packages_distributions().get("faiss", ()))
    if len(installed) > 1:
        raise ConfigurationError(
            f"two FAISS packages are installed over each other: {', '.join(sorted(installed))}; "
            "uninstall all of them, then install one"
        )


def prepare_faiss(thread_count: int) -> None:
    """Set FAISS up for the calling thread, which is the one that searches."""
    faiss.cvar.distance_compute_blas_threshold = BLAS_THRESHOLD
    faiss.omp_set_num_threads(thread_count)


@dataclass(frozen=True)
class Candidates:
    """Rows that may be the nearest, for each of n queries, in no order."""

    scores: Scores
    """float32 [n, m], nearly right."""
    places: Places
    """int64 [n, m], see `rows`; NO_PLACE where there is no row."""
    bound: NDArray[np.float64]
    """float64 [n]: no row that is not among them has an exact score over this; -inf where all rows are."""
    error: NDArray[np.float64]
    """float64 [n]: the scores differ from the exact ones by no more."""


class Ranked(NamedTuple):
    """Rows in the order they are told: by score, of equal scores the older first."""

    scores: Scores
    """float32 [n, m], exact."""
    places: Places
    """int64 [n, m]; NO_PLACE behind the last."""
    row_ids: NDArray[np.int64]
    """int64 [n, m]."""


def nearly(distances: Scores, metric: Metric) -> Scores:
    """Return the scores of distances as FAISS computes them."""
    return distances if metric is Metric.INNER_PRODUCT else np.float32(1) - distances / np.float32(2)


def scan(
    view: RowsView,
    first_place: int,
    mask: Mask | None,
    count: int,
    queries: Vectors,
    depth: int,
    metric: Metric,
    *,
    copy: bool,
) -> Candidates:
    """Compare queries with some rows of a chunk.

    Args:
        view: the chunk.
        first_place: of its rows.
        mask: which rows count, bool [len(view.vectors)]; all where None.
        count: how many those are, 1 or more.
        queries: float32 [n, dimension].
        depth: candidates wanted.
        metric: of the gallery.
        copy: always pick the rows out. Else, where there are many, all are compared, which finds less than `depth` where those that
            count are far away; `bound` tells.
    """
    vectors = view.vectors
    picked: NDArray[np.int64] | None = None
    if mask is not None:
        begin, end = int(mask.argmax()), len(mask) - int(mask[::-1].argmax())
        vectors, mask, first_place = vectors[begin:end], mask[begin:end], first_place + begin
        if count == len(vectors):
            mask = None
        elif copy or _is_copied(len(vectors), count, len(queries)):
            picked = np.flatnonzero(mask)
            vectors, mask = vectors.take(picked, axis=0), None
    seen = min(len(vectors), depth if mask is None else int(depth * len(vectors) / count) + 1)
    distances, slots = faiss.knn(queries, vectors, seen, metric=METRICS[metric])
    scores = nearly(distances, metric)
    error = _error(queries, view.longest, metric)
    bound = scores.min(axis=1) + error if seen < len(vectors) else np.full(len(queries), -np.inf)
    void = slots < 0  # FAISS fills up with -1
    if mask is not None:
        void |= ~mask[slots]
    places = first_place + (slots if picked is None else picked[slots])
    places[void], scores[void] = NO_PLACE, -np.inf
    return Candidates(scores, places, bound, error)


def _error(queries: Vectors, longest: float, metric: Metric) -> NDArray[np.float64]:
    """Return how wrong scores of FAISS may be, float64 [n]; with L2 the more, the longer the vectors."""
    if metric is Metric.INNER_PRODUCT:
        return np.full(len(queries), SCORE_ERROR)
    squares = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)
    return np.asarray(SCORE_ERROR * (squares + longest**2))


def exact_us(row_count: int, allowed_count: int, query_count: int) -> float:
    """Return about how many microseconds comparing takes; with longer vectors everything takes longer alike."""
    return min(_read_us(row_count, query_count), _picked_us(allowed_count, query_count))


def _is_copied(row_count: int, allowed_count: int, query_count: int) -> bool:
    """Return whether picking the allowed rows out first is the faster way."""
    return _picked_us(allowed_count, query_count) < _read_us(row_count, query_count)


def _read_us(count: int, query_count: int) -> float:
    return count * (READ_US + query_count * MULTIPLY_US)


def _picked_us(count: int, query_count: int) -> float:
    return count * (COPY_US + READ_US + query_count * MULTIPLY_US)


def merged(parts: Sequence[Candidates], depth: int) -> Candidates:
    """Return the best `depth` of all, or all where they are fewer.

    Args:
        parts: one at least, of the same queries.
        depth: candidates wanted.
    """
    if len(parts) == 1 and parts[0].scores.shape[1] <= depth:
        return parts[0]
    scores = np.concatenate([part.scores for part in parts], axis=1)
    places = np.concatenate([part.places for part in parts], axis=1)
    bound = np.max([part.bound for part in parts], axis=0)
    error = np.max([part.error for part in parts], axis=0)
    if scores.shape[1] > depth:
        best = np.argpartition(scores, -depth, axis=1)[:, -depth:]
        scores, places = np.take_along_axis(scores, best, 1), np.take_along_axis(places, best, 1)
        bound = np.maximum(bound, scores.min(axis=1) + error)
    return Candidates(scores, places, bound, error)


def ranked(
    views: Sequence[RowsView | None], chunk_rows: int, queries: Vectors, places: Places, metric: Metric
) -> Ranked:
    """Score candidates, each pair by itself, so that equal vectors have equal scores in every batch; then order them.

    Args:
        views: the chunks of a snapshot.
        chunk_rows: most rows of a chunk.
        queries: float32 [n, dimension].
        places: int64 [n, m], see `Candidates`.
        metric: of the gallery.
    """
    numbers = np.repeat(np.arange(len(queries)), places.shape[1])
    scores, row_ids = scored_pairs(views, chunk_rows, queries, numbers, places.ravel(), metric)
    scores, row_ids = scores.reshape(places.shape), row_ids.reshape(places.shape)
    best = np.lexsort((row_ids, -scores))
    best += np.arange(len(best))[:, np.newaxis] * places.shape[1]
    return Ranked(scores.take(best), places.take(best), row_ids.take(best))


def scored_pairs(
    views: Sequence[RowsView | None],
    chunk_rows: int,
    queries: Vectors,
    numbers: NDArray[np.int64],
    places: Places,
    metric: Metric,
) -> tuple[Scores, NDArray[np.int64]]:
    """Return score and row id of pairs, float32 [p] and int64 [p]; of NO_PLACE the score is -inf and the id the greatest.

    Args:
        views: the chunks of a snapshot.
        chunk_rows: most rows of a chunk.
        queries: float32 [n, dimension].
        numbers: int64 [p], which query.
        places: int64 [p], which row.
        metric: of the gallery.
    """
    scores = np.full(len(places), -np.inf, dtype=np.float32)
    row_ids = np.full(len(places), np.iinfo(np.int64).max)
    order = np.argsort(places, kind="stable")
    order = order[np.searchsorted(places, 0, sorter=order) :]  # NO_PLACE stands before all places
    numbers = numbers[order]
    distances = np.empty(len(order), dtype=np.float32)
    begin = 0
    for view, slots in by_chunk(views, chunk_rows, places[order]):
        end = begin + len(slots)
        _compare_pairs(queries, numbers[begin:end], view.vectors, slots, distances[begin:end], metric)
        row_ids[order[begin:end]] = view.row_ids[slots]
        begin = end
    with np.errstate(over="ignore"):  # -inf then
        scores[order] = nearly(distances, metric).clip(-1 if metric is Metric.INNER_PRODUCT else None, 1)
    return scores, row_ids


def _compare_pairs(
    queries: Vectors,
    numbers: NDArray[np.int64],
    vectors: Vectors,
    slots: NDArray[np.int64],
    distances: Scores,
    metric: Metric,
) -> None:
    """Compute the distance of each pair by itself, so that it does not depend on the others."""
    compare = faiss.pairwise_indexed_L2sqr if metric is Metric.L2 else faiss.pairwise_indexed_inner_product
    pointers = map(faiss.swig_ptr, (queries, numbers, vectors, slots, distances))
    compare(vectors.shape[1], len(slots), *pointers)


def by_chunk(
    views: Sequence[RowsView | None], chunk_rows: int, places: Places
) -> Iterator[tuple[RowsView, NDArray[np.int64]]]:
    """Yield each chunk that ascending places are in, and their slots there."""
    if not len(places):
        return
    numbers, slots = np.divmod(places, chunk_rows)
    cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(places)]
    for begin, end in itertools.pairwise(cuts):
        view = views[numbers[begin]]
        assert view is not None
        yield view, slots[begin:end]


def nearly_by_label(
    views: Sequence[RowsView | None],
    masks: Sequence[Mask | None],
    counts: Sequence[int],
    queries: Vectors,
    metric: Metric,
    label_count: int,
) -> tuple[Scores, NDArray[np.float64]]:
    """Compare queries with all rows.

    Args:
        views: the chunks of a snapshot.
        masks: which rows of each count; all where None.
        counts: how many those are.
        queries: float32 [n, dimension].
        metric: of the gallery.
        label_count: greater than the number of any label.

    Returns:
        The best score of each label, float32 [n, label_count], nearly right, -inf where it has no row; and by how much they may be
        wrong, float64 [n].
    """
    best = np.full((label_count, len(queries)), -np.inf, dtype=np.float32)
    error = np.zeros(len(queries))
    for view, mask, count in zip(views, masks, counts, strict=True):
        if view is not None and count:
            slots = np.arange(len(view.vectors)) if mask is None else np.flatnonzero(mask)
            codes = view.columns.labels.codes[slots]
            order = np.argsort(codes, kind="stable")
            scores = _products(view.vectors[slots[order]], queries, metric)
            begins = np.flatnonzero(np.diff(codes[order], prepend=-1))
            labels = codes[order][begins]
            best[labels] = np.maximum(best[labels], np.maximum.reduceat(scores, begins, axis=0))
            error = np.maximum(error, _error(queries, view.longest, metric))
    return best.T, error


def _products(vectors: Vectors, queries: Vectors, metric: Metric) -> Scores:
    """Return the scores of all pairs, float32 [vectors, queries], nearly right."""
    products = vectors @ queries.T
    if metric is Metric.L2:
        lengths = [np.einsum("ij,ij->i", side, side) for side in (vectors, queries)]
        products += 1 - (lengths[0][:, np.newaxis] + lengths[1]) / 2
    return np.asarray(products)
