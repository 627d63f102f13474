"""Paddle to ONNX: the served graphs, the parity gate and its negative control."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytest.importorskip("paddle2onnx", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import paddle  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from shitu_models.specs import DEMO_DET, DEMO_REC  # noqa: E402
from shitu_train.architectures.catalogue import DecodedDetector  # noqa: E402
from shitu_train.architectures.clip_vit import ClipEncoder, ClipVitSize  # noqa: E402
from shitu_train.architectures.picodet import PicoDet, PicoDetSize  # noqa: E402
from shitu_train.conversion.export import export_model, exported_graph  # noqa: E402
from shitu_train.conversion.parity import check_parity  # noqa: E402
from shitu_train.errors import ParityError  # noqa: E402

TINY = ClipVitSize(input_px=32, patch_px=16, width=24, depth=2, heads=2, projection=16, embedding=8)
TINY_SPEC = dataclasses.replace(DEMO_REC, input_size=32, embedding_dimension=8)
TINY_DET = PicoDetSize(input_px=128, stem=(4, 8), stages=(8, 8, 8, 8), depths=(1, 1, 1, 1), neck=8)
TINY_DET_SPEC = dataclasses.replace(DEMO_DET, input_size=128, nms_candidates=300)


def with_biases(layer):
    """Random biases: the zeros that they start from would hide errors."""
    rng = np.random.default_rng(1)
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            parameter.set_value(rng.normal(0, 0.25, parameter.shape).astype(np.float32))
    return layer


@pytest.fixture(scope="module")
def encoder():
    layer = with_biases(ClipEncoder(TINY))
    return layer, exported_graph(layer, TINY_SPEC)


@pytest.fixture(scope="module")
def detector():
    layer = DecodedDetector(with_biases(PicoDet(TINY_DET)))
    return layer, exported_graph(layer, TINY_DET_SPEC)


def run(model, pixels):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels})


def test_encoder_passes_parity_at_every_batch(encoder):
    layer, model = encoder
    parity = check_parity(layer, model.SerializeToString(), TINY_SPEC)
    assert parity.max_abs_difference < 1e-5
    assert parity.pictures == 12


def test_detector_passes_parity_with_nms_in_the_graph(detector):
    layer, model = detector
    assert check_parity(layer, model.SerializeToString(), TINY_DET_SPEC).max_abs_difference < 1e-5


@pytest.mark.parametrize("made", ["encoder", "detector"])
def test_graph_is_canonical(made, request):
    _, model = request.getfixturevalue(made)
    assert model.ir_version == 8
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    (pixels,) = model.graph.input
    assert pixels.name == "pixels"
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    names = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in model.graph.output
    }
    assert names == (
        {"embedding": ["batch", 8]}
        if made == "encoder"
        else {"det_boxes": ["batch", 100, 4], "det_scores": ["batch", 100]}
    )
    assert sum(node.op_type == "Identity" for node in model.graph.node) <= 1
    used = {name for node in model.graph.node for name in node.input}
    assert all(tensor.name in used for tensor in model.graph.initializer)


def test_rows_do_not_depend_on_the_batch(encoder, detector):
    rng = np.random.default_rng(2)
    for (_, model), side in ((encoder, 32), (detector, 128)):
        pixels = rng.integers(0, 256, (5, side, side, 3), np.uint8)
        together = run(model, pixels)
        for i in range(5):
            for whole, alone in zip(together, run(model, pixels[i : i + 1]), strict=True):
                assert np.allclose(whole[i], alone[0], atol=1e-4)


def test_embedding_has_length_one(encoder):
    pixels = np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), np.uint8)
    assert np.allclose(np.linalg.norm(run(encoder[1], pixels)[0], axis=1), 1, atol=1e-5)


def test_detector_pads_with_zeros_and_sorts(detector):
    boxes, scores = run(detector[1], np.random.default_rng(4).integers(0, 256, (2, 128, 128, 3), np.uint8))
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (boxes[scores == 0] == 0).all()
    assert ((scores == 0) | (scores > TINY_DET_SPEC.nms_min_score)).all()
    assert boxes.max() <= 128


def test_detector_without_any_box_returns_zeros():
    layer = PicoDet(TINY_DET)
    for level in range(4):
        head = getattr(layer.head, f"head_cls{level}")
        head.weight.set_value(np.zeros(head.weight.shape, np.float32))
        head.bias.set_value(np.full(head.bias.shape, -20, np.float32))
    boxes, scores = run(exported_graph(DecodedDetector(layer), TINY_DET_SPEC), np.zeros((3, 128, 128, 3), np.uint8))
    assert not boxes.any()
    assert not scores.any()


def with_bias(model, bias, value):
    """A copy of the graph in which every number of one bias is another."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (found,) = [t for t in changed.graph.initializer if np.array_equal(numpy_helper.to_array(t).ravel(), bias.numpy())]
    found.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(found), value), found.name))
    return changed


def test_a_zeroed_bias_fails_the_gate(encoder):
    layer, model = encoder
    with pytest.raises(ParityError, match="expected a difference under"):
        check_parity(layer, with_bias(model, layer.neck.fc.bias, 0).SerializeToString(), TINY_SPEC)


@pytest.mark.parametrize("level", range(4))
def test_a_zeroed_detector_bias_fails_the_gate(detector, level):
    layer, model = detector
    bias = getattr(layer.detector.head, f"head_cls{level}").bias
    with pytest.raises(ParityError, match="expected a difference under"):
        check_parity(layer, with_bias(model, bias, 0).SerializeToString(), TINY_DET_SPEC)


def test_a_detector_that_finds_nothing_fails_the_gate():
    layer = PicoDet(TINY_DET)
    for level in range(4):
        head = getattr(layer.head, f"head_cls{level}")
        head.bias.set_value(np.full(head.bias.shape, -20, np.float32))
    decoded = DecodedDetector(layer)
    content = exported_graph(decoded, TINY_DET_SPEC).SerializeToString()
    with pytest.raises(ParityError, match="nothing to compare"):
        check_parity(decoded, content, TINY_DET_SPEC)


def test_scores_that_are_no_numbers_fail_the_gate():
    layer = with_biases(PicoDet(TINY_DET))
    layer.head.head_cls3.bias.set_value(np.full(layer.head.head_cls3.bias.shape, np.nan, np.float32))
    decoded = DecodedDetector(layer)
    with pytest.raises(ParityError, match="finite values from Paddle"):
        check_parity(decoded, exported_graph(decoded, TINY_DET_SPEC).SerializeToString(), TINY_DET_SPEC)


def test_a_served_graph_that_computes_no_numbers_fails_the_gate(encoder):
    layer, model = encoder
    with pytest.raises(ParityError, match="finite values from ONNX"):
        check_parity(layer, with_bias(model, layer.neck.fc.bias, np.nan).SerializeToString(), TINY_SPEC)


def test_a_failed_gate_leaves_nothing_behind(encoder, tmp_path, monkeypatch):
    layer, model = encoder
    other = with_biases(ClipEncoder(TINY))
    other.neck.fc.bias.set_value(paddle.zeros_like(other.neck.fc.bias))
    monkeypatch.setattr("shitu_train.conversion.export.exported_graph", lambda *_: model)
    with pytest.raises(ParityError):
        export_model(other, TINY_SPEC, tmp_path)
    assert list(tmp_path.rglob("*.onnx")) == []
    assert export_model(layer, TINY_SPEC, tmp_path).max_abs_difference < 1e-5
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["demo_rec/1/model.onnx"]
