"""Which rows a filter allows: label, id and declared fields of the metadata as columns, compared all at once.

Values that a row does not have compare as false with everything, so no column needs to know which are there: text has the number
-1, a number is NaN, and a boolean -1.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from shitu_server.filters import ID_FIELD, LABEL_FIELD, And, Fields, FieldType, Filter, In, Not, Or, Range, Scalar
from shitu_server.gallery.growing import Growing

Mask = NDArray[np.bool_]
V = TypeVar("V")

CACHED_FILTERS: Final = 8
"""Masks that a part of the rows keeps, 16 KB each. Callers use few filters at a time, and batches of the same come in a row."""
PARSED_CHARACTERS: Final = 64 * 1024
"""JSON that is parsed at once, in about 0.5 ms, for which no other thread runs."""
FEW_VALUES: Final = 6
"""Up to so many values are compared one by one; more are looked up in sorted order."""
UNKNOWN: Final = -2
"""Stands for a text that no row has."""
ABSENT: Final = -1
SPARE_TEXTS: Final = 4096


class Recent(Generic[V]):
    """The values used last, for any thread."""

    def __init__(self, most: int = CACHED_FILTERS) -> None:
        self._most = most
        self._values: dict[Hashable, V] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """Return the value of a key, if it is still there."""
        with self._lock:
            value = self._values.pop(key, None)
            if value is not None:
                self._values[key] = value
            return value

    def put(self, key: Hashable, value: V) -> None:
        """Keep a value instead of the one that was not used for longest."""
        with self._lock:
            self._values[key] = value
            if len(self._values) > self._most:
                self._values.pop(next(iter(self._values)))


class Texts:
    """A number for each different text of one column of a gallery. Only the writer adds."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self._codes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.values)

    def encoded(self, texts: Sequence[Any]) -> NDArray[np.int32]:
        """Return the number of each, new ones included; ABSENT for what is no text."""
        codes = self._codes
        found = [codes.get(text, UNKNOWN) if isinstance(text, str) else ABSENT for text in texts]
        for i, code in enumerate(found):
            if code == UNKNOWN:
                found[i] = codes.setdefault(texts[i], len(self.values))
                if found[i] == len(self.values):
                    self.values.append(texts[i])
        return np.array(found, dtype=np.int32)

    def shared(self, texts: Sequence[str]) -> list[str]:
        """Return the texts, of equal ones one and the same object: labels are many times the same."""
        return [self.values[code] for code in self.encoded(texts).tolist()]

    def code(self, text: str) -> int:
        """Return the number of a text, or UNKNOWN."""
        return self._codes.get(text, UNKNOWN)


class ColumnView(Protocol):
    """One column as a snapshot sees it."""

    def among(self, values: Collection[Any]) -> Mask:
        """Return which rows have one of the values; bool [n]."""


class TextView:
    """Texts by number."""

    def __init__(self, codes: NDArray[np.int32], texts: Texts) -> None:
        self.codes: Final = codes
        """int32 [n]."""
        self.texts: Final = texts

    def among(self, values: Collection[str]) -> Mask:
        """See `ColumnView`."""
        known = sorted({code for value in values if (code := self.texts.code(value)) != UNKNOWN})
        return _among(self.codes, np.array(known, dtype=np.int32))


class NumberView:
    """float64 [n], NaN where a row has none."""

    def __init__(self, numbers: NDArray[np.float64]) -> None:
        self._numbers = numbers

    def among(self, values: Collection[float]) -> Mask:
        """See `ColumnView`."""
        numbers = {_number(value) for value in values}
        return _among(self._numbers, np.array(sorted(n for n in numbers if not math.isnan(n))))

    def between(self, where: Range) -> Mask:
        """Return which rows are within the bounds; bool [n]."""
        allowed = ~np.isnan(self._numbers)
        with np.errstate(invalid="ignore"):
            if where.at_least is not None:
                allowed &= self._numbers >= _number(where.at_least)
            if where.above is not None:
                allowed &= self._numbers > _number(where.above)
            if where.at_most is not None:
                allowed &= self._numbers <= _number(where.at_most)
            if where.below is not None:
                allowed &= self._numbers < _number(where.below)
        return allowed


class BooleanView:
    """int8 [n]: 0, 1, or ABSENT."""

    def __init__(self, booleans: NDArray[np.int8]) -> None:
        self._booleans = booleans

    def among(self, values: Collection[bool]) -> Mask:
        """See `ColumnView`."""
        return _among(self._booleans, np.array(sorted({int(value) for value in values}), dtype=np.int8))


class IdView:
    """Ids by hash: numbers that are compared at once, and then the few texts where they are equal."""

    def __init__(self, hashes: NDArray[np.int64], item_ids: Sequence[str]) -> None:
        self._hashes = hashes
        self._item_ids = item_ids

    def among(self, values: Collection[str]) -> Mask:
        """See `ColumnView`."""
        wanted = set(values)
        allowed = _among(self._hashes, np.array(sorted(map(hash, wanted)), dtype=np.int64))
        for row in np.flatnonzero(allowed).tolist():
            allowed[row] = self._item_ids[row] in wanted
        return allowed


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
                yield name, np.array([_number(value) for value in values], dtype=np.float64)
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


def _number(value: Scalar | None) -> float:
    """Return a number of metadata or of a filter as float64; NaN for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf if value > 0 else -math.inf


def _among(column: NDArray[Any], values: NDArray[Any]) -> Mask:
    """Return where a column has one of the values, which are sorted; bool [n]."""
    if len(values) > FEW_VALUES:
        nearest = values.take(np.searchsorted(values, column), mode="clip")
        return np.asarray(nearest == column)
    allowed = np.zeros(len(column), dtype=np.bool_)
    for value in values:
        allowed |= column == value
    return allowed
