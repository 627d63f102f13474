"""Trains the detector: varifocal, generalised IoU and distribution focal losses, as PicoDet, with ATSS assignment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from shitu_train.architectures.picodet import BINS, BoxDecoder, PicoDet
from shitu_train.datasets.detector_batches import DetectorBatch, DetectorBatches
from shitu_train.losses import distribution_focal, giou, varifocal
from shitu_train.training.budget import Budget, learning_rate
from shitu_train.training.checkpoint import load_checkpoint, save_checkpoint
from shitu_train.training.encoder import normalise
from shitu_train.training.feed import prefetch
from shitu_train.training.reporting import Reporter

GIOU_WEIGHT, DFL_WEIGHT = 2.0, 0.25


@dataclass(frozen=True)
class DetectorRun:
    """Settings of a run. `checkpoint` is written every `save_every_s` and resumed from if it is there."""

    checkpoint: Path
    seed: int
    base_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 200
    save_every_s: float = 240.0


class DetectorLoss:
    """The three losses of a batch."""

    def __init__(self, batches: DetectorBatches, input_px: int) -> None:
        self._decode = BoxDecoder(input_px)
        self._centres, self._strides = batches.centres, batches.strides

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

    def _distances(self, batch: DetectorBatch) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """True distances of the four edges, in strides, flat float32 [4 p], inside what the bins can say."""
        cell = batch.cells % len(self._centres)
        centres = self._centres[cell]
        distances = np.hstack([centres - batch.boxes[:, :2], batch.boxes[:, 2:] - centres]) / self._strides[cell][:, None]
        return np.clip(distances, 0, BINS - 1.01).astype(np.float32).reshape(-1)


def train_detector(
    detector: PicoDet, batches: DetectorBatches, budget: Budget, run: DetectorRun, validate: Callable[[PicoDet], str]
) -> None:
    """Trains until the budget is spent; `validate` returns a line of figures to print at every checkpoint."""
    optimiser = paddle.optimizer.AdamW(
        run.base_rate,
        parameters=detector.parameters(),
        weight_decay=run.weight_decay,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(5.0),
    )
    parts = {"model": detector, "optimiser": optimiser}
    if run.checkpoint.exists():
        load_checkpoint(run.checkpoint, parts, budget)
    measure = DetectorLoss(batches, detector.size.input_px)
    saved = time.monotonic()
    with Reporter("detector") as report:
        feed = prefetch(batches.make, budget.spent_steps)
        for batch in feed:
            optimiser.set_lr(learning_rate(run.base_rate, budget, run.warmup_steps))
            loss = _step(detector, measure, optimiser, batch)
            budget.advance()
            rate = batches.batch * budget.spent_steps / budget.spent_s
            report.update(budget.progress, step=budget.spent_steps, loss=loss, pictures_per_s=rate)
            if time.monotonic() - saved > run.save_every_s or budget.progress >= 1:
                save_checkpoint(run.checkpoint, parts, budget)
                report.note(f"step {budget.spent_steps}: {validate(detector)}")
                saved = time.monotonic()
            if budget.progress >= 1:
                feed.close()
                break


def _step(detector: PicoDet, measure: DetectorLoss, optimiser: paddle.optimizer.Optimizer, batch: DetectorBatch) -> float:
    detector.train()
    loss = measure(detector(normalise(batch.pictures)), batch)
    loss.backward()
    optimiser.step()
    optimiser.clear_grad()
    return float(loss)
