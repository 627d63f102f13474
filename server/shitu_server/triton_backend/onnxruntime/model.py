# ruff: noqa: INP001 - Triton loads this file by its path; it is no part of a package
"""Triton's `onnxruntime` backend in Python, for the embedded server.

It runs inside Triton's Python stub, never in ours. The same `config.pbtxt` means here what it means to the C++ backend of the
official container (onnxruntime_backend/src/onnxruntime.cc); in addition every parameter `session.*` becomes a session
configuration entry. `share_session_between_instances` has no effect: each instance is a process of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

_GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_EXECUTION_MODES = {"0": ort.ExecutionMode.ORT_SEQUENTIAL, "1": ort.ExecutionMode.ORT_PARALLEL}
_BOOLEANS = {"1": True, "true": True, "on": True, "0": False, "false": False, "off": False}
_TENSORRT_PRECISIONS = {"FP32": None, "FP16": "trt_fp16_enable", "BF16": "trt_bf16_enable", "INT8": "trt_int8_enable"}
_TENSORRT_NAMES = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
Array = NDArray[Any]
Provider = tuple[str, dict[str, str]]


class TritonPythonModel:
    """One instance of a model: a session, and requests that were merged run as one batch."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the session; any fault fails the load with its message."""
        config = json.loads(args["model_config"])
        path = _model_path(Path(args["model_repository"]) / args["model_version"], config["default_model_filename"])
        try:
            self._open(config, path, args["model_instance_kind"], args["model_instance_device_id"])
        except Exception as error:
            raise pb_utils.TritonModelException(f"{path}: {error}") from error

    def _open(self, config: Mapping[str, Any], path: Path, kind: str, device_id: str) -> None:
        providers = _providers(config, kind, device_id)
        names = [name for name, _ in providers]
        settings = [settings for _, settings in providers]
        self._session = ort.InferenceSession(str(path), _session_options(config), names, settings)
        missing = sorted(set(names) - set(self._session.get_providers()))
        if missing:  # ONNX Runtime goes on with the CPU and only logs it
            raise ValueError(f"ONNX Runtime could not start {', '.join(missing)}; see the lines above in the log")
        self._run_options = _run_options(config)
        self._batched = config["max_batch_size"] > 0
        self._outputs = [entry["name"] for entry in config["output"]]
        self._inputs = [entry["name"] for entry in config["input"]]
        self._check_names()

    def _check_names(self) -> None:
        for kind, wanted, entries in (
            ("input", self._inputs, self._session.get_inputs()),
            ("output", self._outputs, self._session.get_outputs()),
        ):
            known = [entry.name for entry in entries]
            if unknown := [name for name in wanted if name not in known]:
                raise ValueError(f"config.pbtxt names {kind} {unknown}, the model has {known}")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one call, in order."""
        feeds = [self._feed(request) for request in requests]
        if len(requests) > 1 and self._batched and _mergeable(feeds):
            try:
                return self._run_merged(requests, feeds)
            except Exception as error:  # noqa: BLE001 - whatever it was belongs to one request: run each alone
                pb_utils.Logger.log_warn(f"merged batch failed, running its requests alone: {error}")
        return [self._run_alone(request, feed) for request, feed in zip(requests, feeds, strict=True)]

    def _feed(self, request: Any) -> dict[str, Array]:
        return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}

    def _run_alone(self, request: Any, feed: dict[str, Array]) -> Any:
        try:
            return _response(request, self._run(feed))
        except Exception as error:  # noqa: BLE001 - the request gets it, the instance lives on
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

    def _run_merged(self, requests: Sequence[Any], feeds: Sequence[dict[str, Array]]) -> list[Any]:
        sizes = [len(next(iter(feed.values()))) for feed in feeds]
        outputs = self._run({name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]})
        if any(len(array) != sum(sizes) for array in outputs.values()):
            raise ValueError("an output has not the batch size of the input")
        stops = np.cumsum(sizes)
        return [
            _response(request, {name: array[stop - size : stop] for name, array in outputs.items()})
            for request, size, stop in zip(requests, sizes, stops, strict=True)
        ]

    def _run(self, feed: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(self._outputs, self._session.run(self._outputs, feed, self._run_options), strict=True))


def _response(request: Any, outputs: Mapping[str, Array]) -> Any:
    wanted = set(request.requested_output_names())
    tensors = [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in outputs.items() if name in wanted]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _mergeable(feeds: Sequence[Mapping[str, Array]]) -> bool:
    shapes = [{name: array.shape[1:] for name, array in feed.items()} for feed in feeds]
    return all(shape == shapes[0] for shape in shapes)


def _model_path(folder: Path, filename: str) -> Path:
    path = folder / (filename or "model.onnx")
    path = path / "model.onnx" if path.is_dir() else path
    if not path.is_file():
        raise pb_utils.TritonModelException(f"unable to find {path}")
    return path


def _parameter(config: Mapping[str, Any], name: str, default: str) -> str:
    return str(config.get("parameters", {}).get(name, {}).get("string_value", default))


def _boolean(config: Mapping[str, Any], name: str, *, default: bool) -> bool:
    text = _parameter(config, name, str(default)).lower()
    if text not in _BOOLEANS:
        raise ValueError(f"parameter {name} must be one of {sorted(_BOOLEANS)}, got {text!r}")
    return _BOOLEANS[text]


def _session_options(config: Mapping[str, Any]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = _GRAPH_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    mode = _parameter(config, "execution_mode", "0")
    if mode not in _EXECUTION_MODES:
        raise ValueError(f"parameter execution_mode must be 0 or 1, got {mode!r}")
    options.execution_mode = _EXECUTION_MODES[mode]
    options.intra_op_num_threads = int(_parameter(config, "intra_op_thread_count", "0")) or _default_threads()
    options.inter_op_num_threads = int(_parameter(config, "inter_op_thread_count", "0"))
    options.enable_cpu_mem_arena = _boolean(config, "enable_mem_arena", default=True)
    options.enable_mem_pattern = _boolean(config, "enable_mem_pattern", default=True)
    for name in config.get("parameters", {}):
        if name.startswith("session."):
            options.add_session_config_entry(name, _parameter(config, name, ""))
    for library in config.get("model_operations", {}).get("op_library_filename", []):
        options.register_custom_ops_library(library)
    return options


def _default_threads() -> int:
    """Return 0 (ONNX Runtime's own choice), unless the process may use only some of the cores, which it does not look at."""
    allowed = len(os.sched_getaffinity(0))
    return allowed if allowed < (os.cpu_count() or allowed) else 0


def _run_options(config: Mapping[str, Any]) -> ort.RunOptions | None:
    shrinkage = _parameter(config, "memory.enable_memory_arena_shrinkage", "")
    if not shrinkage:
        return None
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrinkage)
    return options


