"""Reduced precision: what it changes is measured, told and gated."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from tests.drawn import scene  # noqa: E402
from tests.placed_models import DEMO_WEIGHTS  # noqa: E402

from shitu_models.cards import Drift  # noqa: E402
from shitu_models.preprocessing import resize  # noqa: E402
from shitu_models.specs import DEMO_DET, DEMO_REC, Precision  # noqa: E402
from shitu_train.conversion import precision as precision_module  # noqa: E402
from shitu_train.conversion.drift import DriftLimits, check_drift, measured_drift  # noqa: E402
from shitu_train.conversion.fusion import fuse  # noqa: E402
from shitu_train.conversion.precision import reduced  # noqa: E402
from shitu_train.errors import ConversionError, DriftError  # noqa: E402

DET_WEIGHTS = DEMO_WEIGHTS.parents[2] / "demo_det" / "1" / "model.onnx"


def session(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_fp32_stays_as_it_is():
    assert reduced(b"anything", DEMO_REC, Precision.FP32) == (b"anything", None)


def test_int8_is_smaller_and_its_drift_is_known():
    content = DEMO_WEIGHTS.read_bytes()
    changed, drift = reduced(content, DEMO_REC, Precision.INT8)
    assert len(changed) < 0.5 * len(content)
    assert 0.99 < drift.mean_cosine < 1.0
    assert drift.min_cosine < drift.mean_cosine
    assert abs(drift.recall_change) <= 0.02
    assert drift.pictures == 200
    operators = {node.op_type for node in onnx.load_from_string(changed).graph.node}
    assert "MatMulInteger" in operators or "DynamicQuantizeMatMul" in operators


def test_int8_of_a_fused_graph_computes_about_the_same():
    model = onnx.load(DEMO_WEIGHTS)
    assert fuse(model)
    changed, drift = reduced(model.SerializeToString(), DEMO_REC, Precision.INT8)
    assert len(changed) < 0.5 * DEMO_WEIGHTS.stat().st_size
    assert drift.mean_cosine > 0.99


def test_int8_of_convolutions_is_refused():
    with pytest.raises(ConversionError, match="those of convolutions; convert it to fp32"):
        reduced(DET_WEIGHTS.read_bytes(), DEMO_DET, Precision.INT8)


@pytest.mark.parametrize(
    ("wanted", "provider"),
    [(Precision.BF16, "OpenVINOExecutionProvider"), (Precision.FP16, "CUDAExecutionProvider")],
)
def test_a_precision_that_cannot_be_measured_here_is_refused(wanted, provider):
    if provider in onnxruntime.get_available_providers():
        pytest.skip(f"this machine has {provider}")
    with pytest.raises(ConversionError, match=f"served by {provider}.*install onnxruntime-"):
        reduced(DEMO_WEIGHTS.read_bytes(), DEMO_REC, wanted)


def test_the_half_precision_graph_computes_about_the_same_on_a_cpu_too():
    for spec, path in ((DEMO_REC, DEMO_WEIGHTS), (DEMO_DET, DET_WEIGHTS)):
        content = path.read_bytes()
        changed = precision_module._fp16(content, spec)
        assert len(changed) < 0.6 * len(content)
        drift = measured_drift(session(content), session(changed), spec)
        assert 0.99 < drift.mean_cosine <= 1.0
        assert drift.recall_change >= -0.02


def test_half_precision_keeps_the_corners_of_boxes():
    content = DET_WEIGHTS.read_bytes()
    changed = precision_module._fp16(content, DEMO_DET)
    pixels = np.stack([resize(scene(number).image, DEMO_DET) for number in range(4)])
    (full, scores), (half, _) = (session(graph).run(None, {"pixels": pixels}) for graph in (content, changed))
    strong = scores > 0.5
    assert strong.sum() > 8
    # Numbers over 256 are a quarter of a pixel apart in half precision.
    assert (np.abs(half[strong] * 8 % 1) > 1e-3).mean() > 0.5
    assert np.median(np.abs(half - full)[strong]) < 0.2


def invented(content):
    """The detector, with its weakest box turned into a strong one in the corner of every picture."""
    model = onnx.load_from_string(content)
    box = onnx.numpy_helper.from_array(np.float32([[[0, 0, 300, 9]]]), "invented_box")
    score = onnx.numpy_helper.from_array(np.float32([[0.99]]), "invented_score")
    model.graph.initializer.extend([box, score])
    for output, first in (("det_boxes", "invented_box"), ("det_scores", "invented_score")):
        node = next(node for node in model.graph.node if output in node.output)
        node.output[0] = f"{output}_true"
        cut = [onnx.numpy_helper.from_array(np.int64([v]), f"{output}_{k}") for k, v in (("a", 0), ("b", 99), ("x", 1))]
        model.graph.initializer.extend(cut)
        model.graph.node.extend(
            [
                onnx.helper.make_node("Slice", [f"{output}_true", *(c.name for c in cut)], [f"{output}_cut"]),
                onnx.helper.make_node("Concat", [first, f"{output}_cut"], [output], axis=1),
            ]
        )
    return model.SerializeToString()


def test_invented_boxes_are_a_drift():
    content = DET_WEIGHTS.read_bytes()
    drift = measured_drift(session(content), session(invented(content)), DEMO_DET)
    assert drift.recall_change < -0.02
    assert drift.min_cosine < 0.5


def test_a_drift_over_the_limit_fails_the_gate():
    limits = DriftLimits(0.99, -0.02)
    check_drift(Drift(96, 0.9, 0.995, -0.02), limits, DEMO_REC, Precision.INT8)
    check_drift(Drift(12, 0.9, 0.995, 0.0), DriftLimits(0.999, -0.01), DEMO_DET, Precision.BF16)
    with pytest.raises(DriftError, match=r"mean agreement of at least 0\.99"):
        check_drift(Drift(12, 0.9, 0.98, 0.0), DriftLimits(0.5, -0.01), DEMO_DET, Precision.BF16)
    for drift in (Drift(96, 0.9, 0.98, 0.0), Drift(96, 0.9, 0.995, -0.03), Drift(96, 0.9, float("nan"), 0.0)):
        with pytest.raises(DriftError, match="serve it in fp32"):
            check_drift(drift, limits, DEMO_REC, Precision.INT8)


def test_other_weights_are_a_drift():
    content = DEMO_WEIGHTS.read_bytes()
    model = onnx.load_from_string(content)
    rng = np.random.default_rng(1)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim > 1 and values.dtype == np.float32:
            noisy = values * (1 + rng.normal(0, 0.5, values.shape))
            tensor.CopyFrom(onnx.numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    drift = measured_drift(session(content), session(model.SerializeToString()), DEMO_REC)
    assert drift.mean_cosine < 0.95
    with pytest.raises(DriftError):
        check_drift(drift, DriftLimits(0.99, -0.02), DEMO_REC, Precision.INT8)
