"""The configuration of a model in Triton, from its specification: as a dictionary, and as `config.pbtxt`.

`python -m shitu_models.triton_config [repository] [names] [options]` writes the files of all models in a repository (default: the
checkout's model_repository/), for a Triton that reads them: the official container. The embedded server is told the dictionary.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from shitu_models.repository import CONFIG_FILE, RepositoryError, placed_any, placed_names
from shitu_models.specs import DEMO_SPECS, DataType, ModelSpec, Precision, Task, TensorSpec

SERVED_VERSIONS: Final = {Task.DETECTOR: 1, Task.ENCODER: 2}
"""How many of a model's newest versions are served: galleries of an encoder's former version work on until they are re-embedded."""

Config = Mapping[str, Any]
"""A ModelConfig (model_config.proto) in protobuf's JSON form."""

_DATA_TYPES: Final = {DataType.UINT8: "TYPE_UINT8", DataType.FLOAT32: "TYPE_FP32"}
_CPU_WARM_BATCH: Final = 8
"""On a CPU a full batch of a large model takes tens of seconds, and warms nothing that this does not; a GPU picks kernels by the size."""
_ENUMS: Final = frozenset({"data_type", "kind"})
"""Fields whose values stand without quotation marks in a text file."""
_MAPS: Final = frozenset({"parameters", "inputs"})
"""Fields that are maps; a text file has a key and a value for each entry."""

_HEADER: Final = (
    "# Rendered from server/shitu_models/specs.py by `python -m shitu_models.triton_config`; change it there.\n"
)


class Accelerator(str, Enum):
    """What ONNX Runtime runs a model with."""

    NONE = "none"
    """Its own kernels for the CPU; in the container, CUDA where there is a GPU."""
    CUDA = "cuda"
    """A GPU, by ONNX Runtime's own kernels; a load without one fails."""
    TENSORRT = "tensorrt"
    """A GPU, by TensorRT, and by CUDA what that does not take."""
    OPENVINO = "openvino"
    """OpenVINO on the CPU."""

    @property
    def is_on_gpu(self) -> bool:
        """Whether it needs a GPU."""
        return self in {Accelerator.CUDA, Accelerator.TENSORRT}

    @property
    def queue_delay_us(self) -> int:
        """How long the batcher best holds a request back: beside models on the CPU requests gather at the gateways already."""
        return TritonConfigOptions.max_queue_delay_us if self.is_on_gpu else 0


_TENSORRT_MODES: Final = {Precision.FP32: "FP32", Precision.FP16: "FP16"}
_OPENVINO_HINTS: Final = {Precision.FP32: "f32", Precision.BF16: "bf16"}
"""By OpenVINO's names (ov::hint::inference_precision)."""

PRECISIONS: Final = {
    # The weights of a bf16 model are float32: what computes in bf16 is OpenVINO.
    Accelerator.NONE: frozenset({Precision.FP32, Precision.FP16, Precision.INT8}),
    Accelerator.CUDA: frozenset({Precision.FP32, Precision.FP16}),
    Accelerator.TENSORRT: frozenset(_TENSORRT_MODES),
    Accelerator.OPENVINO: frozenset(_OPENVINO_HINTS),
}
"""What each accelerator can run a model in; total over Accelerator."""


