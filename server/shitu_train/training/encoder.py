"""Trains the encoder by cross entropy on ArcMargin, as PP-ShiTuV2_rec_CLIP_vit_base is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray

from shitu_models.specs import DEMO_REC
from shitu_train.architectures.clip_vit import ClipEncoder
from shitu_train.datasets.encoder_batches import EncoderBatches
from shitu_train.losses import ArcMargin
from shitu_train.tensors import normalise
from shitu_train.training.budget import Budget, learning_rate
from shitu_train.training.checkpoint import Saver
from shitu_train.training.feed import prefetch
from shitu_train.training.reporting import Reporter

MARGIN = 0.2
# Until here only half of the patches are seen (twice as many pictures a second), and the margin grows from 0.
SPARSE_UNTIL = 0.78
MARGIN_FROM, MARGIN_FULL = 0.05, 0.25


@dataclass(frozen=True)
class EncoderRun:
    """Settings of a run."""

    base_rate: float = 6e-4
    weight_decay: float = 0.05
    warmup_steps: int = 300


@dataclass(frozen=True)
class EncoderTrainer:
    """What one run trains: the encoder, and the class centres of its loss."""

    encoder: ClipEncoder
    head: ArcMargin
    optimiser: paddle.optimizer.Optimizer
    run: EncoderRun

    @classmethod
    def of(cls, encoder: ClipEncoder, classes: int, run: EncoderRun) -> EncoderTrainer:
        """A trainer with fresh class centres and optimiser."""
        head = ArcMargin(encoder.size.embedding, classes)
        return cls(encoder, head, _optimiser([*encoder.parameters(), *head.parameters()], run), run)

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"model": self.encoder, "head": self.head, "optimiser": self.optimiser}

    def step(self, pictures: NDArray[np.float32], labels: NDArray[np.int64], budget: Budget) -> float:
        """One step on pictures float32 [n, S, S, 3] in 0 to 255 and labels int64 [n]; returns the loss."""
        self.encoder.train()
        self.optimiser.set_lr(learning_rate(self.run.base_rate, budget, self.run.warmup_steps))
        margin = MARGIN * float(np.clip((budget.progress - MARGIN_FROM) / (MARGIN_FULL - MARGIN_FROM), 0, 1))
        embedding = self.encoder(normalise(pictures, DEMO_REC), _kept_patches(self.encoder.size.tokens, budget))
        loss = self.head(embedding, paddle.to_tensor(labels), margin)
        loss.backward()
        self.optimiser.step()
        self.optimiser.clear_grad()
        return float(loss)


def _kept_patches(tokens: int, budget: Budget) -> paddle.Tensor | None:
    """A random half of the patches in the first part of the run; later all (None)."""
    if budget.progress >= SPARSE_UNTIL:
        return None
    order = np.random.default_rng([budget.spent_steps]).permutation(tokens)
    return paddle.to_tensor(np.sort(order[: tokens // 2]))


def train_encoder(
    trainer: EncoderTrainer, batches: EncoderBatches, budget: Budget, saver: Saver, validate: Callable[[], str]
) -> None:
    """Train until the budget is spent; `validate` returns a line of figures to print at every checkpoint."""
    with Reporter("encoder") as report, closing(prefetch(batches.make, budget.spent_steps)) as feed:
        if budget.progress >= 1:
            report.note(f"the budget was spent at step {budget.spent_steps} already; give a larger one to train on")
            return
        for pictures, labels in feed:
            loss = trainer.step(pictures, labels, budget)
            budget.advance()
            rate = batches.batch * budget.spent_steps / budget.spent_s
            report.update(budget.progress, step=budget.spent_steps, loss=loss, pictures_per_s=rate)
            if saver.save_if_due(budget):
                report.note(f"step {budget.spent_steps}: {validate()}")
            if budget.progress >= 1:
                return


def _optimiser(parameters: list[paddle.Tensor], run: EncoderRun) -> paddle.optimizer.Optimizer:
    decayed = {p.name for p in parameters if len(p.shape) > 1}
    return paddle.optimizer.AdamW(
        run.base_rate,
        parameters=parameters,
        weight_decay=run.weight_decay,
        apply_decay_param_fun=lambda name: name in decayed,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0),
    )
