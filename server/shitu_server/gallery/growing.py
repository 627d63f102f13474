"""Arrays that grow behind what others read."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

N = TypeVar("N", bound=np.generic)


class Growing(Generic[N]):
    """Values in the order they came. One thread writes; what `part` handed out never changes under its readers.

    Values are appended behind those handed out, in the same memory. A value that was handed out is only changed in a copy.
    """

    def __init__(self, dtype: type[N], first: int, most: int, width: tuple[int, ...] = ()) -> None:
        """Make it empty.

        Args:
            dtype: of the values.
            first: values that there is room for at once; memory that is not written costs nothing.
            most: values that will ever come.
            width: shape of one value.
        """
        self._values = np.empty((min(first, most), *width), dtype=dtype)
        self._most = most
        self._count = 0
        self._shared = False

    def __len__(self) -> int:
        return self._count

    def append(self, values: Any, count: int) -> None:
        """Add `count` values; a single one is repeated."""
        end = self._count + count
        if end > len(self._values):
            grown = np.empty(
                (min(self._most, max(end, 2 * len(self._values))), *self._values.shape[1:]), self._values.dtype
            )
            grown[: self._count] = self._values[: self._count]
            self._values, self._shared = grown, False
        self._values[self._count : end] = values
        self._count = end

    def change(self, places: Any, values: Any) -> None:
        """Replace values, in a copy where readers may see them."""
        if self._shared:
            self._values, self._shared = self._values.copy(), False
        self._values[: self._count][places] = values

    def part(self) -> NDArray[N]:
        """Return the values as they are now, for anyone to read and keep."""
        self._shared = True
        return self._values[: self._count]

    def look(self) -> NDArray[N]:
        """Return the values for the writer, who does not keep them."""
        return self._values[: self._count]
