"""The rows of a gallery in memory, in chunks.

FAISS segfaults where an index grows while it is searched. So the rows stand in arrays of ours: they are only ever written behind the
count that a snapshot holds, and a search needs no lock. A removed or replaced row stays where it is and is dead in later snapshots;
what is told about a row is replaced in a copy.

The place of a row in a gallery is the number of its chunk, times the rows of a chunk, plus its slot there. In one chunk a slot is
never used again; the number of a chunk is, once all of its rows are dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shitu_server.gallery.column_views import Mask
from shitu_server.gallery.columns import Columns, ColumnsView, Schema
from shitu_server.gallery.growing import Growing
from shitu_server.types import Vectors

CHUNK_ROWS: Final = 16384
"""One array for all would have to be copied when it is full: 129 ms at 131,072 rows of 512 numbers."""
FIRST_ROWS: Final = 256
"""The first chunk begins small and doubles, so that a thousand small galleries stay small."""
NOT_INDEXED: Final = -1


class Entry(NamedTuple):
    """What a hit tells about an item."""

    row_id: int
    item_id: str
    label: str
    metadata_json: str


@dataclass(frozen=True)
class RowsView:
    """The first rows of a chunk as a snapshot sees them."""

    vectors: Vectors
    """float32 [n, dimension]."""
    row_ids: NDArray[np.int64]
    """int64 [n]."""
    item_ids: Sequence[str]
    """n or more."""
    labels: Sequence[str]
    """n or more."""
    metadata: Sequence[str]
    """n or more, JSON."""
    columns: ColumnsView
    alive: Mask | None
    """bool [n]; None where all are."""
    alive_count: int
    positions: NDArray[np.int32] | None
    """int32 [n]: where each row stands in the graph or the lists, or NOT_INDEXED; None where none does."""
    longest: float
    """No vector is longer."""

    @cached_property
    def outside(self) -> Mask | None:
        """The living rows that neither graph nor lists hold, bool [n]; None where that is all."""
        if self.positions is None:
            return self.alive
        free: Mask = self.positions == NOT_INDEXED
        return free if self.alive is None else free & self.alive


class Rows:
    """A chunk: rows in the order they came. Only the writer touches it; `view` is for everyone."""

    def __init__(self, dimension: int, schema: Schema, first_rows: int, most_rows: int) -> None:
        """Make an empty chunk.

        Args:
            dimension: of the vectors.
            schema: of the gallery.
            first_rows: rows that there is room for at once.
            most_rows: rows that it takes.
        """
        self._most_rows = most_rows
        self._vectors = Growing(np.float32, first_rows, most_rows, (dimension,))
        self._row_ids = Growing(np.int64, first_rows, most_rows)
        self._alive = Growing(np.bool_, first_rows, most_rows)
        self._positions = Growing(np.int32, first_rows, most_rows)
        self._labels: list[str] = []
        self._metadata: list[str] = []
        self._told_shared = False
        self._schema = schema
        self.columns: Final = Columns(schema, first_rows, most_rows)
        self.alive_count = 0
        self._indexed = False
        self._longest = 0.0
        self._view: RowsView | None = None

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def room(self) -> int:
        """Rows that still go in."""
        return self._most_rows - len(self)

    @property
    def dead_count(self) -> int:
        """Rows that are dead."""
        return len(self) - self.alive_count

    def append(self, entries: Sequence[Entry], vectors: Vectors) -> None:
        """Write rows behind those that snapshots see."""
        row_ids, item_ids, labels, metadata = zip(*entries, strict=True)
        count = len(entries)
        self.columns.append(item_ids, labels, metadata)
        self._row_ids.append(row_ids, count)
        self._alive.append(True, count)
        self._positions.append(NOT_INDEXED, count)
        self._labels.extend(self._schema.labels.shared(labels))
        self._metadata.extend(metadata)
        self._vectors.append(vectors, count)
        self._longest = max(self._longest, float(np.sqrt(np.einsum("ij,ij->i", vectors, vectors).max())))
        self.alive_count += count
        self._view = None

    def kill(self, slots: NDArray[np.int64]) -> NDArray[np.int32]:
        """Let living rows be dead; return where they stand in the graph or the lists, or NOT_INDEXED."""
        self._alive.change(slots, False)
        self.alive_count -= len(slots)
        self._view = None
        return self._positions.look()[slots]

    def relabel(self, slots: Sequence[int], entries: Sequence[Entry]) -> None:
        """Replace what is told about rows."""
        if self._told_shared:
            self._labels, self._metadata, self._told_shared = self._labels.copy(), self._metadata.copy(), False
        labels = self._schema.labels.shared([entry.label for entry in entries])
        metadata = [entry.metadata_json for entry in entries]
        for slot, label, text in zip(slots, labels, metadata, strict=True):
            self._labels[slot], self._metadata[slot] = label, text
        self.columns.change(slots, labels, metadata)
        self._view = None

    def index(self, slots: NDArray[np.int64], positions: NDArray[np.int32]) -> None:
        """Note where living rows stand in the graph or the lists; all others stand nowhere."""
        fresh = np.full(len(self), NOT_INDEXED, dtype=np.int32)
        fresh[slots] = positions
        if self._indexed or len(slots):
            self._positions.change(slice(None), fresh)
            self._indexed = bool(len(slots))
            self._view = None

    def alive(self, slots: NDArray[np.int64]) -> Mask:
        """Return which of some rows live; bool [n]."""
        return self._alive.look()[slots]

    def alive_slots(self) -> NDArray[np.int64]:
        """Return the slots of the living rows, ascending."""
        return np.flatnonzero(self._alive.look())

    def row_ids(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the ids of some rows; int64 [n]."""
        return self._row_ids.look()[slots]

    def living(self) -> tuple[list[Entry], Vectors, NDArray[np.int32]]:
        """Return the living rows, and where they stand in the graph or the lists, or NOT_INDEXED."""
        slots = self.alive_slots()
        listed = slots.tolist()
        columns = (
            [values[slot] for slot in listed] for values in (self.columns.item_ids, self._labels, self._metadata)
        )
        entries = list(map(Entry._make, zip(self.row_ids(slots).tolist(), *columns, strict=True)))
        return entries, self._vectors.look()[slots], self._positions.look()[slots]

    def view(self) -> RowsView:
        """Return the rows as they are now."""
        columns = self.columns.view()
        if self._view is None or self._view.columns is not columns:
            self._told_shared = True
            self._view = RowsView(
                self._vectors.part(),
                self._row_ids.part(),
                self.columns.item_ids,
                self._labels,
                self._metadata,
                columns,
                self._alive.part() if self.dead_count else None,
                self.alive_count,
                self._positions.part() if self._indexed else None,
                self._longest,
            )
        return self._view


def entries_of(
    views: Sequence[RowsView | None], numbers: Sequence[int], slots: Sequence[int], row_ids: Sequence[int]
) -> list[Entry]:
    """Return what is told about rows.

    Args:
        views: the chunks of a snapshot.
        numbers: of the rows' chunks.
        slots: of the rows there.
        row_ids: of the rows.
    """
    told = [None if view is None else (view.item_ids, view.labels, view.metadata) for view in views]
    new = tuple.__new__  # a third faster than Entry(...)
    return [
        new(Entry, (row_id, texts[0][slot], texts[1][slot], texts[2][slot]))
        for number, slot, row_id in zip(numbers, slots, row_ids, strict=True)
        if (texts := told[number]) is not None
    ]
