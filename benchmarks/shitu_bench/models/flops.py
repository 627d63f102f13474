"""Floating-point operations of a model for one picture: two for each multiplication with its addition, in its matrix products.

Counted are Conv, Gemm and MatMul, and the two products in ONNX Runtime's MultiHeadAttention. The rest (normalisations, activations,
softmax, suppression) is under a hundredth of that in these models, and is left out by all whose figures ours stand beside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from shitu_bench.errors import BenchError

Shape = tuple[int, ...]

_MICROSOFT: Final = "com.microsoft"


def flops_of(path: Path) -> int:
    """Return the operations of a model file, whose only input is a batch of pictures uint8 [N, S, S, 3], at batch 1.

    Raises:
        BenchError: an operator of ONNX Runtime's own is not known here.
    """
    return flops_of_model(onnx.load(str(path)))


def flops_of_model(model: onnx.ModelProto) -> int:
    """Return the operations of a model at batch 1; the model is used up. Raises as `flops_of`."""
    counted = [node for node in model.graph.node if _is_counted(node)]
    shapes = _shapes(model, sorted({name for node in counted for name in (*node.input, *node.output) if name}))
    return sum(_COUNTS[node.op_type](node, shapes) for node in counted)


def _is_counted(node: onnx.NodeProto) -> bool:
    known = node.op_type in _COUNTS or (node.domain == _MICROSOFT and node.op_type == "Gelu")
    if node.domain == _MICROSOFT and not known:
        raise BenchError(
            f"operations of {node.op_type} ({node.name}) cannot be counted; teach it to shitu_bench.models.flops"
        )
    return node.op_type in _COUNTS


def _shapes(model: onnx.ModelProto, names: list[str]) -> Mapping[str, Shape]:
    """Return the shapes of tensors at batch 1.

    The model is run: exported shapes are computed from one another (of the batch, for instance) in ways that inference gives up on.
    """
    graph = model.graph
    for name in names:
        graph.node.append(helper.make_node("Shape", [name], [_shape_name(name)]))
        graph.output.append(helper.make_tensor_value_info(_shape_name(name), TensorProto.INT64, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # all tensors are there
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    feed = {pixels.name: np.zeros((1, *pixels.shape[1:]), np.uint8 if "uint8" in pixels.type else np.float32)}
    found = session.run([_shape_name(name) for name in names], feed)
    return {name: tuple(shape.tolist()) for name, shape in zip(names, found, strict=True)}


def _shape_name(name: str) -> str:
    return f"{name}/shape"


def _convolution(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    return 2 * math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _product(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if turned else -1]


def _attention(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    (pictures, tokens, width), (_, others, _), (_, _, value_width) = (shapes[name] for name in node.input[:3])
    return 2 * pictures * tokens * others * (width + value_width)


_COUNTS: Final[Mapping[str, Callable[[onnx.NodeProto, Mapping[str, Shape]], int]]] = {
    "Conv": _convolution,
    "Gemm": _gemm,
    "MatMul": _product,
    "MultiHeadAttention": _attention,
}
