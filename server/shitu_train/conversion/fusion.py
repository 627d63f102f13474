"""Puts one operator for an attention, and one for a GELU, where the export has a dozen.

The mathematics is the same, with fewer passes over memory. The operators are ONNX Runtime's own (domain com.microsoft); TensorRT does not know them and fuses by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

MICROSOFT = "com.microsoft"
_HEADS_APART = [0, 2, 1, 3]
"""The order that takes [n, tokens, heads, d] to [n, heads, tokens, d], and back."""
_LAST_AXES = (-1, 3)
"""Of scores [n, heads, tokens, tokens]."""


class _Links:
    """Which node makes a tensor, which take it, and what is constant."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {name: node for node in graph.node for name in node.output}
        self.takers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}

    def maker(self, name: str, *operators: str) -> onnx.NodeProto | None:
        """The node that makes a tensor, if it is one of these operators."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type in operators else None

    def taker(self, name: str, operator: str) -> onnx.NodeProto | None:
        """The only node that takes a tensor, if it is this operator."""
        nodes = self.takers.get(name, [])
        return nodes[0] if len(nodes) == 1 and nodes[0].op_type == operator else None

    def joins_last(self, reshape: onnx.NodeProto) -> bool:
        """Whether a Reshape makes three dimensions: pictures, tokens, all heads' numbers."""
        shape = self.constants.get(reshape.input[1])
        return shape is not None and numpy_helper.to_array(shape).size == len(_HEADS_APART) - 1

    def scalar(self, name: str) -> float | None:
        """The value of a constant of one number."""
        tensor = self.constants.get(name)
        values = None if tensor is None else numpy_helper.to_array(tensor)
        return float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None


@dataclass(frozen=True)
class _Attention:
    query: str
    key: str
    value: str
    """Tensors [n, tokens, width]."""
    heads: int
    scale: float
    output: str


def fuse(model: onnx.ModelProto) -> bool:
    """Fuse the attentions and exact GELUs of a graph, in place; returns whether there was any."""
    links = _Links(model.graph)
    replaced = {found.output: _attention_node(found) for found in _attentions(links)}
    replaced |= {output: _gelu_node(source, output) for source, output in _gelus(links)}
    if not replaced:
        return False
    nodes = [replaced.get(node.output[0], node) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    _drop_unused(model.graph)
    return True


def _attentions(links: _Links) -> Iterator[_Attention]:
    for node in list(links.makers.values()):
        if node.op_type == "Softmax" and (found := _attention(links, node)) is not None:
            yield found


def _attention(links: _Links, softmax: onnx.NodeProto) -> _Attention | None:
    """The attention around a softmax: reshape, transpose, scale, product, softmax, product, transpose, reshape."""
    if _attribute(softmax, "axis", -1) not in _LAST_AXES:
        return None
    scores = links.maker(softmax.input[0], "MatMul")
    mixed = links.taker(softmax.output[0], "MatMul")
    if scores is None or mixed is None or mixed.input[0] != softmax.output[0]:
        return None
    scaled, scale = _unscaled(links, scores.input[0])
    query, key, value = (
        _before_split(links, name) for name in (scaled, _before_transpose(links, scores.input[1]), mixed.input[1])
    )
    turned = links.taker(mixed.output[0], "Transpose")
    merged = None if turned is None or _order(turned) != _HEADS_APART else links.taker(turned.output[0], "Reshape")
    if scale is None or merged is None or query is None or key is None or value is None:
        return None
    heads = {query[1], key[1], value[1]}
    if len(heads) != 1 or not min(heads) > 0 or not links.joins_last(merged):
        return None
    return _Attention(query[0], key[0], value[0], query[1], scale, merged.output[0])


def _unscaled(links: _Links, name: str) -> tuple[str, float | None]:
    """The tensor that is multiplied by a number, and the number; an addition of 0 behind it is passed over."""
    added = links.maker(name, "Add")
    if added is not None and links.scalar(added.input[1]) == 0.0:
        name = added.input[0]
    product = links.maker(name, "Mul")
    return (name, None) if product is None else (product.input[0], links.scalar(product.input[1]))


def _before_transpose(links: _Links, name: str) -> str:
    node = links.maker(name, "Transpose")
    return node.input[0] if node is not None and _order(node) == [0, 1, 3, 2] else ""


def _before_split(links: _Links, name: str) -> tuple[str, int] | None:
    """The tensor [n, tokens, width] that becomes [n, heads, tokens, width / heads], and how many heads."""
    turned = links.maker(name, "Transpose")
    if turned is None or _order(turned) != _HEADS_APART:
        return None
    reshaped = links.maker(turned.input[0], "Reshape")
    shape = None if reshaped is None else links.constants.get(reshaped.input[1])
    sizes = [] if shape is None else numpy_helper.to_array(shape).tolist()
    if reshaped is None or len(sizes) != len(_HEADS_APART):
        return None
    return reshaped.input[0], int(sizes[2])


def _order(transpose: onnx.NodeProto) -> list[int]:
    return list(_attribute(transpose, "perm", []))


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _gelus(links: _Links) -> Iterator[tuple[str, str]]:
    """X * (1 + erf(x / sqrt(2))) * 0.5: x and the output."""
    for node in list(links.makers.values()):
        if node.op_type != "Erf" or (divided := links.maker(node.input[0], "Div")) is None:
            continue
        root = links.scalar(divided.input[1])
        summed = links.taker(node.output[0], "Add")
        product = None if summed is None else links.taker(summed.output[0], "Mul")
        halved = None if product is None else links.taker(product.output[0], "Mul")
        if root is None or summed is None or product is None or halved is None:
            continue
        exact = (
            np.isclose(root, np.sqrt(2))
            and links.scalar(summed.input[1]) == 1.0
            and links.scalar(halved.input[1]) == 0.5
        )
        if exact and divided.input[0] in product.input:
            yield divided.input[0], halved.output[0]


def _attention_node(found: _Attention) -> onnx.NodeProto:
    return helper.make_node(
        "MultiHeadAttention",
        [found.query, found.key, found.value],
        [found.output],
        name=f"attention/{found.output}",
        domain=MICROSOFT,
        num_heads=found.heads,
        scale=found.scale,
    )


def _gelu_node(source: str, output: str) -> onnx.NodeProto:
    return helper.make_node("Gelu", [source], [output], name=f"gelu/{output}", domain=MICROSOFT)


def _drop_unused(graph: onnx.GraphProto) -> None:
    needed, kept = {value.name for value in graph.output}, []
    for node in reversed(list(graph.node)):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:]
    graph.node.extend(kept[::-1])
    del graph.initializer[:]
    graph.initializer.extend(weights)
