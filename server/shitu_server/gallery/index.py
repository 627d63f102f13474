"""Exact search by FAISS over chunks of rows that never change.

FAISS segfaults where an index grows while it is searched. So there is no FAISS index: its kernels run over arrays of ours. Rows are
only ever written behind the count that a snapshot holds, so a search needs no lock; a removed or replaced row stays where it is and
is named dead in later snapshots, and once many are dead the living rows of that chunk move to the end.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import faiss
import numpy as np
from numpy.typing import NDArray

from shitu_server.errors import ConfigurationError
from shitu_server.filters import Filter
from shitu_server.gallery.limits import IndexOptions
from shitu_server.types import GalleryOptions, IndexKind, IndexStatus, JsonValue, Vectors

CHUNK_ROWS: Final = 16384
"""One array for all would have to be copied when it is full: 129 ms at 131,072 rows of 512 numbers."""
FIRST_ROWS: Final = 256
"""A new chunk begins small and doubles, so that a thousand small galleries stay small."""
SPARE_CANDIDATES: Final = 8
"""Candidates beyond those asked for, so that ties at the end are seen."""
SCORE_ERROR: Final = 2e-6
"""Greatest difference between a score of FAISS (float32, its order depends on the batch) and the exact one."""
DEAD_SHARE: Final = 1 / 32
LEAST_DEAD: Final = 64
"""A chunk with more dead rows than both is worn: looking past them costs more than moving the others."""
BLAS_THRESHOLD: Final = 4 * 512
"""FAISS compares it with queries * dimension; its own 128,000 keeps batches under 250 queries off sgemm, 4 to 8 times slower."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a hit tells about an item."""

    row_id: int
    item_id: str
    label: str
    metadata_json: str


@dataclass(frozen=True, slots=True)
class Found:
    """An entry and its score, -1..1."""

    entry: Entry
    score: float


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
class _ChunkView:
    """The first rows of a chunk as a snapshot sees them."""

    vectors: Vectors
    """float32 [n, dimension]."""
    entries: Sequence[Entry]
    """n or more."""
    dead: NDArray[np.bool_] | None
    dead_count: int


class _Chunk:
    """Rows in the order they came. Only the writer touches it."""

    def __init__(self, dimension: int, most_rows: int) -> None:
        self._most_rows = most_rows
        self.entries: list[Entry] = []
        self._storage = np.empty((min(FIRST_ROWS, most_rows), dimension), dtype=np.float32)
        self._dead: set[int] = set()
        self._view: _ChunkView | None = None

    @property
    def room(self) -> int:
        return self._most_rows - len(self.entries)

    @property
    def dead_count(self) -> int:
        return len(self._dead)

    @property
    def dead_share(self) -> float:
        return len(self._dead) / len(self.entries)

    def append(self, entries: Sequence[Entry], vectors: Vectors) -> None:
        """Write rows behind those that snapshots see."""
        begin, end = len(self.entries), len(self.entries) + len(entries)
        if end > len(self._storage):
            capacity = min(self._most_rows, max(end, 2 * len(self._storage)))
            grown = np.empty((capacity, self._storage.shape[1]), dtype=np.float32)
            grown[:begin] = self._storage[:begin]
            self._storage = grown  # snapshots keep the old one
        self._storage[begin:end] = vectors
        self.entries.extend(entries)
        self._view = None

    def kill(self, slot: int) -> None:
        self._dead.add(slot)
        self._view = None

    def living(self) -> tuple[list[Entry], Vectors]:
        """Return the rows that are not dead."""
        slots = [slot for slot in range(len(self.entries)) if slot not in self._dead]
        return [self.entries[slot] for slot in slots], self._storage[slots]

    def view(self) -> _ChunkView:
        if self._view is None:
            count = len(self.entries)
            dead = None
            if self._dead:
                dead = np.zeros(count, dtype=np.bool_)
                dead[list(self._dead)] = True
            self._view = _ChunkView(self._storage[:count], self.entries, dead, len(self._dead))
        return self._view


class ExactIndex:
    """The rows of a gallery. One writer changes it; `snapshot` is for everyone."""

    def __init__(self, dimension: int, *, chunk_rows: int = CHUNK_ROWS, least_dead: int = LEAST_DEAD) -> None:
        """Make an empty index.

        Args:
            dimension: of the vectors.
            chunk_rows: of each array but the last.
            least_dead: dead rows of a chunk that are never worth moving the living ones.
        """
        self._chunk_rows = chunk_rows
        self._least_dead = least_dead
        self._dimension = dimension
        self._chunks: list[_Chunk] = []
        self._places: dict[str, tuple[_Chunk, int]] = {}

    def put(self, entries: Sequence[Entry], vectors: Vectors) -> None:
        """Add rows, or replace those of the same item id.

        Args:
            entries: with different item ids.
            vectors: float32 [len(entries), dimension], L2-normalised.
        """
        self._kill([entry.item_id for entry in entries])
        self._append(entries, vectors)
        self._sweep()

    def remove(self, item_ids: Sequence[str]) -> None:
        """Remove rows; unknown ids are passed over."""
        self._kill(item_ids)
        self._sweep()

    def snapshot(self) -> IndexSnapshot:
        """Return the rows as they are now, which no later change reaches."""
        return IndexSnapshot(tuple(chunk.view() for chunk in self._chunks), len(self._places))

    def _append(self, entries: Sequence[Entry], vectors: Vectors) -> None:
        begin = 0
        while begin < len(entries):
            if not self._chunks or not self._chunks[-1].room:
                self._chunks.append(_Chunk(self._dimension, self._chunk_rows))
            chunk = self._chunks[-1]
            end = min(len(entries), begin + chunk.room)
            first_slot = len(chunk.entries)
            chunk.append(entries[begin:end], vectors[begin:end])
            for slot, entry in enumerate(entries[begin:end], first_slot):
                self._places[entry.item_id] = (chunk, slot)
            begin = end

    def _kill(self, item_ids: Sequence[str]) -> None:
        for item_id in item_ids:
            place = self._places.pop(item_id, None)
            if place is not None:
                place[0].kill(place[1])

    def _sweep(self) -> None:
        worn = [
            chunk for chunk in self._chunks if chunk.dead_count > self._least_dead and chunk.dead_share > DEAD_SHARE
        ]
        self._chunks = [chunk for chunk in self._chunks if chunk not in worn]
        for chunk in worn:
            self._append(*chunk.living())


