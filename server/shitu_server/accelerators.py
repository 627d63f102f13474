"""Whether the embedded Triton can run models with an accelerator on this machine."""

from __future__ import annotations

from typing import Final

from shitu_models.triton_config import Accelerator
from shitu_server.errors import ConfigurationError
from shitu_server.triton_assembly import has_gpu

_PROVIDERS: Final = {
    Accelerator.CUDA: ("CUDAExecutionProvider", "onnxruntime-gpu"),
    Accelerator.TENSORRT: ("TensorrtExecutionProvider", "onnxruntime-gpu"),
    Accelerator.OPENVINO: ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
}
"""What ONNX Runtime calls it, and the package that has it and takes the place of `onnxruntime`."""


def check_accelerator(accelerator: Accelerator) -> None:
    """Refuse an accelerator that this machine or its ONNX Runtime has not.

    Raises:
        ConfigurationError: says what is missing and what to do.
    """
    if accelerator is Accelerator.NONE:
        return
    import onnxruntime  # noqa: PLC0415  a second of start that only an accelerator costs

    provider, package = _PROVIDERS[accelerator]
    available = onnxruntime.get_available_providers()
    if accelerator is not Accelerator.OPENVINO and not has_gpu():
        raise ConfigurationError(
            f"accelerator {accelerator.value} needs an NVIDIA GPU, and this machine shows none (/dev/nvidiactl is missing); "
            f"serve with --accelerator none, or name a Triton on another machine with --triton-address"
        )
    if provider not in available:
        raise ConfigurationError(
            f"accelerator {accelerator.value} needs ONNX Runtime's {provider}; {onnxruntime.__version__} here has "
            f"{', '.join(available)}; install {package} in place of onnxruntime, or serve with --accelerator none"
        )
