"""Takes the weights out of an exported program, whose names say nothing, and puts them into our architecture.

Both programs are walked: parameters of one shape and one role come in the same order in both, because both networks compute the same
in the same order. That is an assumption, which `check_recovery` proves for the very weights by comparing outputs.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import paddle

from shitu_models.specs import ModelSpec
from shitu_train.architectures.catalogue import Architecture
from shitu_train.conversion.exported_program import ExportedProgram, Role, Uses, uses_of
from shitu_train.errors import ConversionError


def recovered_layer(program: ExportedProgram, architecture: Architecture, spec: ModelSpec) -> paddle.nn.Layer:
    """Return the architecture, ready to be exported, with the weights of a program.

    Raises:
        ConversionError: the program has other parameters than the architecture.
    """
    # What is exported may have been changed for it (branches fused), so the changed layer is the one to fill.
    layer = architecture.served(architecture.build(spec.input_size))
    layer.eval()
    ours = _by_role(uses_of(_program_of(layer, spec)), {tensor.name for tensor in layer.state_dict().values()})
    theirs = _by_role(program.uses, set(program.values))
    if differing := [role for role, names in ours.items() if len(names) != len(theirs.get(role, ()))]:
        operator, _, shape = differing[0]
        raise ConversionError(
            f"{len(differing)} kinds of parameters differ from {spec.name}'s: of {operator} with shape {list(shape)} "
            f"{len(ours[differing[0]])} were expected, {len(theirs.get(differing[0], ()))} found"
        )
    pairs = {own: other for role, names in ours.items() for own, other in zip(names, theirs[role], strict=True)}
    for tensor in layer.state_dict().values():
        tensor.set_value(np.ascontiguousarray(program.values[pairs[tensor.name]], dtype=np.float32))
    return layer


def _program_of(layer: paddle.nn.Layer, spec: ModelSpec) -> Any:
    shape = paddle.static.InputSpec([None, 3, spec.input_size, spec.input_size], "float32", "image")
    static: Any = paddle.jit.to_static(layer, input_spec=[shape], full_graph=True)
    try:
        return static.forward.concrete_program.main_program
    finally:
        static.forward.rollback()


def _by_role(uses: Uses, known: set[str]) -> dict[Role, list[str]]:
    """Those of the known parameters that have each role, in the order of their first use."""
    found: dict[Role, list[str]] = defaultdict(list)
    for role, name in uses:
        if name in known:
            found[role].append(name)
    return dict(found)
