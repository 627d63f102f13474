"""Exported directories: weights recovered where they fit our architecture, the graph as it is where they do not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

paddle = pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytest.importorskip("paddle2onnx", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

from shitu_bench.models.spread_weights import spread  # noqa: E402
from shitu_models.cards import CARD_FILE, read_card  # noqa: E402
from shitu_models.specs import PP_SHITUV2_DET, PP_SHITUV2_REC, SPECS  # noqa: E402
from shitu_train.architectures.catalogue import ARCHITECTURES, Architecture, DecodedDetector  # noqa: E402
from shitu_train.architectures.clip_vit import ClipEncoder, ClipVitSize  # noqa: E402
from shitu_train.architectures.picodet_lcnet import LcNetDet, LcNetDetSize  # noqa: E402
from shitu_train.architectures.pp_lcnet_v2 import LcNetV2Encoder, LcNetV2Size  # noqa: E402
from shitu_train.conversion import parity, recovery  # noqa: E402
from shitu_train.conversion.converter import convert, export_directory, parity_of  # noqa: E402
from shitu_train.conversion.exported_program import read_program, uses_of  # noqa: E402
from shitu_train.conversion.options import ConversionOptions  # noqa: E402
from shitu_train.conversion.paddlex_directory import write_inference_directory  # noqa: E402
from shitu_train.conversion.recovery import recovered_layer  # noqa: E402
from shitu_train.errors import ConversionError, ParityError  # noqa: E402
from shitu_train.tensors import normalise  # noqa: E402

REC_SPEC = dataclasses.replace(PP_SHITUV2_REC, input_size=64, embedding_dimension=16)
DET_SPEC = dataclasses.replace(PP_SHITUV2_DET, input_size=128, nms_candidates=300)
REC_SIZE = LcNetV2Size(input_px=64, scale=0.25, depths=(1, 1, 2, 2), embedding=16)
DET_SIZE = LcNetDetSize(input_px=128, scale=0.5, neck=16, head_depth=2)


def spread_served(architecture, spec):
    pictures = normalise(parity.fixed_pictures(spec).astype(np.float32), spec)
    layer = architecture.served(spread(architecture.build(spec.input_size), pictures))
    layer.eval()
    return layer


@pytest.fixture
def small(monkeypatch):
    """The registry's two models of convolutions, smaller: what is tested does not depend on their size."""
    rec = dataclasses.replace(ARCHITECTURES["PP-ShiTuV2_rec"], build=lambda _: LcNetV2Encoder(REC_SIZE))
    det = dataclasses.replace(ARCHITECTURES["PP-ShiTuV2_det"], build=lambda _: LcNetDet(DET_SIZE))
    architectures = {**ARCHITECTURES, rec_name(): rec, det_name(): det}
    specs = {**SPECS, rec_name(): REC_SPEC, det_name(): DET_SPEC}
    for module in ("sources", "loading"):
        monkeypatch.setattr(f"shitu_train.conversion.{module}.ARCHITECTURES", architectures)
        monkeypatch.setattr(f"shitu_train.conversion.{module}.SPECS", specs)
    return architectures


def rec_name():
    return PP_SHITUV2_REC.name


def det_name():
    return PP_SHITUV2_DET.name


def exported(folder, architecture, spec):
    return write_inference_directory(spread_served(architecture, spec), spec, folder / f"{spec.name}_infer")


