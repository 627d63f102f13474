"""Arrays of one element type, typed as such."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def float32(values: ArrayLike) -> NDArray[np.float32]:
    """The values as a float32 array."""
    return np.asarray(values, np.float32)


def int64(values: ArrayLike) -> NDArray[np.int64]:
    """The values as an int64 array."""
    return np.asarray(values, np.int64)
