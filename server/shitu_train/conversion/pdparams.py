"""Reads Paddle's checkpoints (`.pdparams`) without running what a stranger may have put into them.

A checkpoint is a pickle, and a pickle calls what it names. None of the callables that it may name here is the real one: arrays are
built by this module from a dtype of a short list and as many bytes as their shape says, and everything else raises.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shitu_train.errors import ConversionError

State = dict[str, NDArray[np.float32]]

_FLOATS: Final = ("f2", "f4", "f8")
_BFLOAT16: Final = "u2"
"""Paddle saves bfloat16 as the bits of it."""
_OTHERS: Final = ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
"""Counters beside the weights; they are read and refused by name, not as code."""
_NAMES_KEY: Final = "StructuredToParameterName@@"
"""Beside the arrays: Paddle's own names of the parameters."""
_SPLIT_KEY: Final = "UnpackBigParamInfor@@"
"""Says that arrays over a gibibyte were written in slices, as Paddle did with pickle protocols before 4."""


class _Dtype:
    """Stands for numpy.dtype while a pickle is read."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in (*_FLOATS, *_OTHERS):
            raise pickle.UnpicklingError(f"it holds an array of {code!r}, which no checkpoint does")
        self.code = str(code)
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it names the byte order {state[1]!r}")
        self.order = str(state[1])

    @property
    def real(self) -> np.dtype[Any]:
        """The dtype that it stands for."""
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for an array while a pickle is read; `value` is the array once its state came."""

    value: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.value = _built(content, dtype, shape, "F" if fortran else "C")


class _Kind:
    """Stands for the class numpy.ndarray, which a pickle names and does not call."""


def _reconstructed(*_: object) -> _Array:
    return _Array()


def _from_buffer(content: object, dtype: object, shape: Any, order: str) -> _Array:
    """What pickle protocol 5 has arrays built by."""
    array = _Array()
    array.value = _built(content, dtype, shape, order)
    return array


def _built(content: object, dtype: object, shape: Any, order: str) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(content, (bytes, bytearray)) or order not in ("C", "F"):
        raise pickle.UnpicklingError("it holds an array that is not made of bytes")
    sizes = tuple(int(size) for size in shape)
    if min(sizes, default=1) < 0 or prod(sizes) * dtype.real.itemsize != len(content):
        raise pickle.UnpicklingError(f"it holds an array of shape {sizes} with {len(content)} bytes")
    if not content:
        return np.zeros(sizes, dtype.real)
    return np.frombuffer(content, dtype.real).reshape(sizes, order="F" if order == "F" else "C")


def _encoded(text: object, encoding: object) -> bytes:
    """How pickles of protocol 2 hold bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it encodes something else than bytes")
    return text.encode("latin1")


def _pair(values: object) -> tuple[Any, ...]:
    """What Paddle pickles a tensor as: its name and its array."""
    if not isinstance(values, (tuple, list)):
        raise pickle.UnpicklingError("it makes a tuple of something else than a list")
    return tuple(values)


_STAND_INS: Final[dict[tuple[str, str], Callable[..., Any]]] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstructed for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("numpy", "ndarray"): _Kind,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "tuple"): _pair,
    ("__builtin__", "tuple"): _pair,
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _STAND_INS.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint needs")
        return found


def read_pdparams(path: Path) -> State:
    """Return the arrays of a checkpoint by their names, as float32; bfloat16 and float16 are widened.

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
        raise ConversionError(
            f"{path}: expected arrays of floats by name, got something else for {strangers[:3] or 'all'}"
        )
    return {name: value for name, value in arrays.items() if value is not None}


def _array(value: Any) -> NDArray[np.float32] | None:
    """The numbers as float32; Paddle writes an array alone, or as a pair of its name and the array."""
    if isinstance(value, tuple) and len(value) == 2:
        value = value[1]
    array = value.value if isinstance(value, _Array) else None
    if array is None:
        return None
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind + str(array.dtype.itemsize) == _BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return None
