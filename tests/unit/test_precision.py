"""Reduced precision: what it changes is measured, told and gated."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from tests.placed_models import DEMO_WEIGHTS  # noqa: E402

from shitu_models.cards import Drift  # noqa: E402
from shitu_models.specs import DEMO_DET, DEMO_REC, Precision  # noqa: E402
from shitu_train.conversion import precision as precision_module  # noqa: E402
from shitu_train.conversion.precision import reduced  # noqa: E402
from shitu_train.drift import DriftLimits, check_drift, measured_drift  # noqa: E402
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
    assert drift.pictures == 96
    operators = {node.op_type for node in onnx.load_from_string(changed).graph.node}
    assert "MatMulInteger" in operators or "DynamicQuantizeMatMul" in operators


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


def test_a_drift_over_the_limit_fails_the_gate():
    limits = DriftLimits(0.99, -0.02)
    check_drift(Drift(96, 0.9, 0.995, -0.02), limits, DEMO_REC, Precision.INT8)
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
