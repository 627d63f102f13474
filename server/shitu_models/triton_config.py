"""`config.pbtxt` of a model, rendered from its specification.

`python -m shitu_models.triton_config [directory]` writes the files of the demo models (default: the checkout's model_repository/).
The same file serves Triton's own C++ `onnxruntime` backend and ours for the embedded server.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shitu_models.specs import DEMO_SPECS, DataType, ModelSpec, TensorSpec

CONFIG_FILE: Final = "config.pbtxt"

_DATA_TYPES: Final = {DataType.UINT8: "TYPE_UINT8", DataType.FLOAT32: "TYPE_FP32"}

_HEADER: Final = (
    "# Rendered from server/shitu_models/specs.py by `python -m shitu_models.triton_config`; change it there.\n"
)


@dataclass(frozen=True)
class TritonConfigOptions:
    """What of a configuration the specification of a model does not say."""

    instance_count: int = 1
    """Instances of the model, each with a session of its own, 1 or more."""
    intra_op_threads: int = 0
    """Threads of one session on a CPU; 0 lets ONNX Runtime choose (all physical cores)."""
    max_queue_delay_us: int = 1000
    """How long the batcher may hold a request back to merge it with others, microseconds (notes: 1000 to 2000)."""

    def __post_init__(self) -> None:
        if self.instance_count < 1 or self.intra_op_threads < 0 or self.max_queue_delay_us < 0:
            raise ValueError(f"instance_count must be 1 or more, the others 0 or more; got {self}")


def render(spec: ModelSpec, options: TritonConfigOptions | None = None) -> str:
    """Return the text of a model's `config.pbtxt`.

    There is no queue policy on purpose: any policy switches prefetching off, and a rejection does not wake the batcher, so that
    goodput collapses under overload; the gateway admits instead. Instances have no `kind`: KIND_GPU does not load without a GPU.
    """
    options = options or TritonConfigOptions()
    parameters = {
        "intra_op_thread_count": str(options.intra_op_threads),
        # Threads that spin between runs take the cores from the gateway. The C++ backend ignores the key.
        "session.intra_op.allow_spinning": "0",
    }
    parts = [
        _HEADER,
        f'name: "{spec.name}"\nbackend: "onnxruntime"\nmax_batch_size: {spec.max_batch}\n',
        *(f"input {_tensor(tensor)}" for tensor in spec.inputs),
        *(f"output {_tensor(tensor)}" for tensor in spec.outputs),
        f"instance_group {{\n  count: {options.instance_count}\n}}\n",
        f"dynamic_batching {{\n  max_queue_delay_microseconds: {options.max_queue_delay_us}\n}}\n",
        *(_parameter(key, value) for key, value in parameters.items()),
        *(_warmup(spec, batch) for batch in sorted({1, spec.max_batch})),
    ]
    return "".join(parts)


def write_configs(
    repository: Path, specs: Iterable[ModelSpec] | None = None, options: TritonConfigOptions | None = None
) -> list[Path]:
    """Write `<repository>/<name>/config.pbtxt` of each model (default: those that ship) and return the paths."""
    paths = []
    for spec in DEMO_SPECS if specs is None else specs:
        path = repository / spec.name / CONFIG_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(spec, options), encoding="utf-8")
        paths.append(path)
    return paths


def _tensor(tensor: TensorSpec) -> str:
    return f'{{\n  name: "{tensor.name}"\n  data_type: {_DATA_TYPES[tensor.data_type]}\n  dims: {_dims(tensor)}\n}}\n'


def _dims(tensor: TensorSpec) -> str:
    return "[" + ", ".join(str(size) for size in tensor.shape) + "]"


def _parameter(key: str, value: str) -> str:
    return f'parameters {{\n  key: "{key}"\n  value {{\n    string_value: "{value}"\n  }}\n}}\n'


def _warmup(spec: ModelSpec, batch: int) -> str:
    inputs = "".join(
        f'  inputs {{\n    key: "{tensor.name}"\n    value {{\n      data_type: {_DATA_TYPES[tensor.data_type]}\n'
        f"      dims: {_dims(tensor)}\n      zero_data: true\n    }}\n  }}\n"
        for tensor in spec.inputs
    )
    return f'model_warmup {{\n  name: "batch_{batch}"\n  batch_size: {batch}\n{inputs}}}\n'


def main() -> None:
    """Write the configurations of the demo models, by default into the checkout."""
    default = Path(__file__).resolve().parents[2] / "model_repository"
    for path in write_configs(Path(sys.argv[1]) if len(sys.argv) > 1 else default):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
