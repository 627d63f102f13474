"""One column of some rows, compared all at once with what a filter names.

Values that a row does not have compare as false with everything, so no column needs to know which are there: text has the number
-1, a number is NaN, and a boolean -1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from shitu_server.filters import Range, Scalar

Mask = NDArray[np.bool_]

FEW_VALUES: Final = 6
"""Up to so many values are compared one by one; more are looked up in sorted order."""
UNKNOWN: Final = -2
"""Stands for a text that no row has."""
ABSENT: Final = -1


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
        return is_among(self.codes, np.array(known, dtype=np.int32))


class NumberView:
    """float64 [n], NaN where a row has none."""

    def __init__(self, numbers: NDArray[np.float64]) -> None:
        self._numbers = numbers

    def among(self, values: Collection[float]) -> Mask:
        """See `ColumnView`."""
        numbers = {number_of(value) for value in values}
        return is_among(self._numbers, np.array(sorted(n for n in numbers if not math.isnan(n))))

    def between(self, where: Range) -> Mask:
        """Return which rows are within the bounds; bool [n]."""
        allowed = ~np.isnan(self._numbers)
        with np.errstate(invalid="ignore"):
            if where.at_least is not None:
                allowed &= self._numbers >= number_of(where.at_least)
            if where.above is not None:
                allowed &= self._numbers > number_of(where.above)
            if where.at_most is not None:
                allowed &= self._numbers <= number_of(where.at_most)
            if where.below is not None:
                allowed &= self._numbers < number_of(where.below)
        return allowed


class BooleanView:
    """int8 [n]: 0, 1, or ABSENT."""

    def __init__(self, booleans: NDArray[np.int8]) -> None:
        self._booleans = booleans

    def among(self, values: Collection[bool]) -> Mask:
        """See `ColumnView`."""
        return is_among(self._booleans, np.array(sorted({int(value) for value in values}), dtype=np.int8))


class IdView:
    """Ids by hash: numbers that are compared at once, and then the few texts where they are equal."""

    def __init__(self, hashes: NDArray[np.int64], item_ids: Sequence[str]) -> None:
        self._hashes = hashes
        self._item_ids = item_ids

    def among(self, values: Collection[str]) -> Mask:
        """See `ColumnView`."""
        wanted = set(values)
        allowed = is_among(self._hashes, np.array(sorted(map(hash, wanted)), dtype=np.int64))
        for row in np.flatnonzero(allowed).tolist():
            allowed[row] = self._item_ids[row] in wanted
        return allowed


def number_of(value: Scalar | None) -> float:
    """Return a number of metadata or of a filter as float64; NaN for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf if value > 0 else -math.inf


def is_among(column: NDArray[Any], values: NDArray[Any]) -> Mask:
    """Return where a column has one of the values, which are sorted; bool [n]."""
    if len(values) > FEW_VALUES:
        nearest = values.take(np.searchsorted(values, column), mode="clip")
        return np.asarray(nearest == column)
    allowed = np.zeros(len(column), dtype=np.bool_)
    for value in values:
        allowed |= column == value
    return allowed
