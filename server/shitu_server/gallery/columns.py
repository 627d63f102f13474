"""Which rows a filter allows: label, id and declared fields of the metadata as columns, see `column_views`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from shitu_server.filters import ID_FIELD, LABEL_FIELD, And, Fields, FieldType, Filter, In, Not, Or, Range
from shitu_server.gallery.column_views import (
    ABSENT,
    BooleanView,
    ColumnView,
    IdView,
    Mask,
    NumberView,
    Texts,
    TextView,
    number_of,
)
from shitu_server.gallery.growing import Growing
from shitu_server.gallery.recent import Recent

PARSED_CHARACTERS: Final = 64 * 1024
"""JSON that is parsed at once, in about 0.5 ms, for which no other thread runs."""
SPARE_TEXTS: Final = 4096


class ColumnsView:
    """All columns of some rows, which do not change."""

    def __init__(self, count: int, columns: Mapping[str, ColumnView]) -> None:
        self._count = count
        self._columns = columns
        self._masks: Recent[Mask] = Recent()

    @property
    def labels(self) -> TextView:
        """The labels."""
        return cast("TextView", self._columns[LABEL_FIELD])

    def allowed(self, where: Filter) -> Mask:
        """Return which rows a filter allows, dead ones too; bool [n], not to be written to."""
        mask = self._masks.get(where)
        if mask is None:
            mask = self._evaluated(where)
            mask.setflags(write=False)
            self._masks.put(where, mask)
        return mask

    def _evaluated(self, where: Filter) -> Mask:
        if isinstance(where, Not):
            return ~self._evaluated(where.operand)
        if isinstance(where, (And, Or)):
            combine = np.logical_and if isinstance(where, And) else np.logical_or
            result = np.full(self._count, isinstance(where, And))
            for operand in where.operands:
                combine(result, self._evaluated(operand), out=result)
            return result
        column = self._columns[where.field]
        if isinstance(where, Range):
            return cast("NumberView", column).between(where)
        return column.among(where.values if isinstance(where, In) else (where.value,))


class Columns:
    """The columns of a part of the rows. Only the writer touches them; `view` is for everyone."""

    def __init__(self, schema: Schema, first: int, most: int) -> None:
        """Make them empty, see `Growing`."""
        self._schema = schema
        self.item_ids: Final[list[str]] = []
        self._hashes = Growing(np.int64, first, most)
        self._stored: dict[str, Growing[Any]] = {
            name: Growing(_STORED_AS[kind], first, most) for name, kind in schema.types.items()
        }
        self._view: ColumnsView | None = None

    def append(self, item_ids: Sequence[str], labels: Sequence[str], metadata: Sequence[str]) -> None:
        """Add rows."""
        self.item_ids.extend(item_ids)
        self._hashes.append(np.fromiter(map(hash, item_ids), np.int64, len(item_ids)), len(item_ids))
        for name, values in self._schema.encoded(labels, metadata):
            self._stored[name].append(values, len(item_ids))
        self._view = None

    def change(self, slots: Sequence[int], labels: Sequence[str], metadata: Sequence[str]) -> None:
        """Replace what rows have beside their ids."""
        for name, values in self._schema.encoded(labels, metadata):
            self._stored[name].change(slots, values)
        self._view = None

    def recode(self, name: str, former: Texts, texts: Texts) -> None:
        """Let the texts of a column have other numbers."""
        codes = self._stored[name].look()
        used = np.unique(codes[codes >= 0])
        renamed = np.full(len(former) + 1, ABSENT, dtype=np.int32)  # the last is that of -1
        renamed[used] = texts.encoded([former.values[code] for code in used.tolist()])
        self._stored[name].change(slice(None), renamed[codes])
        self._view = None

    def view(self) -> ColumnsView:
        """Return the rows as they are now."""
        if self._view is None:
            views = {name: self._schema.view(name, stored.part()) for name, stored in self._stored.items()}
            views[ID_FIELD] = IdView(self._hashes.part(), self.item_ids)
            self._view = ColumnsView(len(self._hashes), views)
        return self._view


class Schema:
    """What columns the rows of a gallery have, and the numbers of their texts."""

    def __init__(self, fields: Fields) -> None:
        self._fields = dict(fields)
        self.types: Final[Fields] = {LABEL_FIELD: FieldType.STRING, **fields}
        """Of the columns, by name; that of the ids is not among them."""
        self._texts = {name: Texts() for name, kind in self.types.items() if kind is FieldType.STRING}

    @property
    def labels(self) -> Texts:
        """The numbers of the labels."""
        return self._texts[LABEL_FIELD]

    def encoded(self, labels: Sequence[str], metadata: Sequence[str]) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield name and values of each column but that of the ids.

        Args:
            labels: of the rows.
            metadata: of the rows, each a JSON object.
        """
        yield LABEL_FIELD, self.labels.encoded(labels)
        if not self._fields:
            return
        parsed = list(_parsed(metadata))
        for name, kind in self._fields.items():
            values = [one.get(name) for one in parsed]
            if kind is FieldType.STRING:
                yield name, self._texts[name].encoded(values)
            elif kind is FieldType.NUMBER:
                yield name, np.array([number_of(value) for value in values], dtype=np.float64)
            else:
                yield name, np.array([value if isinstance(value, bool) else ABSENT for value in values], dtype=np.int8)

    def view(self, name: str, stored: NDArray[Any]) -> ColumnView:
        """Return a column for readers."""
        if name in self._texts:
            return TextView(stored, self._texts[name])
        return NumberView(stored) if self.types[name] is FieldType.NUMBER else BooleanView(stored)

    def tidy(self, columns: Sequence[Columns], row_count: int) -> None:
        """Forget texts that no row has any more, once they are the greater part.

        Args:
            columns: all that were made with this schema and are still in use.
            row_count: rows in them.
        """
        for name, texts in self._texts.items():
            if len(texts) > 2 * row_count + SPARE_TEXTS:
                fresh = Texts()
                for one in columns:
                    one.recode(name, texts, fresh)
                self._texts[name] = fresh  # snapshots keep the old one


_STORED_AS: Final[Mapping[FieldType, type[np.generic]]] = {
    FieldType.STRING: np.int32,
    FieldType.NUMBER: np.float64,
    FieldType.BOOLEAN: np.int8,
}


def _parsed(metadata: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Parse JSON objects, many at once: a tenth of the time of one by one where they are small."""
    piece: list[str] = []
    characters = 0
    for text in metadata:
        piece.append(text)
        characters += len(text)
        if characters >= PARSED_CHARACTERS:
            yield from json.loads(f"[{','.join(piece)}]")
            piece, characters = [], 0
    yield from json.loads(f"[{','.join(piece)}]")