class IndexSnapshot:
    """Rows that do not change; any number of threads may search it."""

    def __init__(self, chunks: tuple[_ChunkView, ...], count: int) -> None:
        self._chunks = chunks
        self.count: Final = count

    def search(self, queries: Vectors, k: int, where: Filter | None = None, per_label: int = 0) -> list[list[Found]]:  # noqa: ARG002
        """Return the k nearest rows of each query, best first, of equal scores the older first.

        The scores do not depend on which queries are searched together.

        Args:
            queries: float32 [n, dimension], L2-normalised.
            k: 1 or more.
        """
        results: list[list[Found]] = [[] for _ in queries]
        if not self.count:
            return results
        unsettled = list(range(len(queries)))
        depth = k + SPARE_CANDIDATES
        while unsettled:
            candidates = self._candidates(queries[unsettled], depth)
            again = []
            for number, scores, chunk_numbers, slots in zip(unsettled, *candidates, strict=True):
                ranked = self._ranked(queries[number], scores, chunk_numbers, slots)
                results[number] = ranked[:k]
                if depth < self.count and ranked[k - 1].score - scores[-1] <= SCORE_ERROR:
                    again.append(number)  # an older row of the same score may be among those not seen
            unsettled, depth = again, 4 * depth
        return results

    def _candidates(self, queries: Vectors, depth: int) -> tuple[Vectors, NDArray[np.int64], NDArray[np.int64]]:
        """Return score, chunk number and slot, each [n, up to depth], best score first; -inf where there is no row."""
        parts = [_nearest(chunk, queries, depth) for chunk in self._chunks]
        scores = np.concatenate([part[0] for part in parts], axis=1)
        slots = np.concatenate([part[1] for part in parts], axis=1)
        chunk_numbers = np.repeat(np.arange(len(parts)), [part[0].shape[1] for part in parts])
        order = np.argsort(-scores, axis=1)[:, :depth]
        return np.take_along_axis(scores, order, 1), chunk_numbers[order], np.take_along_axis(slots, order, 1)

    def _ranked(
        self, query: NDArray[np.float32], scores: Vectors, chunk_numbers: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> list[Found]:
        """Score the candidates again, one by one and in float64, so that equal vectors have equal scores; then order them."""
        seen = zip(scores.tolist(), chunk_numbers.tolist(), slots.tolist(), strict=True)
        places = [(self._chunks[number], slot) for score, number, slot in seen if score != -np.inf]
        rows = np.array([chunk.vectors[slot] for chunk, slot in places], dtype=np.float64)
        exact = np.clip((rows * query).sum(axis=1), -1, 1).astype(np.float32)
        entries = [chunk.entries[slot] for chunk, slot in places]
        order = np.lexsort(([entry.row_id for entry in entries], -exact)).tolist()
        return [Found(entries[i], float(exact[i])) for i in order]


def _nearest(chunk: _ChunkView, queries: Vectors, depth: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Return scores and slots, each [n, up to depth + dead rows]; dead rows have the score -inf."""
    seen = min(depth + chunk.dead_count, len(chunk.vectors))
    scores, slots = faiss.knn(queries, chunk.vectors, seen, metric=faiss.METRIC_INNER_PRODUCT)
    void = slots < 0  # FAISS fills up with -1
    if chunk.dead is not None:
        void |= chunk.dead[slots]
    scores[void] = -np.inf
    return scores, slots


class Neighbours:
    """Placeholder until the accelerators stand: names only."""

    def save(self, folder: Path, name: str, stamp: Mapping[str, JsonValue]) -> None:
        """Nothing yet."""

    @classmethod
    def load(cls, folder: Path, name: str) -> tuple[Neighbours, Mapping[str, JsonValue]] | None:  # noqa: ARG003
        """Nothing yet."""
        return None


class BuildJob:
    """Placeholder until the accelerators stand: names only."""

    def run(self) -> Neighbours:
        """Nothing yet."""
        return Neighbours()


class GalleryIndex(ExactIndex):
    """First version of the interface: flat, without filters."""

    def __init__(self, dimension: int, options: GalleryOptions, tuning: IndexOptions | None = None) -> None:
        super().__init__(dimension)
        self._options = options
        self._tuning = tuning or IndexOptions()

    def relabel(self, entries: Sequence[Entry]) -> None:
        """Change label and metadata of rows in place."""
        for entry in entries:
            chunk, slot = self._places[entry.item_id]
            chunk.entries = [*chunk.entries]
            chunk.entries[slot] = entry
            chunk._view = None  # noqa: SLF001

    def wish(self) -> BuildJob | None:
        """Nothing yet."""
        return None

    def adopt(self, built: Neighbours) -> None:
        """Nothing yet."""

    def abandon(self) -> None:
        """Nothing yet."""

    def attach(self, stored: Neighbours, changed_row_ids: Collection[int]) -> None:
        """Nothing yet."""

    @property
    def status(self) -> IndexStatus:
        """What the search runs on."""
        return IndexStatus(IndexKind.FLAT, 0, building=False)
