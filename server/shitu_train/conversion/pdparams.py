"""Reads Paddle's checkpoints (`.pdparams`) without running what a stranger may have put into them.

A checkpoint is a pickle. Only what a dictionary of arrays needs is resolved, so that a hostile file raises instead of running code.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shitu_train.errors import ConversionError

State = dict[str, NDArray[Any]]

_ALLOWED: Final = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.numeric", "_frombuffer"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
        ("builtins", "tuple"),
        ("__builtin__", "tuple"),
    }
)
_NAMES_KEY: Final = "StructuredToParameterName@@"
"""Beside the arrays: Paddle's own names of the parameters."""
_SPLIT_KEY: Final = "UnpackBigParamInfor@@"
"""Says that arrays over a gibibyte were written in slices, as Paddle did with pickle protocols before 4."""


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint needs")
        return super().find_class(module, name)


def read_pdparams(path: Path) -> State:
    """Return the arrays of a checkpoint by their names.

    A checkpoint of `shitu train` holds the layer's arrays under `model`; those are returned.

    Raises:
        ConversionError: the file cannot be read, is damaged, holds something else than arrays, or wants to run code.
    """
    try:
        with path.open("rb") as file:
            state = _ArraysOnly(file).load()  # restricted above
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged pickle raises anything
        raise ConversionError(
            f"{path} is no checkpoint of Paddle, or damaged: {error}; download or save it again"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or _SPLIT_KEY in state:
        raise ConversionError(f"{path}: expected a dictionary of whole arrays as paddle.save writes it; save it again")
    arrays = {str(name): _array(value) for name, value in state.items() if name != _NAMES_KEY}
    strangers = [name for name, value in arrays.items() if value is None]
    if strangers or not arrays:
        raise ConversionError(f"{path}: expected arrays by name, got something else for {strangers[:3] or 'all'}")
    return {name: value for name, value in arrays.items() if value is not None}


def _array(value: Any) -> NDArray[Any] | None:
    """The array; Paddle writes it alone, or as a pair of its name and the array."""
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    return value if isinstance(value, np.ndarray) else None
