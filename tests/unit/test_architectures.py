"""The Paddle architectures: the official parameter names, and what the losses and the decoder compute."""

from __future__ import annotations

import types

import numpy as np
import pytest

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

import paddle  # noqa: E402

from shitu_train.architectures.clip_vit import ClipEncoder, ClipVitSize  # noqa: E402
from shitu_train.architectures.picodet import BINS, BoxDecoder, PicoDet, PicoDetSize, cell_centres  # noqa: E402
from shitu_train.datasets.detector_batches import DetectorBatch  # noqa: E402
from shitu_train.losses import ArcMargin, distribution_focal, giou, varifocal  # noqa: E402
from shitu_train.training.budget import Budget  # noqa: E402
from shitu_train.training.checkpoint import Saver, load_checkpoint, save_checkpoint  # noqa: E402
from shitu_train.training.detector import DetectorLoss, DetectorRun, DetectorTrainer, train_detector  # noqa: E402
from shitu_train.training.encoder import EncoderRun, EncoderTrainer, train_encoder  # noqa: E402

TINY = ClipVitSize(input_px=32, patch_px=16, width=24, depth=2, heads=2, projection=16, embedding=8)
TINY_DET = PicoDetSize(input_px=128, stem=(4, 8), stages=(8, 8, 8, 8), depths=(1, 1, 1, 1), neck=8)
BLOCK = [
    "norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias",
    "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias",
]  # fmt: skip


def test_clip_parameter_names_are_the_official_ones():
    shapes = {name: list(value.shape) for name, value in ClipEncoder(TINY).state_dict().items()}
    assert set(shapes) == {
        *(f"backbone.{name}" for name in ("pos_embed", "cls_token", "proj", "patch_embed.proj.weight")),
        *(f"backbone.{layer}.{name}" for layer in ("ln_pre", "norm") for name in ("weight", "bias")),
        *(f"backbone.blocks.{i}.{name}" for i in range(2) for name in BLOCK),
        "neck.fc.weight",
        "neck.fc.bias",
    }
    assert shapes["backbone.pos_embed"] == [1, 5, 24]
    assert shapes["backbone.cls_token"] == [1, 1, 24]
    assert shapes["backbone.proj"] == [24, 16]
    assert shapes["backbone.blocks.0.attn.qkv.weight"] == [24, 72]
    assert shapes["neck.fc.weight"] == [16, 8]


def test_attention_equals_the_plain_formula():
    paddle.seed(0)
    attention = ClipEncoder(TINY).backbone.blocks[0].attn
    x = paddle.randn([2, 5, 24])
    qkv = attention.qkv(x).numpy().reshape(2, 5, 3, 2, 12).transpose(2, 0, 3, 1, 4)
    scores = qkv[0] @ qkv[1].transpose(0, 1, 3, 2) / np.sqrt(12)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    wanted = attention.proj(paddle.to_tensor((weights @ qkv[2]).transpose(0, 2, 1, 3).reshape(2, 5, 24))).numpy()
    assert np.abs(attention(x).numpy() - wanted).max() < 1e-5


def test_kept_patches_are_the_pictures_patches():
    paddle.seed(0)
    encoder = ClipEncoder(TINY)
    encoder.eval()
    image = paddle.randn([2, 3, 32, 32])
    assert np.allclose(encoder(image).numpy(), encoder(image, paddle.arange(4)).numpy(), atol=1e-6)
    assert not np.allclose(encoder(image).numpy(), encoder(image, paddle.arange(2)).numpy(), atol=1e-3)


def test_arc_margin_without_margin_is_cross_entropy_of_cosines():
    paddle.seed(0)
    head = ArcMargin(8, 5)
    vectors, labels = paddle.randn([6, 8]), paddle.to_tensor([0, 1, 2, 3, 4, 0])
    unit = vectors.numpy() / np.linalg.norm(vectors.numpy(), axis=1, keepdims=True)
    centres = head.weight.numpy() / np.linalg.norm(head.weight.numpy(), axis=0)
    logits = 30 * unit @ centres
    wanted = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(6), labels.numpy()])
    assert float(head(vectors, labels, 0.0)) == pytest.approx(wanted, rel=1e-4)
    assert float(head(vectors, labels, 0.2)) > float(head(vectors, labels, 0.0))


def test_giou_of_known_boxes():
    left = paddle.to_tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    right = paddle.to_tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    overlap, generalised = (value.numpy() for value in giou(left, right))
    assert np.allclose(overlap, [1, 0], atol=1e-5)
    assert np.allclose(generalised, [1, -1 / 3], atol=1e-5)


def test_distribution_focal_is_least_at_the_true_bins():
    distance = paddle.to_tensor([2.25])
    right, wrong = np.full((1, BINS), -8, np.float32), np.full((1, BINS), -8, np.float32)
    right[0, 2], right[0, 3], wrong[0, 6] = np.log(0.75) + 8, np.log(0.25) + 8, 8
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert float(distribution_focal(paddle.to_tensor(right), distance)) == pytest.approx(entropy, abs=1e-3)
    assert float(distribution_focal(paddle.to_tensor(wrong), distance)) > 5


