"""Building graph or lists in the background, while rows come and go."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_server.gallery.calibration import widths_for
from shitu_server.gallery.exact import NO_PLACE, Places, by_chunk
from shitu_server.gallery.gpu_neighbours import GpuNeighbours
from shitu_server.gallery.nearest import NearestRows
from shitu_server.gallery.neighbours import (
    GONE,
    KINDS,
    FaissNeighbours,
    Indexed,
    Neighbours,
    Origin,
    scale_for,
    set_build_threads,
)
from shitu_server.gallery.rows import Rows, RowsView
from shitu_server.types import IndexKind, Metric, Vectors

BATCH_ROWS: Final = 4096
"""Rows that FAISS takes at once: HNSW prepares a lock for each row of the graph every time, 3 ms for a million."""
SCALE_ROWS: Final = 4096
SEED: Final = 1


class BuildJob:
    """Builds from the rows that there were when it was made. `run` may be called in any thread, once."""

    def __init__(
        self,
        kind: IndexKind,
        metric: Metric,
        chunk_rows: int,
        rows: Sequence[Rows | None],
        extends: Indexed | None,
        thread_count: int,
    ) -> None:
        """For `GalleryIndex` only.

        Args:
            kind: HNSW or IVF; FLAT copies the rows to the GPU.
            metric: of the gallery.
            chunk_rows: see `rows`.
            rows: the chunks.
            extends: what is to be extended; None builds anew.
            thread_count: threads that FAISS takes.
        """
        self._kind = kind
        self._metric = metric
        self._chunk_rows = chunk_rows
        self.rows: Final = tuple(rows)
        """The chunks that `places` are in."""
        self._views: list[RowsView | None] = [None if one is None else one.view() for one in rows]
        self._rows = NearestRows(self._views, chunk_rows, metric, None)
        self._extends = extends
        self._thread_count = thread_count
        self._cancelled = threading.Event()
        self.places: Places | None = None
        """int64 [m], of each position, once it is built."""

    def cancel(self) -> None:
        """Let `run` raise BuildCancelledError before it takes in its next 4096 rows; making the lists of IVF is not broken off."""
        self._cancelled.set()

    def run(self) -> Neighbours:
        """Build. Minutes for a million rows; other threads run meanwhile.

        Raises:
            BuildCancelledError: `cancel` was called.
        """
        set_build_threads(self._thread_count)
        if self._kind is IndexKind.FLAT:
            return self._copied_to_gpu()
        if self._extends is None:
            places = self._new_places(inside=True)
            built = self._built(places)
        else:
            fresh = self._new_places(inside=False)
            places = np.concatenate([np.where(self._extends.alive, self._extends.places, NO_PLACE), fresh])
            assert isinstance(self._extends.neighbours, FaissNeighbours)
            built = self._extends.neighbours.extended(self._row_ids(places), self._batches(fresh), self._cancelled)
        self.places = places
        return built.with_widths(widths_for(built, self._rows, places, self._cancelled))

    def _copied_to_gpu(self) -> GpuNeighbours:
        self.places = self._new_places(inside=True)
        dimension = next(view.vectors.shape[1] for view in self._views if view is not None)
        origin = Origin(self._metric, dimension, self._row_ids(self.places), 1.0, len(self.places))
        return GpuNeighbours.built(origin, self._batches(self.places), self._cancelled)

    def _built(self, places: Places) -> FaissNeighbours:
        kind = KINDS[self._kind]
        rng = np.random.default_rng(SEED)
        sample_count = max(kind.sample_count(len(places)), min(SCALE_ROWS, len(places)))
        sample = self._rows.vectors(np.sort(rng.choice(places, sample_count, replace=False)))
        origin = Origin(
            self._metric,
            sample.shape[1],
            self._row_ids(places),
            scale_for(sample, self._metric),
            len(places),
        )
        return kind.built(origin, sample, self._batches(places), self._cancelled)

    def _new_places(self, *, inside: bool) -> Places:
        """Return the places of living rows, ascending; those `inside` what is searched now too, or only the others."""
        parts = []
        for number, view in enumerate(self._views):
            if view is not None:
                mask = view.alive if inside else view.outside
                slots = np.arange(len(view.vectors)) if mask is None else np.flatnonzero(mask)
                parts.append(number * self._chunk_rows + slots)
        return np.concatenate(parts)

    def _row_ids(self, places: Places) -> NDArray[np.int64]:
        row_ids = np.full(len(places), GONE, dtype=np.int64)
        living = np.flatnonzero(places != NO_PLACE)
        order = living[np.argsort(places[living], kind="stable")]
        found = [view.row_ids[slots] for view, slots in by_chunk(self._views, self._chunk_rows, places[order])]
        row_ids[order] = np.concatenate([row_ids[:0], *found])
        return row_ids

    def _batches(self, places: Places) -> Iterator[Vectors]:
        for begin in range(0, len(places), BATCH_ROWS):
            yield self._rows.vectors(places[begin : begin + BATCH_ROWS])