def _providers(config: Mapping[str, Any], kind: str, device_id: str) -> list[Provider]:
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    providers: list[Provider] = []
    if kind == "GPU" and "CUDAExecutionProvider" in ort.get_available_providers():
        providers += _gpu_providers(config, accelerators.get("gpu_execution_accelerator", []), device_id)
    elif kind == "GPU":
        pb_utils.Logger.log_warn("this ONNX Runtime has no CUDA; the model runs on the CPU (install onnxruntime-gpu)")
    for accelerator in accelerators.get("cpu_execution_accelerator", []):
        if accelerator["name"] != "openvino":
            raise ValueError(f"unknown Execution Accelerator '{accelerator['name']}' is requested")
        providers.append(("OpenVINOExecutionProvider", _openvino_options(config, accelerator.get("parameters", {}))))
    providers.append(("CPUExecutionProvider", {}))
    return providers


def _gpu_providers(
    config: Mapping[str, Any], accelerators: Sequence[Mapping[str, Any]], device_id: str
) -> list[Provider]:
    providers: list[Provider] = []
    cuda = {"device_id": device_id, **_cuda_options(config)}
    for accelerator in accelerators:
        parameters = accelerator.get("parameters", {})
        if accelerator["name"] == "tensorrt":
            providers.append(("TensorrtExecutionProvider", {"device_id": device_id, **_tensorrt_options(parameters)}))
        elif accelerator["name"] == "cuda":
            cuda.update(parameters)
        else:
            raise ValueError(f"unknown Execution Accelerator '{accelerator['name']}' is requested")
    return [*providers, ("CUDAExecutionProvider", cuda)]


def _cuda_options(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the CUDA options that stand among the model's parameters (the older place; the C++ backend takes both)."""
    choices = {
        "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
        "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
    }
    options = {}
    for name, values in choices.items():
        number = int(_parameter(config, name, "0"))
        if not 0 <= number < len(values):
            raise ValueError(f"unsupported {name} value '{number}' is requested, 0 to {len(values) - 1} are known")
        options[name] = values[number]
    for name in ("gpu_mem_limit", "do_copy_in_default_stream"):
        if value := _parameter(config, name, ""):
            options[name] = value
    return options


def _openvino_options(config: Mapping[str, Any], parameters: Mapping[str, str]) -> dict[str, str]:
    """Return the precision (the C++ backend knows no such parameter) and the number of threads, which OpenVINO would choose itself."""
    if unknown := sorted(set(parameters) - {"inference_precision"}):
        raise ValueError(f"unknown parameter '{unknown[0]}' is provided for OpenVINO Execution Accelerator")
    device: dict[str, Any] = {}
    if "inference_precision" in parameters:
        device["INFERENCE_PRECISION_HINT"] = parameters["inference_precision"]
    if threads := int(_parameter(config, "intra_op_thread_count", "0")):
        device["INFERENCE_NUM_THREADS"] = threads
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": device})}


def _tensorrt_options(parameters: Mapping[str, str]) -> dict[str, str]:
    options = {}
    for name, value in parameters.items():
        if name == "precision_mode":
            if value not in _TENSORRT_PRECISIONS:
                raise ValueError(f"unsupported precision mode '{value}' is requested")
            if key := _TENSORRT_PRECISIONS[value]:
                options[key] = "1"
        elif name in _TENSORRT_NAMES or name.startswith("trt_"):
            options[_TENSORRT_NAMES.get(name, name)] = value
        else:
            raise ValueError(f"unknown parameter '{name}' is provided for TensorRT Execution Accelerator")
    return options
