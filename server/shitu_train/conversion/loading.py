"""Puts weights into the architectures of the registry."""

from __future__ import annotations

import numpy as np
import paddle

from shitu_models.specs import SPECS
from shitu_train.architectures.catalogue import ARCHITECTURES
from shitu_train.conversion.pdparams import State
from shitu_train.errors import ConversionError

_MOST_NAMED = 5


def load_state(layer: paddle.nn.Layer, state: State, training_only: tuple[str, ...] = ()) -> None:
    """Put arrays into a layer by name; what is for training alone is left out.

    Raises:
        ConversionError: a name is missing or unknown, or a shape differs.
    """
    fault = _fault(layer, state, training_only)
    if fault:
        raise ConversionError(fault)
    for name, parameter in layer.state_dict().items():
        parameter.set_value(np.ascontiguousarray(state[name], dtype=np.float32))


def architecture_of(state: State) -> str:
    """Return the name of the architecture whose parameters these are.

    Raises:
        ConversionError: none fits; the message says what is wrong with each.
    """
    faults = {}
    for name, architecture in ARCHITECTURES.items():
        fault = _fault(architecture.build(SPECS[name].input_size), state, architecture.training_only)
        if not fault:
            return name
        faults[name] = fault
    told = "\n".join(f"  {name}: {fault}" for name, fault in faults.items())
    raise ConversionError(f"expected the parameters of a known architecture, but of\n{told}")


def _fault(layer: paddle.nn.Layer, state: State, training_only: tuple[str, ...]) -> str:
    shapes = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    missing = [name for name in shapes if name not in state]
    unknown = [name for name in state if name not in shapes and not name.startswith(training_only or ("\0",))]
    unfit = [
        f"{name} {list(state[name].shape)} for {list(shape)}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    parts = [("missing", missing), ("unknown", unknown), ("of another shape", unfit)]
    return "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in parts if names)


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