def test_varifocal_wants_the_quality():
    quality = paddle.to_tensor([0.8, 0.0])
    good, bad = (
        paddle.to_tensor([np.log(4.0), -6.0], dtype="float32"),
        paddle.to_tensor([-6.0, np.log(4.0)], dtype="float32"),
    )
    assert float(varifocal(good, quality)) < float(varifocal(bad, quality))


def test_decoder_puts_an_even_distribution_around_the_cell():
    decode = BoxDecoder(128)
    centres, strides = cell_centres(128)
    logits = np.zeros((1, len(centres), 1 + 4 * BINS), np.float32)
    boxes, scores = (value.numpy() for value in decode(paddle.to_tensor(logits)))
    reach = 3.5 * strides[:, None]
    wanted = np.clip(np.hstack([centres - reach, centres + reach]), 0, 128)
    assert np.allclose(boxes[0], wanted, atol=1e-3)
    assert np.allclose(scores, 0.5)


def encoder_losses(steps, path, *, save_after=None):
    """Trains as a process of its own would: an optimiser's state goes by names that count up in a process."""
    pictures = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype(np.float32)
    losses, budget = [], Budget(steps=30)
    with paddle.utils.unique_name.guard():
        trainer = EncoderTrainer.of(ClipEncoder(TINY), 4, EncoderRun(warmup_steps=1))
        if path.exists():
            assert load_checkpoint(path, trainer.parts, budget)["seed"] == 1
            assert budget.spent_steps == 8
        for _ in range(steps):
            losses.append(trainer.step(pictures, np.arange(8) % 4, budget))
            budget.advance()
            if budget.spent_steps == save_after:
                save_checkpoint(path, trainer.parts, budget, {"seed": 1})
    return losses


def test_encoder_learns_and_resumes_exactly(tmp_path):
    paddle.seed(1)
    losses = encoder_losses(12, tmp_path / "run", save_after=8)
    assert losses[-1] < losses[0]
    paddle.seed(2)
    assert encoder_losses(4, tmp_path / "run") == pytest.approx(losses[8:], rel=1e-5)


def test_a_finished_run_takes_no_step_more(tmp_path):
    def nothing():
        raise AssertionError("expected no validation of a run that is finished")

    def batch_of(step):
        raise AssertionError(f"expected no batch of a run that is finished, asked for step {step}")

    batches = types.SimpleNamespace(make=batch_of, batch=2)
    encoder = EncoderTrainer.of(ClipEncoder(TINY), 4, EncoderRun())
    detector = DetectorTrainer.of(PicoDet(TINY_DET), DetectorLoss(128), DetectorRun())
    for trainer, train in ((encoder, train_encoder), (detector, train_detector)):
        budget = Budget(steps=2, spent_steps=2)
        saver = Saver(tmp_path / "run", trainer.parts, {}, 0.0)
        train(trainer, batches, budget, saver, nothing)
        assert budget.spent_steps == 2
        assert not (tmp_path / "run").exists()


def test_the_draft_of_another_checkpoint_is_left_alone(tmp_path):
    drafts = [tmp_path / name for name in ("run.tmp", "run.rec.tmp")]
    for draft in drafts:
        draft.write_text("being written", encoding="utf-8")
    save_checkpoint(tmp_path / "run.det", {"model": ClipEncoder(TINY)}, Budget(steps=1), {})
    assert {path.name for path in tmp_path.iterdir()} == {"run.det", "run.tmp", "run.rec.tmp"}
    assert {draft.read_text(encoding="utf-8") for draft in drafts} == {"being written"}


def test_checkpoint_of_another_size_is_refused(tmp_path):
    save_checkpoint(tmp_path / "run", {"model": ClipEncoder(TINY)}, Budget(steps=1), {})
    with pytest.raises(ValueError, match="hold"):
        load_checkpoint(tmp_path / "run", {"head": ArcMargin(8, 3)})
    with pytest.raises(FileNotFoundError, match="train first"):
        load_checkpoint(tmp_path / "none", {})


def test_detector_learns_one_box():
    paddle.seed(1)
    centres, strides = cell_centres(128)
    picture = np.zeros((1, 128, 128, 3), np.float32)
    picture[0, 40:90, 30:100] = 255
    box = np.float32([[30, 40, 100, 90]])
    near = np.flatnonzero((np.abs(centres - (65, 65)).max(axis=1) < 14) & (strides == 16))
    batch = DetectorBatch(picture, near, np.repeat(box, len(near), axis=0))
    trainer, budget = (
        DetectorTrainer.of(PicoDet(TINY_DET), DetectorLoss(128), DetectorRun(warmup_steps=1, base_rate=1e-2)),
        Budget(steps=80),
    )
    losses = []
    for _ in range(50):
        losses.append(trainer.step(batch, budget))
        budget.advance()
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert np.isfinite(trainer.step(DetectorBatch(picture, near[:0], box[:0]), budget))
