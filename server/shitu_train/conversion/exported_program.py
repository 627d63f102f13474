"""What an exported program holds and computes, told by a process of its own: Paddle's static mode and its parsers stay out of ours."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shitu_train.errors import ConversionError

TIME_LIMIT_S = 600.0
Role = tuple[str, int, tuple[int, ...]]
"""What a parameter is for: operator, place among its operands, shape."""
Uses = Sequence[tuple[Role, str]]
"""Parameters in the order of their first use, with their first role."""


@dataclass(frozen=True)
class ExportedProgram:
    """A program as it was read."""

    uses: Uses
    values: dict[str, NDArray[Any]]
    """Parameters by Paddle's own names."""
    outputs: list[list[NDArray[Any]]]
    """Of each picture."""


def read_program(program: Path, pictures: NDArray[np.float32]) -> ExportedProgram:
    """Read a program and run it on pictures, one at a time.

    Args:
        program: `<stem>.json` or `<stem>.pdmodel`, with `<stem>.pdiparams` beside it.
        pictures: float32 [n, 3, S, S], normalised. A second input, `scale_factor`, is given ones.

    Raises:
        ConversionError: Paddle cannot load or run it; the message holds the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="shitu-program-") as folder:
        np.save(Path(folder) / "pictures.npy", pictures)
        _run([str(program.with_suffix("")), program.suffix, folder])
        told = json.loads((Path(folder) / "program.json").read_text(encoding="utf-8"))
        with np.load(Path(folder) / "values.npz") as values, np.load(Path(folder) / "outputs.npz") as outputs:
            uses = [((use["operator"], use["place"], tuple(use["shape"])), use["name"]) for use in told["uses"]]
            rows = [[outputs[f"{row}/{i}"] for i in range(told["outputs"])] for row in range(len(pictures))]
            return ExportedProgram(uses, {name: values[name] for name in values.files}, rows)


def _run(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "shitu_train.conversion.program_process", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConversionError(f"Paddle did not read {arguments[0]} within {TIME_LIMIT_S:g} s") from error
    if done.returncode != 0:
        raise ConversionError(f"Paddle cannot read {arguments[0]}: {(done.stdout + done.stderr)[-1000:].strip()}")


def uses_of(program: Any) -> Uses:
    """The parameters of a PIR program in the order of their first use."""
    found: dict[str, Role] = {}
    for operation in program.global_block().ops:
        if operation.name().startswith("builtin."):
            continue
        for place in range(operation.num_operands()):
            value = operation.operand_source(place)
            source = value.get_defining_op() if value.initialized() else None
            if source is not None and source.name() == "builtin.parameter":
                role = (operation.name().rstrip("_"), place, tuple(value.shape))
                found.setdefault(source.attrs()["parameter_name"], role)
    return [(role, name) for name, role in found.items()]
