"""The demo models that ship: size, tensors, record, and what they achieve on brands that they were not trained on."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest

from shitu_models.fingerprint import weights_digest
from shitu_models.specs import DEMO_DET, DEMO_REC, SPECS
from shitu_train.evaluation import OnnxModel, evaluate_grocery, evaluate_scenes
from shitu_train.records import FILE_NAME
from shitu_train.render import DemoSizes, write_demo_dataset

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = ROOT / "model_repository"
GROCERY = ROOT.parent / "shared" / "data" / "grocery"
LEAST_DETECTION_RECALL, LEAST_TOP1, LEAST_GROCERY_RECALL = 0.90, 0.85, 0.60


def model_path(name):
    return REPOSITORY / name / "1" / "model.onnx"


@pytest.fixture(scope="module")
def models():
    return tuple(OnnxModel(model_path(spec.name), spec) for spec in (DEMO_DET, DEMO_REC))


def test_the_models_are_small():
    assert model_path("demo_rec").stat().st_size <= 12_000_000
    assert sum(model_path(name).stat().st_size for name in ("demo_det", "demo_rec")) <= 20_000_000


@pytest.mark.parametrize("name", ["demo_det", "demo_rec"])
def test_tensors_are_those_of_the_specification(name):
    session = onnxruntime.InferenceSession(str(model_path(name)), providers=["CPUExecutionProvider"])
    for wanted, got in ((SPECS[name].inputs, session.get_inputs()), (SPECS[name].outputs, session.get_outputs())):
        assert [(t.name, ["batch", *t.shape]) for t in wanted] == [(t.name, t.shape) for t in got]


@pytest.mark.parametrize("name", ["demo_det", "demo_rec"])
def test_the_record_is_of_this_very_model(name):
    record = json.loads((REPOSITORY / name / FILE_NAME).read_text(encoding="utf-8"))
    assert record["sha256"] == weights_digest(model_path(name))
    assert record["parity"]["max_abs_difference"] < 1e-4
    assert record["parity"]["min_cosine"] > 0.99999
    assert record["evaluation"]["drawn_scenes"]["scenes"] == 200


@pytest.mark.parametrize("scenes", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_unseen_brands_are_found_and_named(models, tmp_path, scenes):
    write_demo_dataset(tmp_path, 77, DemoSizes(scenes=scenes))
    figures = evaluate_scenes(tmp_path, *models, DEMO_DET.default_threshold)
    assert figures.scenes == scenes
    assert figures.detection_recall >= LEAST_DETECTION_RECALL
    assert figures.top1_of_found >= LEAST_TOP1


@pytest.mark.slow
@pytest.mark.skipif(not GROCERY.exists(), reason="needs ../shared/data/grocery beside the checkout")
def test_real_photos_are_recognised(models):
    figures = evaluate_grocery(GROCERY, models[1])
    assert figures.queries > 1000
    assert figures.from_even_half >= LEAST_GROCERY_RECALL