@pytest.mark.parametrize("spec", [REC_SPEC, DET_SPEC], ids=lambda spec: spec.name)
def test_weights_of_an_exported_model_are_recovered_to_the_last_bit(small, tmp_path, spec):
    architecture = small[spec.name]
    layer = spread_served(architecture, spec)
    folder = write_inference_directory(layer, spec, tmp_path / "infer")
    pictures = parity.network_input(parity.fixed_pictures(spec), spec)
    found = recovered_layer(read_program(folder / "inference.json", pictures), architecture, spec)
    wanted = {name: value.numpy() for name, value in layer.state_dict().items()}
    got = {name: value.numpy() for name, value in found.state_dict().items()}
    assert wanted.keys() == got.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_an_exported_detector_is_served_in_batches(small, tmp_path):
    folder = exported(tmp_path, small[det_name()], DET_SPEC)
    conversion = convert(folder, ConversionOptions(tmp_path / "models"))
    assert conversion.folder == tmp_path / "models" / "PP-ShiTuV2_det" / "1"
    assert (conversion.card.source.kind, conversion.card.source.note) == ("inference", "")
    assert set(conversion.card.source.files) == {"inference.json", "inference.pdiparams", "inference.yml"}
    assert conversion.card.spec.max_batch == DET_SPEC.max_batch
    assert parity_of(folder, conversion.folder / "model.onnx").max_abs_difference < 1e-4


def other_detector(_):
    return LcNetDet(dataclasses.replace(DET_SIZE, head_depth=3))


@pytest.mark.usefixtures("small")
def test_a_detector_of_other_weights_is_served_at_batch_1_and_says_so(tmp_path):
    stranger = Architecture(other_detector, served=lambda layer: DecodedDetector(layer, clips=False))
    folder = exported(tmp_path, stranger, DET_SPEC)
    card = convert(folder, ConversionOptions(tmp_path / "models", name="stranger")).card
    assert card.spec.max_batch == 1
    assert "runs at batch 1" in card.source.note
    assert card.max_abs_difference < 1e-4
    text = (tmp_path / "models" / "stranger" / "config.pbtxt").read_text(encoding="utf-8")
    assert "max_batch_size: 1\n" in text
    assert read_card(tmp_path / "models" / "stranger" / "1" / CARD_FILE) == card
    with pytest.raises(ConversionError, match="nothing to export"):
        export_directory(folder, tmp_path / "again")


@pytest.mark.usefixtures("small")
def test_an_encoder_of_other_weights_is_served_as_it_was_exported(tmp_path):
    stranger = Architecture(lambda _: LcNetV2Encoder(dataclasses.replace(REC_SIZE, depths=(1, 2, 2, 2))))
    card = convert(exported(tmp_path, stranger, REC_SPEC), ConversionOptions(tmp_path / "models")).card
    assert "served as it is" in card.source.note
    assert card.spec.max_batch == REC_SPEC.max_batch
    assert card.max_abs_difference < 1e-4


def test_a_program_that_cannot_be_read_is_told(tmp_path):
    for ending in ("json", "pdiparams"):
        (tmp_path / f"inference.{ending}").write_bytes(b"{}")
    with pytest.raises(ConversionError, match="Paddle cannot read"):
        read_program(tmp_path / "inference.json", np.zeros((1, 3, 8, 8), np.float32))


def test_recovered_weights_that_compute_something_else_are_noticed(small, tmp_path):
    for spec in (REC_SPEC, DET_SPEC):
        layer = spread_served(small[spec.name], spec)
        folder = write_inference_directory(layer, spec, tmp_path / spec.name)
        program = read_program(folder / "inference.json", parity.network_input(parity.fixed_pictures(spec), spec))
        assert parity.check_recovery(layer, program.outputs, spec).max_abs_difference < 1e-4
        weight = next(value for name, value in layer.state_dict().items() if name.endswith("conv.weight"))
        weight.set_value(weight.numpy()[::-1].copy())
        with pytest.raises(ParityError, match="expected a difference under"):
            parity.check_recovery(layer, program.outputs, spec)


def test_a_failed_gate_places_nothing(small, tmp_path, monkeypatch):
    folder = exported(tmp_path, small[rec_name()], REC_SPEC)
    monkeypatch.setattr("shitu_train.conversion.parity.MOST_DIFFERENCE", 0.0)
    with pytest.raises(ParityError):
        convert(folder, ConversionOptions(tmp_path / "models"))
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere", {}, "is not there; give a .pdparams file"),
        (".", {"architecture": "yolo"}, "unknown architecture 'yolo'; known: demo_det"),
        (".", {}, "expected one inference.json"),
    ],
)
def test_a_source_that_is_none_is_told(tmp_path, source, options, message):
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / source, ConversionOptions(tmp_path / "models", **options))


