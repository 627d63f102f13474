"""Edits of an exported ONNX graph: canonical names, uint8 preprocessing in front, normalisation or NMS behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shitu_models.specs import DET_BOXES, DET_SCORES, EMBEDDING, PIXELS, DataType, ModelSpec, TensorSpec
from shitu_train.arrays import float32, int64
from shitu_train.conversion.paddle2onnx_process import OPSET
from shitu_train.errors import ConversionError

BATCH = "batch"
RAW_BOXES, RAW_SCORES = "raw_boxes", "raw_scores"
"""Tensors of a served detector before its suppression: [batch, cells, 4] and [batch, cells]; no outputs of it."""
# The oldest ONNX Runtime that must load the files (1.17) reads up to IR 9; opset 17 belongs to IR 8.
IR_VERSION = 8
_ELEMENT = {DataType.UINT8: TensorProto.UINT8, DataType.FLOAT32: TensorProto.FLOAT}


def complete_encoder(plain: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """The served encoder: `pixels` uint8 [batch, S, S, 3] to `embedding` float32 [batch, d] of length 1."""
    image, (vector,) = _core(plain, outputs=1)
    builder = GraphBuilder()
    _normalise_length(builder, vector)
    return _assemble(plain, _preprocessing(spec, image), builder, spec)


def complete_detector(plain: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """The served detector: `pixels` uint8 [batch, S, S, 3] to `det_boxes` [batch, 100, 4] and `det_scores` [batch, 100]."""
    image, (boxes, scores) = _core(plain, outputs=2)
    _rename(plain.graph, {boxes: RAW_BOXES, scores: RAW_SCORES})
    builder = GraphBuilder()
    _suppress(builder, RAW_BOXES, RAW_SCORES, spec)
    return _assemble(plain, _preprocessing(spec, image), builder, spec)


def complete_single_detector(plain: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """The served detector of an export that suppresses by itself, one picture at a time: its rows [m, 6] become padded outputs."""
    scale = [value.name for value in plain.graph.input if value.name == "scale_factor"]
    plain.graph.initializer.extend(numpy_helper.from_array(float32([[1, 1]]), name) for name in scale)
    image, (rows, _) = _core(plain, outputs=2)
    builder = GraphBuilder()
    padding = builder.constant(np.zeros((spec.max_boxes, 6), np.float32))
    (padded,) = builder.add("Concat", [rows, padding], axis=0)
    for output, start, stop in ((DET_BOXES, 2, 6), (DET_SCORES, 1, 2)):
        bounds = [int64([0, start]), int64([spec.max_boxes, stop]), int64([0, 1])]
        (part,) = builder.add("Slice", [padded, *(builder.constant(bound) for bound in bounds)])
        shape = [1, spec.max_boxes, 4] if output == DET_BOXES else [1, spec.max_boxes]
        builder.add("Reshape", [part, builder.constant(int64(shape))], output=output)
    return _assemble(plain, _preprocessing(spec, image), builder, spec)


def with_raw_outputs(content: bytes, spec: ModelSpec) -> bytes:
    """A served detector that gives RAW_BOXES and RAW_SCORES too."""
    model = onnx.load_from_string(content)
    shapes: dict[str, list[str | int | None]] = {RAW_BOXES: [BATCH, "cells", 4], RAW_SCORES: [BATCH, "cells"]}
    produced = {name for node in model.graph.node for name in node.output}
    if not produced.issuperset(shapes):
        raise ConversionError(f"{spec.name}: expected tensors {sorted(shapes)} in the graph, found none of these names")
    for name, shape in shapes.items():
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return bytes(model.SerializeToString())


class GraphBuilder:
    """Collects nodes and constants of a piece of graph."""

    def __init__(self, prefix: str = "post") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix

    def add(
        self, operator: str, inputs: Sequence[str], output: str = "", outputs: int = 1, **attributes: Any
    ) -> list[str]:
        """Adds a node; returns its outputs' names (`output` names a single one)."""
        stem = f"{self._prefix}/{operator}_{len(self.nodes)}"
        names = [output] if output else [f"{stem}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=stem, **attributes))
        return names

    def constant(self, value: NDArray[Any]) -> str:
        """Adds a constant; returns its name."""
        name = f"{self._prefix}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _core(plain: onnx.ModelProto, outputs: int) -> tuple[str, list[str]]:
    """Names of the exported graph's single input and of its outputs."""
    weights = {tensor.name for tensor in plain.graph.initializer}
    images = [value.name for value in plain.graph.input if value.name not in weights]
    names = [value.name for value in plain.graph.output]
    if len(images) != 1 or len(names) != outputs:
        raise ConversionError(f"expected 1 input and {outputs} outputs of the export, got {images} and {names}")
    return images[0], names


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Gives tensors of a graph other names."""
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
    for value in graph.output:
        value.name = names.get(value.name, value.name)


def _preprocessing(spec: ModelSpec, image: str) -> GraphBuilder:
    """Transposes before it casts: bytes are cheaper to move than floats (8 to 10 times, measured)."""
    builder = GraphBuilder("pre")
    deviation = float32(spec.std) * np.float32(255)
    scale = builder.constant((np.float32(1) / deviation).reshape(1, 3, 1, 1))
    shift = builder.constant((-float32(spec.mean) / float32(spec.std)).reshape(1, 3, 1, 1))
    (planes,) = builder.add("Transpose", [PIXELS], perm=[0, 3, 1, 2])
    (floats,) = builder.add("Cast", [planes], to=TensorProto.FLOAT)
    (scaled,) = builder.add("Mul", [floats, scale])
    builder.add("Add", [scaled, shift], output=image)
    return builder


def _normalise_length(builder: GraphBuilder, vector: str) -> None:
    (length,) = builder.add("ReduceL2", [vector], axes=[1], keepdims=1)
    (safe,) = builder.add("Max", [length, builder.constant(float32([1e-12]))])
    builder.add("Div", [vector, safe], output=EMBEDDING)


def _suppress(builder: GraphBuilder, boxes: str, scores: str, spec: ModelSpec) -> None:
    """TopK, NonMaxSuppression, TopK: a batched NMS whose outputs have a fixed size, padded with zeros."""
    cells = builder.constant(int64([spec.nms_candidates]))
    (shape,) = builder.add("Shape", [scores])
    (all_cells,) = builder.add("Gather", [shape, builder.constant(int64([1]))])
    (candidates,) = builder.add("Min", [cells, all_cells])  # a small input has fewer cells than candidates are allowed
    top_scores, top_boxes = _best(builder, scores, boxes, candidates)
    (by_class,) = builder.add("Unsqueeze", [top_scores, builder.constant(int64([1]))])
    limits: list[NDArray[Any]] = [int64([spec.max_boxes]), float32([spec.nms_iou]), float32([spec.nms_min_score])]
    (selected,) = builder.add(
        "NonMaxSuppression", [top_boxes, by_class, *(builder.constant(limit) for limit in limits)]
    )
    (places,) = builder.add("Gather", [selected, builder.constant(int64([0, 2]))], axis=1)
    (chosen,) = builder.add("GatherND", [top_scores, places])
    (places_shape,) = builder.add("Shape", [top_scores])
    (nothing,) = builder.add("ConstantOfShape", [places_shape], value=numpy_helper.from_array(float32([0])))
    (kept,) = builder.add("ScatterND", [nothing, places, chosen])
    last_scores, last_boxes = _best(builder, kept, top_boxes, builder.constant(int64([spec.max_boxes])))
    (real,) = builder.add("Greater", [last_scores, builder.constant(float32([0]))])
    (flags,) = builder.add("Cast", [real], to=TensorProto.FLOAT)
    (column,) = builder.add("Unsqueeze", [flags, builder.constant(int64([2]))])
    builder.add("Mul", [last_boxes, column], output=DET_BOXES)
    builder.add("Identity", [last_scores], output=DET_SCORES)


def _best(builder: GraphBuilder, scores: str, boxes: str, count: str) -> tuple[str, str]:
    """As many best scores of each picture as the tensor `count` says, and their boxes."""
    top, places = builder.add("TopK", [scores, count], outputs=2, axis=1)
    (column,) = builder.add("Unsqueeze", [places, builder.constant(int64([2]))])
    (wide,) = builder.add("Tile", [column, builder.constant(int64([1, 1, 4]))])
    (own,) = builder.add("GatherElements", [boxes, wide], axis=1)
    return top, own


def _assemble(plain: onnx.ModelProto, before: GraphBuilder, after: GraphBuilder, spec: ModelSpec) -> onnx.ModelProto:
    core = _alive(_without_identities(plain.graph), {value.name for value in plain.graph.output})
    core, embedded = _weights_apart(core)
    used = {name for node in core for name in node.input}
    weights = [tensor for tensor in [*plain.graph.initializer, *embedded] if tensor.name in used]
    graph = helper.make_graph(
        [*before.nodes, *core, *after.nodes],
        spec.task.value,  # no name: the same weights under another name are the same file, and the same fingerprint
        [_value(tensor) for tensor in spec.inputs],
        [_value(tensor) for tensor in spec.outputs],
        [*before.constants, *weights, *after.constants],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="shitu_train", ir_version=IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _value(tensor: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, _ELEMENT[tensor.data_type], [BATCH, *tensor.shape])


def _without_identities(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The graph's nodes with every Identity bridged; those that make an output of the graph stay."""
    outputs = {value.name for value in graph.output}
    bridged: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = bridged.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            bridged[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    return nodes


def _alive(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that contribute to the `wanted` outputs, in their order."""
    needed, alive = set(wanted), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            alive.append(node)
    return alive[::-1]


def _weights_apart(nodes: list[onnx.NodeProto]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes without the Constant ones that paddle2onnx makes of weights, and those as initializers, as tools expect."""
    kept, weights = [], []
    for node in nodes:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            weights.append(onnx.TensorProto())
            weights[-1].CopyFrom(node.attribute[0].t)
            weights[-1].name = node.output[0]
        else:
            kept.append(node)
    return kept, weights
