"""The rows of a gallery as they were at one moment, to be searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from shitu_server.filters import Filter
from shitu_server.gallery.exact import NO_PLACE, Ranked
from shitu_server.gallery.grouping import nearest_by_label
from shitu_server.gallery.nearest import NearestRows
from shitu_server.gallery.neighbours import Indexed
from shitu_server.gallery.rows import Entry, RowsView, entries_of
from shitu_server.types import Metric, Vectors


class Found(NamedTuple):
    """An entry and its score, at most 1."""

    entry: Entry
    score: float


class IndexSnapshot:
    """Rows that do not change; any number of threads may search it."""

    def __init__(
        self,
        views: Sequence[RowsView | None],
        chunk_rows: int,
        metric: Metric,
        indexed: Indexed | None,
        *,
        prefer_indexed: bool,
    ) -> None:
        """For `GalleryIndex` only, see `NearestRows`."""
        self._rows = NearestRows(views, chunk_rows, metric, indexed, prefer_indexed=prefer_indexed)
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
        allowed_count = self._rows.allowed(where).count
        if not len(queries) or not allowed_count:
            return [[] for _ in queries]
        if per_label:
            return self._told(nearest_by_label(self._rows, queries, k, where, per_label))
        return self._told(self._rows.nearest(queries, min(k, allowed_count), where))

    def _told(self, best: Ranked) -> list[list[Found]]:
        known = best.places != NO_PLACE
        numbers, slots = np.divmod(best.places[known], self._rows.chunk_rows)
        entries = entries_of(self._rows.views, numbers.tolist(), slots.tolist(), best.row_ids[known].tolist())
        scores = best.scores[known].tolist()
        found = [tuple.__new__(Found, one) for one in zip(entries, scores, strict=True)]
        ends = np.cumsum(np.count_nonzero(known, axis=1)).tolist()
        return [found[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
