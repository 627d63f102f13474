"""Trains the encoder by cross entropy on ArcMargin, as PP-ShiTuV2_rec_CLIP_vit_base is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from numpy.typing import NDArray

from shitu_models.specs import DEMO_REC
from shitu_train.architectures.clip_vit import ClipEncoder
from shitu_train.datasets.encoder_batches import EncoderBatches
from shitu_train.losses import ArcMargin
from shitu_train.training.budget import Budget, learning_rate
from shitu_train.training.checkpoint import load_checkpoint, save_checkpoint
from shitu_train.training.feed import prefetch
from shitu_train.training.reporting import Reporter

MARGIN = 0.2
# Until here only half of the patches are seen (twice as many pictures a second), and the margin grows from 0.
SPARSE_UNTIL = 0.6
MARGIN_FROM, MARGIN_FULL = 0.05, 0.25


@dataclass(frozen=True)
class EncoderRun:
    """Settings of a run. `checkpoint` is written every `save_every_s` and resumed from if it is there."""

    checkpoint: Path
    seed: int
    base_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 300
    save_every_s: float = 240.0


def normalise(pictures: NDArray[np.float32]) -> paddle.Tensor:
    """Pictures float32 [n, S, S, 3] in 0 to 255 as the networks take them: [n, 3, S, S], less the mean, by the deviation."""
    mean, std = np.float32(DEMO_REC.mean) * 255, np.float32(DEMO_REC.std) * 255
    return paddle.to_tensor(np.ascontiguousarray(((pictures - mean) / std).transpose(0, 3, 1, 2)))


def train_encoder(
    encoder: ClipEncoder, batches: EncoderBatches, budget: Budget, run: EncoderRun, validate: Callable[[ClipEncoder], str]
) -> None:
    """Trains until the budget is spent; `validate` returns a line of figures to print at every checkpoint."""
    head = ArcMargin(encoder.size.embedding, batches.classes)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = _optimiser(parameters, run)
    parts = {"model": encoder, "head": head, "optimiser": optimiser}
    if run.checkpoint.exists():
        load_checkpoint(run.checkpoint, parts, budget)
    saved = time.monotonic()
    with Reporter("encoder") as report:
        feed = prefetch(batches.make, budget.spent_steps)
        for pictures, labels in feed:
            optimiser.set_lr(learning_rate(run.base_rate, budget, run.warmup_steps))
            loss = _step(encoder, head, optimiser, pictures, labels, budget)
            budget.advance()
            rate = batches.batch * budget.spent_steps / budget.spent_s
            report.update(budget.progress, step=budget.spent_steps, loss=loss, pictures_per_s=rate)
            if time.monotonic() - saved > run.save_every_s or budget.progress >= 1:
                save_checkpoint(run.checkpoint, parts, budget)
                report.note(f"step {budget.spent_steps}: {validate(encoder)}")
                saved = time.monotonic()
            if budget.progress >= 1:
                feed.close()
                break


def _optimiser(parameters: list[paddle.Tensor], run: EncoderRun) -> paddle.optimizer.Optimizer:
    decayed = {p.name for p in parameters if len(p.shape) > 1}
    return paddle.optimizer.AdamW(
        run.base_rate,
        parameters=parameters,
        weight_decay=run.weight_decay,
        apply_decay_param_fun=lambda name: name in decayed,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0),
    )


def _step(
    encoder: ClipEncoder,
    head: ArcMargin,
    optimiser: paddle.optimizer.Optimizer,
    pictures: NDArray[np.float32],
    labels: NDArray[np.int64],
    budget: Budget,
) -> float:
    encoder.train()
    kept = None
    if budget.progress < SPARSE_UNTIL:
        order = np.random.default_rng([budget.spent_steps]).permutation(encoder.size.tokens)
        kept = paddle.to_tensor(np.sort(order[: encoder.size.tokens // 2]))
    margin = MARGIN * float(np.clip((budget.progress - MARGIN_FROM) / (MARGIN_FULL - MARGIN_FROM), 0, 1))
    loss = head(encoder(normalise(pictures), kept), paddle.to_tensor(labels), margin)
    loss.backward()
    optimiser.step()
    optimiser.clear_grad()
    return float(loss)
