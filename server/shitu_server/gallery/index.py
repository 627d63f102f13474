"""The rows of a gallery and what makes their search fast, as one writer changes them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_server.gallery.building import BuildJob
from shitu_server.gallery.columns import Schema
from shitu_server.gallery.exact import NO_PLACE, Places, check_faiss_packages, prepare_faiss
from shitu_server.gallery.limits import IndexOptions
from shitu_server.gallery.neighbours import BuildCancelledError, Indexed, Neighbours
from shitu_server.gallery.places import PlaceByItem
from shitu_server.gallery.rows import CHUNK_ROWS, FIRST_ROWS, Entry, Rows
from shitu_server.gallery.snapshot import Found, IndexSnapshot
from shitu_server.types import GalleryOptions, IndexKind, IndexStatus, Vectors

__all__ = [
    "BuildCancelledError",
    "BuildJob",
    "Entry",
    "Found",
    "GalleryIndex",
    "IndexSnapshot",
    "Neighbours",
    "check_faiss_packages",
    "prepare_faiss",
]

_log = logging.getLogger(__name__)

DEAD_SHARE: Final = 1 / 32
LEAST_DEAD: Final = 64
"""A chunk with more dead rows than both is worn: looking past them costs more than moving the others."""
INDEXED_DEAD_SHARE: Final = 1 / 2
"""The same where there are graph or lists, which rows that are moved fall out of; only memory is won."""
KEPT_SHARE: Final = 1 / 2
"""An AUTO gallery that shrinks below this share of where its lists began is compared row by row again."""
_NEVER: Final = 1 << 62


class GalleryIndex:
    """The rows of a gallery. One writer changes it; `snapshot` is for everyone."""

    def __init__(
        self,
        dimension: int,
        options: GalleryOptions,
        tuning: IndexOptions | None = None,
        *,
        chunk_rows: int = CHUNK_ROWS,
        least_dead: int = LEAST_DEAD,
        prefer_indexed: bool = False,
    ) -> None:
        """Make an empty index.

        Args:
            dimension: of the vectors.
            options: of the gallery.
            tuning: when to build.
            chunk_rows: of each array but the last.
            least_dead: dead rows of a chunk that are never worth moving the living ones.
            prefer_indexed: use graph or lists even where comparing row by row is faster, as tests want it.
        """
        self._dimension = dimension
        self._options = options
        self._tuning = tuning or IndexOptions()
        self._chunk_rows = chunk_rows
        self._least_dead = least_dead
        self._prefer_indexed = prefer_indexed
        self._schema = Schema(options.fields)
        self._chunks: list[Rows | None] = []
        self._last = -1
        self._places = PlaceByItem()
        self._indexed: Indexed | None = None
        self._alive_shared = False
        self._job: BuildJob | None = None
        self._failed_count = _NEVER
        """Rows that there were when a build failed last."""

    def put(self, entries: Sequence[Entry], vectors: Vectors) -> None:
        """Add rows, or replace those of the same item id.

        Args:
            entries: with different item ids.
            vectors: float32 [len(entries), dimension]; L2-normalised, unless the metric is L2.
        """
        if entries:
            self._kill([entry.item_id for entry in entries])
            self._append(entries, vectors)
            self._sweep()

    def relabel(self, entries: Sequence[Entry]) -> None:
        """Replace label and metadata of items that are there; unknown ones are passed over."""
        places = self._places.get([entry.item_id for entry in entries])
        by_chunk: dict[int, tuple[list[int], list[Entry]]] = {}
        for place, entry in zip(places, entries, strict=True):
            if place != NO_PLACE:
                slots, changed = by_chunk.setdefault(place // self._chunk_rows, ([], []))
                slots.append(place % self._chunk_rows)
                changed.append(entry)
        for number, (slots, changed) in by_chunk.items():
            self._chunk(number).relabel(slots, changed)
        self._tidy()

    def remove(self, item_ids: Sequence[str]) -> None:
        """Remove rows; unknown ids are passed over."""
        self._kill(item_ids)
        self._sweep()

    def snapshot(self) -> IndexSnapshot:
        """Return the rows as they are now, which no later change reaches."""
        self._alive_shared = True
        views = [None if chunk is None else chunk.view() for chunk in self._chunks]
        metric, prefer_indexed = self._options.metric, self._prefer_indexed
        return IndexSnapshot(views, self._chunk_rows, metric, self._indexed, prefer_indexed=prefer_indexed)

    @property
    def status(self) -> IndexStatus:
        """What the search runs on."""
        if self._indexed is None:
            return IndexStatus(IndexKind.FLAT, 0, building=self._job is not None)
        return IndexStatus(self._indexed.neighbours.kind, self._indexed.alive_count, building=self._job is not None)

    def wish(self) -> BuildJob | None:
        """Return what should be built now, in the background; None where nothing is, or a job is not adopted or abandoned yet."""
        if self._job is not None:
            return None
        kind = self._wanted_kind()
        if self._indexed is not None and (kind is not self._indexed.neighbours.kind or not self._indexed.alive_count):
            self._index(None, np.empty(0, np.int64))
        if kind is not IndexKind.FLAT or self._tuning.on_gpu:
            self._job = self._wished(kind)
        return self._job

    def adopt(self, built: Neighbours) -> None:
        """Let searches use what the job built that `wish` returned last."""
        job = self._job
        assert job is not None
        assert job.places is not None
        self._job, self._failed_count = None, _NEVER
        places = job.places.copy()
        for number, rows in enumerate(job.rows):
            if rows is None or rows is not self._chunks[number]:  # its rows were moved meanwhile
                places[places // self._chunk_rows == number] = NO_PLACE
        self._index(built, places)

    def abandon(self) -> None:
        """Forget the job that `wish` returned last: it failed. The next one waits until there is more to be built."""
        self._job = None
        self._failed_count = len(self._places)

    def attach(self, stored: Neighbours, changed_row_ids: Collection[int]) -> None:
        """Let searches use what was saved by an earlier process, if it fits this gallery.

        Args:
            stored: as it was loaded.
            changed_row_ids: rows whose vector is another than when the job was made that built it. Rows that are there no more
                need not be among them.
        """
        if not self._fits(stored):
            return
        numbers = [(number, chunk) for number, chunk in enumerate(self._chunks) if chunk is not None]
        slots = [chunk.alive_slots() for _, chunk in numbers]
        row_ids = np.concatenate(
            [np.empty(0, np.int64), *(c.row_ids(s) for (_, c), s in zip(numbers, slots, strict=True))]
        )
        places = np.concatenate(
            [np.empty(0, np.int64), *(n * self._chunk_rows + s for (n, _), s in zip(numbers, slots, strict=True))]
        )
        self._index(stored, _matched(stored.origin.row_ids, changed_row_ids, row_ids, places))

    def _fits(self, stored: Neighbours) -> bool:
        origin, wanted = stored.origin, self._wanted_kind()
        fits = stored.kind is wanted and origin.metric is self._options.metric and origin.dimension == self._dimension
        if not fits:
            _log.info(
                "an index of kind %s, metric %s and dimension %d is passed over: %s, %s and %d are wanted",
                stored.kind.value, origin.metric.value, origin.dimension,
                wanted.value, self._options.metric.value, self._dimension,
            )  # fmt: skip
        return fits

    def _wanted_kind(self) -> IndexKind:
        if self._options.index_kind is not IndexKind.AUTO:
            return self._options.index_kind
        has_lists = self._indexed is not None and self._indexed.neighbours.kind is IndexKind.IVF
        least = self._tuning.flat_rows * (KEPT_SHARE if has_lists else 1)
        return IndexKind.IVF if len(self._places) >= least else IndexKind.FLAT

    def _wished(self, kind: IndexKind) -> BuildJob | None:
        tuning, indexed, count = self._tuning, self._indexed, len(self._places)
        if 0 <= count - self._failed_count <= max(tuning.least_delta_rows, tuning.delta_share * self._failed_count):
            return None
        extends = indexed
        if indexed is None:
            if count <= tuning.least_delta_rows:
                return None
        else:
            inside, size = indexed.alive_count, indexed.neighbours.count
            grown = count - inside > max(tuning.least_delta_rows, tuning.delta_share * inside)
            worn = size - inside > tuning.dead_share * size
            if not grown and not worn:
                return None
            if worn or not indexed.neighbours.extends_to(count):
                extends = None
        return BuildJob(kind, self._options.metric, self._chunk_rows, self._chunks, extends, tuning.build_threads)

    def _index(self, neighbours: Neighbours | None, places: Places) -> None:
        """Replace graph or lists. Dead rows may be among the places, and NO_PLACE."""
        numbers, slots = np.divmod(places, self._chunk_rows)  # that of NO_PLACE is -1
        order = np.argsort(numbers, kind="stable")
        cuts = np.searchsorted(numbers, np.arange(len(self._chunks) + 1), sorter=order).tolist()
        alive = np.zeros(len(places), dtype=np.bool_)
        for number, (begin, end) in enumerate(itertools.pairwise(cuts)):
            chunk, positions = self._chunks[number], order[begin:end]
            if chunk is not None:
                positions = positions[chunk.alive(slots[positions])]
                chunk.index(slots[positions], positions.astype(np.int32))
                alive[positions] = True
        self._alive_shared = False
        self._indexed = None if neighbours is None else Indexed(neighbours, places, alive, int(np.count_nonzero(alive)))

    def _chunk(self, number: int) -> Rows:
        chunk = self._chunks[number]
        assert chunk is not None
        return chunk

    def _append(self, entries: Sequence[Entry], vectors: Vectors) -> None:
        begin = 0
        while begin < len(entries):
            chunk = self._open_chunk()
            end = min(len(entries), begin + chunk.room)
            first_place = self._last * self._chunk_rows + len(chunk)
            chunk.append(entries[begin:end], vectors[begin:end])
            self._places.put([entry.item_id for entry in entries[begin:end]], first_place)
            begin = end

    def _open_chunk(self) -> Rows:
        """Return a chunk with room, whose number is `_last`."""
        chunk = None if self._last < 0 else self._chunks[self._last]
        if chunk is None or not chunk.room:
            first_rows = self._chunk_rows if 2 * len(self._places) >= self._chunk_rows else FIRST_ROWS
            chunk = Rows(self._dimension, self._schema, first_rows, self._chunk_rows)
            self._last = next((n for n, one in enumerate(self._chunks) if one is None), len(self._chunks))
            self._chunks[self._last : self._last + 1] = [chunk]
        return chunk

    def _kill(self, item_ids: Sequence[str]) -> None:
        places = self._places.pop(item_ids)
        numbers, slots = np.divmod(places, self._chunk_rows)
        for number in np.unique(numbers).tolist():
            positions = self._chunk(number).kill(slots[numbers == number])
            self._bury(positions[positions >= 0])

    def _bury(self, positions: NDArray[np.int32]) -> None:
        """Note that rows of graph or lists are dead."""
        indexed = self._indexed
        if indexed is None or not len(positions):
            return
        alive = indexed.alive
        if self._alive_shared:
            alive, self._alive_shared = alive.copy(), False
        alive[positions] = False
        self._indexed = Indexed(indexed.neighbours, indexed.places, alive, indexed.alive_count - len(positions))

    def _sweep(self) -> None:
        """Move the living rows of worn chunks to the end."""
        share = DEAD_SHARE if self._indexed is None else INDEXED_DEAD_SHARE
        for number, chunk in enumerate(self._chunks):
            if chunk is not None and chunk.dead_count > max(self._least_dead, share * len(chunk)):
                entries, vectors, positions = chunk.living()
                self._chunks[number] = None
                self._bury(positions[positions >= 0])
                self._append(entries, vectors)
        self._tidy()

    def _tidy(self) -> None:
        chunks = [chunk for chunk in self._chunks if chunk is not None]
        self._schema.tidy([chunk.columns for chunk in chunks], sum(map(len, chunks)))


def _matched(
    stored_ids: NDArray[np.int64], changed: Collection[int], row_ids: NDArray[np.int64], places: Places
) -> Places:
    """Return the place of each stored row; NO_PLACE where it is gone or changed."""
    result = np.full(len(stored_ids), NO_PLACE)
    if len(row_ids):
        order = np.argsort(row_ids, kind="stable")
        nearest = order[np.searchsorted(row_ids, stored_ids, sorter=order).clip(max=len(order) - 1)]
        same = (row_ids[nearest] == stored_ids) & ~np.isin(stored_ids, np.fromiter(changed, np.int64, len(changed)))
        result[same] = places[nearest[same]]
    return result
