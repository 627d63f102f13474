"""ONNX Runtime sessions as models are served with: threads that do not spin, and FP32 that is FP32."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shitu_bench.errors import BenchError
from shitu_bench.models.devices import Device

_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_QUERY_TIMEOUT_S: Final = 20.0
Array = NDArray[Any]


@dataclass(frozen=True)
class SessionPlan:
    """How a session is opened."""

    threads: int
    """Of one session on the CPU."""
    device: Device = Device.CPU
    entries: Mapping[str, str] = field(default_factory=lambda: {"session.intra_op.allow_spinning": "0"})
    """Session configuration entries; by default those of a served model."""


Runner = Callable[[], object]
"""Runs a model on what it was made for, again and again; returns when all is computed."""


def check_device(device: Device) -> None:
    """Raise BenchError where this ONNX Runtime cannot use a device."""
    if device is Device.CUDA and _CUDA not in onnxruntime.get_available_providers():
        raise BenchError(
            f"expected an ONNX Runtime with {_CUDA}, this one has {', '.join(onnxruntime.get_available_providers())}; "
            "install onnxruntime-gpu, or measure with --device cpu"
        )


def device_name(device: Device) -> str:
    """Return the name of the GPU; empty for the CPU, which the machine's description names."""
    if device is Device.CPU:
        return ""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_QUERY_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise BenchError(f"the GPU does not say what it is ({error}); is its driver there?") from error
    return done.stdout.strip()


def opened(model: Path | bytes, plan: SessionPlan) -> onnxruntime.InferenceSession:
    """Open a session. Raises BenchError where it would not run on the device of the plan."""
    check_device(plan.device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = plan.threads
    for name, value in plan.entries.items():
        options.add_session_config_entry(name, value)
    providers: list[Any] = [_CPU]
    if plan.device is Device.CUDA:
        providers.insert(0, (_CUDA, {"device_id": "0", "use_tf32": "0"}))
    session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers)
    if plan.device is Device.CUDA and _CUDA not in session.get_providers():
        raise BenchError("ONNX Runtime could not start CUDA and would use the CPU; see its message above")
    return session


def runner(session: onnxruntime.InferenceSession, feed: Mapping[str, Array], device: Device) -> Runner:
    """Return what runs a session on inputs; on a GPU these are there already, and the outputs stay there: model time only."""
    if device is Device.CPU:
        return lambda: session.run(None, dict(feed))
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda", 0)
    return _bound(session, binding)


def _bound(session: onnxruntime.InferenceSession, binding: Any) -> Callable[[], None]:
    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def random_pixels(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Return noise, uint8: what a picture shows does not change how long a network takes."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