@dataclass(frozen=True)
class TritonConfigOptions:
    """What of a configuration the specification of a model does not say."""

    instance_count: int = 1
    """Instances of the model, each with a session of its own, 1 or more."""
    intra_op_threads: int = 0
    """Threads of one session on a CPU; 0 lets ONNX Runtime choose (all physical cores)."""
    max_queue_delay_us: int = 1000
    """How long the batcher may hold a request back to merge it with others, microseconds (notes: 1000 to 2000)."""
    accelerator: Accelerator = Accelerator.NONE
    precision: Precision = Precision.FP32
    """What the model computes in, as its card says."""

    def __post_init__(self) -> None:
        if self.instance_count < 1 or self.intra_op_threads < 0 or self.max_queue_delay_us < 0:
            raise ValueError(f"instance_count must be 1 or more, the others 0 or more; got {self}")
        if self.precision not in PRECISIONS[self.accelerator]:
            fitting = [one.value for one in Accelerator if self.precision in PRECISIONS[one]]
            raise ValueError(
                f"a {self.precision.value} model runs with accelerator {' or '.join(fitting)}, "
                f"got {self.accelerator.value}; choose one of those, or a model of another precision"
            )

    @classmethod
    def for_machine(cls, processor_count: int, instance_count: int = 1) -> TritonConfigOptions:
        """Return options that give each processor one thread: instances share them evenly."""
        return cls(instance_count=instance_count, intra_op_threads=max(1, processor_count // instance_count))


def model_config(spec: ModelSpec, options: TritonConfigOptions | None = None) -> Config:
    """Return the configuration of a model.

    There is no queue policy on purpose: any policy switches prefetching off, and a rejection does not wake the batcher, so that
    goodput collapses under overload; the gateway admits instead. Without a GPU accelerator instances have no `kind`: KIND_GPU does
    not load without a GPU, which is what such an accelerator wants.
    """
    options = options or TritonConfigOptions()
    on_gpu = options.accelerator.is_on_gpu
    accelerators = _accelerators(options)
    most = spec.max_batch if on_gpu else min(_CPU_WARM_BATCH, spec.max_batch)
    return {
        "name": spec.name,
        "backend": "onnxruntime",
        "max_batch_size": spec.max_batch,
        "version_policy": {"latest": {"num_versions": SERVED_VERSIONS[spec.task]}},
        "input": [_tensor(tensor) for tensor in spec.inputs],
        "output": [_tensor(tensor) for tensor in spec.outputs],
        "instance_group": [{"count": options.instance_count, **({"kind": "KIND_GPU"} if on_gpu else {})}],
        "dynamic_batching": {"max_queue_delay_microseconds": options.max_queue_delay_us},
        **({"optimization": {"execution_accelerators": accelerators}} if accelerators else {}),
        "parameters": {
            "intra_op_thread_count": {"string_value": str(options.intra_op_threads)},
            # Threads that spin between runs take the cores from the gateway. The C++ backend ignores the key.
            "session.intra_op.allow_spinning": {"string_value": "0"},
        },
        "model_warmup": [_warmup(spec, batch) for batch in sorted({1, most})],
    }


def render(spec: ModelSpec, options: TritonConfigOptions | None = None) -> str:
    """Return the text of a model's `config.pbtxt`."""
    return _HEADER + "".join(_fields(model_config(spec, options), ""))


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


def _accelerators(options: TritonConfigOptions) -> dict[str, Any]:
    # TF32 would round FP32 to 10 bits of mantissa without a word; what TensorRT itself does, NVIDIA_TF32_OVERRIDE=0 stops.
    cuda = {"name": "cuda", "parameters": {"use_tf32": "0"}}
    if options.accelerator is Accelerator.CUDA:
        return {"gpu_execution_accelerator": [cuda]}
    if options.accelerator is Accelerator.TENSORRT:
        mode = {"precision_mode": _TENSORRT_MODES[options.precision]}
        return {"gpu_execution_accelerator": [{"name": "tensorrt", "parameters": mode}, cuda]}
    if options.accelerator is Accelerator.OPENVINO:
        hint = {"inference_precision": _OPENVINO_HINTS[options.precision]}
        return {"cpu_execution_accelerator": [{"name": "openvino", "parameters": hint}]}
    return {}


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": _DATA_TYPES[tensor.data_type], "dims": list(tensor.shape)}


def _warmup(spec: ModelSpec, batch: int) -> dict[str, Any]:
    inputs = {
        tensor.name: {"data_type": _DATA_TYPES[tensor.data_type], "dims": list(tensor.shape), "zero_data": True}
        for tensor in spec.inputs
    }
    return {"name": f"batch_{batch}", "batch_size": batch, "inputs": inputs}


def _fields(message: Config, indent: str) -> Iterator[str]:
    """Render a message in protobuf's text format, field by field."""
    for name, value in message.items():
        if name in _MAPS:
            for key, entry in value.items():
                yield from _field(name, {"key": key, "value": entry}, indent)
        elif isinstance(value, list) and isinstance(value[0], Mapping):
            for entry in value:
                yield from _field(name, entry, indent)
        else:
            yield from _field(name, value, indent)


def _field(name: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield f"{indent}{name} {{\n"
        yield from _fields(value, f"{indent}  ")
        yield f"{indent}}}\n"
    else:
        yield f"{indent}{name}: {_scalar(name, value)}\n"


def _scalar(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if name in _ENUMS else f'"{value}"'
    return str(value)


def main(arguments: list[str] | None = None) -> None:
    """Write the configurations of placed models, by default of all in the checkout."""
    parser = argparse.ArgumentParser(prog="python -m shitu_models.triton_config", description=__doc__)
    parser.add_argument(
        "repository", type=Path, nargs="?", default=Path(__file__).resolve().parents[2] / "model_repository"
    )
    parser.add_argument("names", nargs="*", help="models; all that have weights where there is none")
    parser.add_argument("--instances", type=int, default=1, help="instances of each model")
    parser.add_argument(
        "--threads", type=int, default=0, help="of one instance on a CPU; 0: as many as there are cores"
    )
    # The container's backend hands OpenVINO no precision, so what it computes in would be its own choice.
    on_file = [one.value for one in Accelerator if one is not Accelerator.OPENVINO]
    parser.add_argument("--accelerator", choices=on_file, default=Accelerator.NONE.value)
    given = parser.parse_args(arguments)
    try:
        options = TritonConfigOptions(given.instances, given.threads, accelerator=Accelerator(given.accelerator))
        for name in given.names or placed_names(given.repository):
            sys.stdout.write(_rewritten(given.repository, name, options, must=bool(given.names)))
    except (RepositoryError, ValueError) as error:
        parser.error(str(error))


def _rewritten(repository: Path, name: str, options: TritonConfigOptions, *, must: bool) -> str:
    """Write a model's file; say its path, or why it was left where it need not be written."""
    model = placed_any(repository, name)
    try:
        fitting = replace(options, precision=model.precision)
    except ValueError as error:
        if must:
            raise ValueError(f"model {name}: {error}") from error
        return f"{repository / name / CONFIG_FILE} is left as it is: {error}\n"
    return f"{write_configs(repository, [model.spec], fitting)[0]}\n"


if __name__ == "__main__":
    main()
