"""Reduced precision: how a model gets it, and the gate of what it changes.

The drift is measured by the provider that will serve the model, on this machine: where that provider is not installed, or there is no
GPU for it, the conversion is refused, because nobody could say what the precision changes.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx
import onnxruntime
from onnx import TensorProto, helper

from shitu_models.cards import Drift
from shitu_models.specs import ModelSpec, Precision, Task
from shitu_train.conversion.drift import DriftLimits, check_drift, measured_drift
from shitu_train.errors import ConversionError

Provider = tuple[str, Mapping[str, Any]]
_ENDS_OF_HEADS: Final = ("Softmax", "Sigmoid")
"""Operators between a detector's logits and its decoder: of the bins of distances, and of the scores."""
_LEAST_PRODUCT_SHARE: Final = 0.5
"""Of the weights: below it int8 would leave most of a network as it is."""


@dataclass(frozen=True)
class _Way:
    """How a precision is reached."""

    change: Callable[[bytes, ModelSpec], bytes]
    """Of the graph."""
    provider: Provider
    """That runs it."""
    install: str
    """What brings the provider."""
    limits: DriftLimits


def reduced(content: bytes, spec: ModelSpec, precision: Precision) -> tuple[bytes, Drift | None]:
    """Return the graph in a precision, and how far its outputs move on drawn products; FP32 stays as it is.

    Raises:
        ConversionError: this machine cannot run the precision, or the graph has nothing to reduce.
        DriftError: it moves vectors or boxes too far.
    """
    if precision is Precision.FP32:
        return content, None
    check_provider(precision)
    way = _WAYS[precision]
    changed = way.change(content, spec)
    drift = measured_drift(_session(content), _session(changed, way.provider), spec)
    check_drift(drift, way.limits, spec, precision)
    return changed, drift


def check_provider(precision: Precision) -> None:
    """Raise ConversionError where this machine cannot run a precision, and so cannot measure what it changes."""
    if precision is Precision.FP32:
        return
    way = _WAYS[precision]
    name, _ = way.provider
    if name not in onnxruntime.get_available_providers():
        raise ConversionError(
            f"{precision.value} is served by {name}, which this ONNX Runtime ({onnxruntime.__version__}) does not have; "
            f"{way.install}, or convert to another precision"
        )


def _session(content: bytes, provider: Provider = ("CPUExecutionProvider", {})) -> onnxruntime.InferenceSession:
    session = onnxruntime.InferenceSession(content, providers=[(provider[0], dict(provider[1]))])
    if provider[0] not in session.get_providers():  # ONNX Runtime goes on with the CPU and only logs it
        raise ConversionError(f"{provider[0]} does not start here; see ONNX Runtime's lines above")
    return session


def _int8(content: bytes, spec: ModelSpec) -> bytes:
    """Matrix products with 8-bit weights of each channel; activations are scaled as they come (dynamic quantisation)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415  # slow to import

    model = onnx.load_from_string(content)
    if _product_share(model.graph) < _LEAST_PRODUCT_SHARE:
        raise ConversionError(
            f"{spec.name}: int8 needs a network of matrix products, and the weights of this one are those of convolutions; "
            "convert it to fp32"
        )
    with tempfile.TemporaryDirectory(prefix="shitu-int8-") as folder, _quiet():
        target = Path(folder) / "model.onnx"
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            # Shape inference knows no type behind ONNX Runtime's own operators, which fused graphs have; all of it is float.
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": TensorProto.FLOAT},
        )
        return target.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the quantiser, which tells its every step on the root logger, to what goes wrong."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _product_share(graph: onnx.GraphProto) -> float:
    """The share of the weights, by bytes, that enter matrix products."""
    sizes = {tensor.name: tensor.ByteSize() for tensor in graph.initializer}
    factors = {node.input[1] for node in graph.node if node.op_type == "MatMul"}
    return sum(size for name, size in sizes.items() if name in factors) / max(sum(sizes.values()), 1)


def _fp16(content: bytes, spec: ModelSpec) -> bytes:
    """Weights and arithmetic in half precision; inputs and outputs, and what stands behind the network, stay in FP32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415  # slow to import

    model = onnx.load_from_string(content)
    graph, kept = model.graph, _full_precision(model.graph, spec)
    behind = [node for node in graph.node if node.name in kept]
    network = [node for node in graph.node if node.name not in kept]
    seam = {name for node in network for name in node.output} & {name for node in behind for name in node.input}
    outputs, weights = list(graph.output), list(graph.initializer)
    _replace(graph.node, network)
    _replace(graph.output, [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(seam)])
    _replace(graph.initializer, _used(weights, network))
    # The converter would round between any two nodes that it is told to leave alone, so that it only sees the network.
    half = convert_float_to_float16(model, keep_io_types=True)
    if not any(tensor.data_type == TensorProto.FLOAT16 for tensor in half.graph.initializer):
        raise ConversionError(f"{spec.name}: nothing of the graph could be put into half precision")
    shared = {tensor.name for tensor in half.graph.initializer}
    half.graph.initializer.extend(tensor for tensor in _used(weights, behind) if tensor.name not in shared)
    half.graph.node.extend(behind)
    _replace(half.graph.output, outputs)
    return bytes(half.SerializeToString())


def _used(weights: list[onnx.TensorProto], nodes: list[onnx.NodeProto]) -> list[onnx.TensorProto]:
    names = {name for node in nodes for name in node.input}
    return [tensor for tensor in weights if tensor.name in names]


def _replace(field: Any, values: list[Any]) -> None:
    del field[:]
    field.extend(values)


def _full_precision(graph: onnx.GraphProto, spec: ModelSpec) -> list[str]:
    """Names of the nodes that half precision would harm.

    Lengths of vectors may be over its range, and corners of boxes need more digits than it has: what stands behind the network, and
    of a detector what makes boxes of the distances' softmax.
    """
    found = [node.name for node in graph.node if node.name.startswith("post/")]
    if spec.task is Task.ENCODER:
        return found
    makers = {name: node for node in graph.node for name in node.output}
    waiting = [name for node in graph.node if node.name in found for name in node.input]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in found and node.op_type not in _ENDS_OF_HEADS:
            found.append(node.name)
            waiting.extend(node.input)
    return found


def _unchanged(content: bytes, spec: ModelSpec) -> bytes:  # noqa: ARG001  # OpenVINO reduces the precision when it runs
    return content


_GPU: Final = "install onnxruntime-gpu on a machine with a GPU"
_WAYS: Final[Mapping[Precision, _Way]] = {
    Precision.INT8: _Way(_int8, ("CPUExecutionProvider", {}), "install onnxruntime", DriftLimits(0.99, -0.02)),
    Precision.BF16: _Way(
        _unchanged,
        (
            "OpenVINOExecutionProvider",
            {"device_type": "CPU", "load_config": '{"CPU": {"INFERENCE_PRECISION_HINT": "bf16"}}'},
        ),
        "install onnxruntime-openvino in place of onnxruntime",
        DriftLimits(0.999, -0.01),
    ),
    Precision.FP16: _Way(_fp16, ("CUDAExecutionProvider", {"use_tf32": "0"}), _GPU, DriftLimits(0.999, -0.01)),
}
"""Total over the reduced precisions. The limits: of these pictures' vectors FP32 alone, in two orders of summation, keeps a mean
cosine of 0.9999999; ONNX Runtime's int8 of a ViT-B/16 kept .9996 (notes on export, random weights)."""
