"""What the yml of an exported model changes, and what is refused."""

from __future__ import annotations

import pytest
import yaml

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

from shitu_models.specs import (  # noqa: E402
    PP_SHITUV2_DET,
    PP_SHITUV2_REC,
    PP_SHITUV2_REC_CLIP_VIT_BASE,
    Interpolation,
)
from shitu_train.conversion.inference_directory import InferenceDirectory  # noqa: E402
from shitu_train.errors import ConversionError  # noqa: E402

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def directory(folder, content=None, name="inference.yml"):
    for ending in ("json", "pdiparams"):
        (folder / f"inference.{ending}").write_bytes(ending.encode())
    if content is not None:
        (folder / name).write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return InferenceDirectory.open(folder)


def encoder_yml(resize, normalise=None):
    steps = [{"ResizeImage": resize}, {"NormalizeImage": normalise or {"scale": 0.00392157}}, {"ToCHWImage": None}]
    return {"Global": {"model_name": "PP-ShiTuV2_rec"}, "PreProcess": {"transform_ops": steps}}


def detector_yml(**changes):
    resize = {"type": "Resize", "interp": 2, "keep_ratio": False, "target_size": [640, 640]}
    normalise = {"type": "NormalizeImage", "is_scale": True, "mean": MEAN, "std": STD}
    content = {"Preprocess": [resize, normalise, {"type": "Permute"}], "label_list": ["mainbody"]}
    return {
        **content,
        "NMS": {"nms_threshold": 0.5, "keep_top_k": 50, "nms_top_k": 400, "score_threshold": 0.05},
        **changes,
    }


def test_without_a_yml_the_registry_counts(tmp_path):
    assert directory(tmp_path).spec(PP_SHITUV2_REC) == PP_SHITUV2_REC
    assert directory(tmp_path).model_name() == ""


def test_an_encoders_yml_counts(tmp_path):
    resize = {"size": [192, 192], "interpolation": "bicubic"}
    normalise = {"scale": "1.0/255.0", "mean": MEAN, "std": STD, "order": "hwc"}
    opened = directory(tmp_path, encoder_yml(resize, normalise))
    spec = opened.spec(PP_SHITUV2_REC)
    assert opened.model_name() == "PP-ShiTuV2_rec"
    assert (spec.input_size, spec.interpolation) == (192, Interpolation.BICUBIC)
    assert (spec.mean, spec.std) == (tuple(MEAN), tuple(STD))


def test_an_interpolation_that_the_yml_leaves_open_is_the_trained_one(tmp_path):
    spec = directory(tmp_path, encoder_yml({"size": 224})).spec(PP_SHITUV2_REC_CLIP_VIT_BASE)
    assert spec.interpolation is Interpolation.BICUBIC


def test_a_detectors_yml_counts_also_under_paddledetections_name(tmp_path):
    spec = directory(tmp_path, detector_yml(), "infer_cfg.yml").spec(PP_SHITUV2_DET)
    assert (spec.nms_iou, spec.max_boxes, spec.nms_candidates, spec.nms_min_score) == (0.5, 50, 400, 0.05)
    assert (spec.mean, spec.interpolation) == (tuple(MEAN), Interpolation.BICUBIC)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoder_yml({"resize_short": 256}), "expected size, got resize_short"),
        (encoder_yml({"size": [224, 192]}), "expected a square input"),
        (encoder_yml({"size": 224, "interpolation": "lanczos"}), "expected bilinear or bicubic"),
        (encoder_yml({"size": 224}, {"scale": 1.0}), "expected a scale of 1/255"),
        (encoder_yml({"size": 224}, {"mean": [0.5]}), "cannot be understood"),
        (encoder_yml({}), "cannot be understood"),
        (encoder_yml({"size": 100000}), "expected 32 to 2048, got 100000"),
        (encoder_yml({"size": 0}), "expected 32 to 2048, got 0"),
        ("PreProcess: [", "cannot be read"),
        ("- a list", "expected keys and values"),
    ],
)
def test_an_encoder_that_would_be_served_wrongly_is_refused(tmp_path, content, message):
    with pytest.raises(ConversionError, match=message):
        directory(tmp_path, content).spec(PP_SHITUV2_REC)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_list": ["can", "bottle"]}, "expected the one class"),
        ({"NMS": {"keep_top_k": 0}}, "NMS.keep_top_k: expected 1 to 1000, got 0"),
        ({"NMS": {"nms_threshold": "x"}}, "cannot be understood"),
        ({"NMS": {"score_threshold": 1.5}}, "NMS.score_threshold: expected 0.0 to 1.0"),
        ({"Preprocess": [{"type": "Resize", "keep_ratio": True, "target_size": [640, 640]}]}, "expected false"),
        ({"Preprocess": [{"type": "NormalizeImage", "is_scale": False}]}, "expected a scale of 1/255"),
    ],
)
def test_a_detector_that_would_be_served_wrongly_is_refused(tmp_path, changes, message):
    with pytest.raises(ConversionError, match=message):
        directory(tmp_path, detector_yml(**changes)).spec(PP_SHITUV2_DET)


def test_all_candidates_and_an_odd_section_are_understood(tmp_path):
    spec = directory(tmp_path, detector_yml(NMS={"nms_top_k": -1})).spec(PP_SHITUV2_DET)
    assert spec.nms_candidates >= 100_000
    for section in (None, "x", []):
        assert directory(tmp_path, {"Global": section}).model_name() == ""


def test_a_folder_without_one_program_is_refused(tmp_path):
    with pytest.raises(ConversionError, match="found nothing"):
        InferenceDirectory.open(tmp_path)
    (tmp_path / "inference.json").write_bytes(b"{}")
    with pytest.raises(ConversionError, match=r"found inference\.json$"):
        InferenceDirectory.open(tmp_path)
    directory(tmp_path)
    (tmp_path / "inference.pdmodel").write_bytes(b"")
    with pytest.raises(ConversionError, match="expected one"):
        InferenceDirectory.open(tmp_path)