def test_a_directory_without_a_name_wants_the_architecture(small, tmp_path):
    folder = exported(tmp_path, small[rec_name()], REC_SPEC)
    (folder / "inference.yml").unlink()
    with pytest.raises(ConversionError, match="say it with --architecture"):
        convert(folder, ConversionOptions(tmp_path / "models"))
    card = convert(folder, ConversionOptions(tmp_path / "models", architecture=rec_name())).card
    assert card.source.note == ""
    with pytest.raises(ConversionError, match="holds something already"):
        export_directory(folder, folder, rec_name())


def test_confident_boxes_elsewhere_fail_the_gate_however_many_weak_ones_agree():
    rng = np.random.default_rng(8)
    low = rng.uniform(0, 64, (12, 99, 2))
    weak = np.concatenate([np.zeros((12, 99, 1)), rng.uniform(0.03, 0.2, (12, 99, 1)), low, low + 32], axis=2)
    strong = np.tile(np.float64([0, 0.9, 10, 10, 40, 40]), (12, 1, 1))
    rows = np.concatenate([strong, weak], axis=1).astype(np.float32)
    moved = rows.copy()
    moved[:, 0, 2:] += 80
    spec = dataclasses.replace(DET_SPEC, max_boxes=100)
    outputs = [parity._program_outputs([[row] for row in table], spec) for table in (rows, moved)]
    assert parity._same_boxes(outputs[0], outputs[0], spec).min_cosine == 1.0
    with pytest.raises(ParityError, match="all and the best alike, got 0"):
        parity._same_boxes(outputs[0], outputs[1], spec)


def test_an_own_width_of_vectors_is_taken_from_the_program(small, tmp_path):
    narrow = Architecture(lambda _: LcNetV2Encoder(dataclasses.replace(REC_SIZE, embedding=8)))
    folder = exported(tmp_path, narrow, REC_SPEC)
    card = convert(folder, ConversionOptions(tmp_path / "models", architecture=rec_name())).card
    assert card.spec.embedding_dimension == 8
    assert small[rec_name()] is not narrow


@pytest.mark.usefixtures("small")
def test_the_name_is_no_part_of_the_weights(tmp_path):
    folder = exported(tmp_path, ARCHITECTURES[rec_name()].__class__(lambda _: LcNetV2Encoder(REC_SIZE)), REC_SPEC)
    digests = {
        convert(folder, ConversionOptions(tmp_path / "models", name=name)).card.weights_sha256 for name in ("a", "b")
    }
    assert len(digests) == 1
    with pytest.raises(ConversionError, match="--name: the name of a model"):
        convert(folder, ConversionOptions(tmp_path / "models", name="../out"))


def test_a_detector_of_any_side_has_as_many_cells_as_its_convolutions_give():
    for side in (96, 160, 416):
        size = dataclasses.replace(DET_SIZE, input_px=side)
        decoded = DecodedDetector(LcNetDet(size), clips=False)
        boxes, scores = decoded(paddle.zeros([1, 3, side, side]))
        assert boxes.shape[1] == scores.shape[1]


def test_clip_uses_its_embeddings_as_the_official_layer_does():
    """By what it is used for, a weight of an official export is told apart; PaddleClas expands the one and adds the other whole."""
    encoder = ClipEncoder(ClipVitSize(32, 16, width=24, depth=1, heads=2, projection=16, embedding=8))
    encoder.eval()
    spec = dataclasses.replace(REC_SPEC, input_size=32, embedding_dimension=8)
    roles = {name: role for role, name in uses_of(recovery._program_of(encoder, spec))}
    backbone = encoder.backbone
    assert roles[backbone.cls_token.name][0::2] == ("pd_op.expand", (1, 1, 24))
    assert roles[backbone.pos_embed.name] == ("pd_op.add", 1, (1, 5, 24))
