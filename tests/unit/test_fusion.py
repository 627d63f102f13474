"""Fused attention and GELU compute what the graph computed; what only looks like them stays."""

from __future__ import annotations

import collections

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from tests.unit.test_conversion import TINY as TINY_SIZE  # noqa: E402
from tests.unit.test_conversion import TINY_SPEC, run, with_biases  # noqa: E402

from shitu_train.architectures.clip_vit import ClipEncoder  # noqa: E402
from shitu_train.conversion.export import exported_graph  # noqa: E402
from shitu_train.conversion.fusion import fuse  # noqa: E402

PIXELS = np.random.default_rng(5).integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def plain():
    return exported_graph(with_biases(ClipEncoder(TINY_SIZE)), TINY_SPEC)


def copied(model):
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def operators(model):
    return collections.Counter(node.op_type for node in model.graph.node)


def test_every_attention_and_gelu_becomes_one_operator(plain):
    fused = copied(plain)
    fuse(fused)
    found = operators(fused)
    assert (found["MultiHeadAttention"], found["Gelu"]) == (TINY_SIZE.depth, TINY_SIZE.depth)
    assert (found["Softmax"], found["Erf"]) == (0, 0)
    assert ("com.microsoft", 1) in {(entry.domain, entry.version) for entry in fused.opset_import}
    assert np.abs(run(fused, PIXELS)[0] - run(plain, PIXELS)[0]).max() < 1e-6
    used = {name for node in fused.graph.node for name in node.input}
    assert all(tensor.name in used for tensor in fused.graph.initializer)


def test_a_graph_without_any_stays_as_it_is():
    node = onnx.helper.make_node("Softmax", ["x"], ["y"])
    value = onnx.helper.make_tensor_value_info
    kinds = [value(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", kinds[:1], kinds[1:]))
    before = model.SerializeToString()
    fuse(model)
    assert model.SerializeToString() == before


def first_of(model, operator):
    return next(node for node in model.graph.node if node.op_type == operator)


def other_axis(model):
    del first_of(model, "Softmax").attribute[:]
    first_of(model, "Softmax").attribute.append(onnx.helper.make_attribute("axis", 2))


def other_order(model):
    softmax = first_of(model, "Softmax")
    mixed = next(node for node in model.graph.node if softmax.output[0] in node.input)
    turned = next(node for node in model.graph.node if mixed.output[0] in node.input)
    turned.attribute[0].CopyFrom(onnx.helper.make_attribute("perm", [0, 1, 2, 3]))


@pytest.mark.parametrize("change", [other_axis, other_order])
def test_an_attention_over_something_else_is_left_alone(plain, change):
    changed = copied(plain)
    change(changed)
    before = run(changed, PIXELS)[0]
    fuse(changed)
    assert operators(changed)["Softmax"] == 1
    assert np.abs(run(changed, PIXELS)[0] - before).max() < 1e-6


@pytest.mark.parametrize(("operator", "left"), [("Erf", "Erf"), ("Softmax", "Softmax")])
def test_what_computes_something_else_is_left_alone(plain, operator, left):
    """The other constant of the first GELU, or a cause between the first attention's products."""
    changed = copied(plain)
    if operator == "Erf":
        first = next(node for node in changed.graph.node if node.op_type == "Erf")
        divided = next(node for node in changed.graph.node if first.input[0] in node.output)
        (root,) = [tensor for tensor in changed.graph.initializer if tensor.name == divided.input[1]]
        root.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(root) * np.float32(1.1), root.name))
    else:
        first = next(node for node in changed.graph.node if node.op_type == "Softmax")
        node = onnx.helper.make_node("Relu", [first.output[0]], ["positive"])
        taker = next(other for other in changed.graph.node if first.output[0] in other.input)
        taker.input[0] = "positive"
        changed.graph.node.insert(list(changed.graph.node).index(first) + 1, node)
    before = run(changed, PIXELS)[0]
    fuse(changed)
    assert operators(changed)[left] >= 1
    assert np.abs(run(changed, PIXELS)[0] - before).max() < 1e-6
