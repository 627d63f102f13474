"""Trains the detector: varifocal, generalised IoU and distribution focal losses, as PicoDet, with ATSS assignment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray

from shitu_models.specs import DEMO_DET
from shitu_train.architectures.picodet import BINS, BoxDecoder, PicoDet, cell_centres
from shitu_train.arrays import float32
from shitu_train.datasets.detector_batches import DetectorBatch, DetectorBatches
from shitu_train.losses import distribution_focal, giou, varifocal
from shitu_train.tensors import normalise
from shitu_train.training.budget import Budget, learning_rate
from shitu_train.training.checkpoint import Saver
from shitu_train.training.feed import prefetch
from shitu_train.training.reporting import Reporter

GIOU_WEIGHT, DFL_WEIGHT = 2.0, 0.25


@dataclass(frozen=True)
class DetectorRun:
    """Settings of a run."""

    base_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 200


class DetectorLoss:
    """The three losses of a batch."""

    def __init__(self, input_px: int) -> None:
        self._decode = BoxDecoder(input_px)
        self._centres, self._strides = cell_centres(input_px)

    def __call__(self, logits: paddle.Tensor, batch: DetectorBatch) -> paddle.Tensor:
        """The weighted sum, over the number of positive cells."""
        boxes, _ = self._decode(logits)
        flat, flat_boxes = logits.reshape([-1, 1 + 4 * BINS]), boxes.reshape([-1, 4])
        quality = paddle.zeros([flat.shape[0]])
        if not len(batch.cells):
            return varifocal(flat[:, 0], quality)
        cells = paddle.to_tensor(batch.cells)
        overlap, generalised = giou(paddle.gather(flat_boxes, cells), paddle.to_tensor(batch.boxes))
        weight = overlap.detach().clip(0.1)
        quality = paddle.scatter(quality, cells, overlap.detach().clip(1e-3))
        bins = paddle.gather(flat, cells)[:, 1:].reshape([-1, BINS])
        fine = distribution_focal(bins, paddle.to_tensor(self._distances(batch))).reshape([-1, 4]).mean(axis=1)
        regression = (GIOU_WEIGHT * (1 - generalised) + DFL_WEIGHT * fine) * weight
        return varifocal(flat[:, 0], quality) / len(batch.cells) + regression.sum() / weight.sum()

    def _distances(self, batch: DetectorBatch) -> NDArray[np.float32]:
        """True distances of the four edges, in strides, flat float32 [4 p], inside what the bins can say."""
        cell = batch.cells % len(self._centres)
        centres = self._centres[cell]
        distances = (
            np.hstack([centres - batch.boxes[:, :2], batch.boxes[:, 2:] - centres]) / self._strides[cell][:, None]
        )
        return float32(np.clip(distances, 0, BINS - 1.01)).reshape(-1)


@dataclass(frozen=True)
class DetectorTrainer:
    """What one run trains."""

    detector: PicoDet
    loss: DetectorLoss
    optimiser: paddle.optimizer.Optimizer
    run: DetectorRun

    @classmethod
    def of(cls, detector: PicoDet, loss: DetectorLoss, run: DetectorRun) -> DetectorTrainer:
        """A trainer with a fresh optimiser."""
        optimiser = paddle.optimizer.AdamW(
            run.base_rate,
            parameters=detector.parameters(),
            weight_decay=run.weight_decay,
            grad_clip=paddle.nn.ClipGradByGlobalNorm(5.0),
        )
        return cls(detector, loss, optimiser, run)

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"model": self.detector, "optimiser": self.optimiser}

    def step(self, batch: DetectorBatch, budget: Budget) -> float:
        """One step; returns the loss."""
        self.detector.train()
        self.optimiser.set_lr(learning_rate(self.run.base_rate, budget, self.run.warmup_steps))
        loss = self.loss(self.detector(normalise(batch.pictures, DEMO_DET)), batch)
        loss.backward()
        self.optimiser.step()
        self.optimiser.clear_grad()
        return float(loss)


def train_detector(
    trainer: DetectorTrainer, batches: DetectorBatches, budget: Budget, saver: Saver, validate: Callable[[], str]
) -> None:
    """Train until the budget is spent; `validate` returns a line of figures to print at every checkpoint."""
    with Reporter("detector") as report, closing(prefetch(batches.make, budget.spent_steps)) as feed:
        if budget.progress >= 1:
            report.note(f"the budget was spent at step {budget.spent_steps} already; give a larger one to train on")
            return
        for batch in feed:
            loss = trainer.step(batch, budget)
            budget.advance()
            rate = batches.batch * budget.spent_steps / budget.spent_s
            report.update(budget.progress, step=budget.spent_steps, loss=loss, pictures_per_s=rate)
            if saver.save_if_due(budget):
                report.note(f"step {budget.spent_steps}: {validate()}")
            if budget.progress >= 1:
                return
