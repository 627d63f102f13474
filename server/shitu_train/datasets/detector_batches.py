"""Batches for the detector: drawn scenes, cut and mirrored, and real photos whose product fills the picture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from shitu_train.arrays import float32
from shitu_train.assignment import assign
from shitu_train.datasets.augmentation import random_cut, shift_colours
from shitu_train.datasets.drawn import SceneSet
from shitu_train.datasets.encoder_batches import PhotoSet

# An object of which less than this share is left in a cut is not learnt.
LEAST_LEFT = 0.35
# The main body of a photo that a product fills; there are no true boxes for these.
PHOTO_INSET = 0.06


@dataclass(frozen=True)
class DetectorBatch:
    """`pictures` float32 [n, S, S, 3] in 0 to 255, and what the positive cells should say.

    `cells` int64 [p] are flat indices into [n * cells]; `boxes` float32 [p, 4] are their true boxes in pixels.
    """

    pictures: NDArray[np.float32]
    cells: NDArray[np.int64]
    boxes: NDArray[np.float32]


@dataclass(frozen=True)
class DetectorBatches:
    """Makes the batch of any step from the seed and the step alone."""

    scenes: SceneSet
    photos: PhotoSet | None
    centres: NDArray[np.float32]
    strides: NDArray[np.float32]
    batch: int
    photo_share: float
    seed: int

    def make(self, step: int) -> DetectorBatch:
        """The batch of `step`."""
        rng = np.random.default_rng([self.seed, step])
        side = self.scenes.images.shape[1]
        pictures = np.empty((self.batch, side, side, 3), np.uint8)
        cells, boxes = [], []
        for i in range(self.batch):
            pictures[i], own = self._one(rng, side)
            owner = assign(self.centres, self.strides, own)
            positive = np.flatnonzero(owner >= 0)
            cells.append(positive + i * len(self.centres))
            boxes.append(own[owner[positive]])
        return DetectorBatch(shift_colours(pictures, rng), np.concatenate(cells), np.concatenate(boxes))

    def _one(self, rng: np.random.Generator, side: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if self.photos is not None and rng.random() < self.photo_share:
            photo = self.photos.images[rng.integers(len(self.photos.images))]
            inset = side * PHOTO_INSET
            return random_cut(photo, rng, side, mirror=True), float32([[inset, inset, side - inset, side - inset]])
        i = int(rng.integers(len(self.scenes.images)))
        image, boxes = self.scenes.images[i], self.scenes.boxes[i, : self.scenes.counts[i]]
        if rng.random() < 0.5:
            image = image[:, ::-1]
            boxes = np.stack([side - boxes[:, 2], boxes[:, 1], side - boxes[:, 0], boxes[:, 3]], axis=1)
        return zoomed(np.ascontiguousarray(image), boxes, rng)


def zoomed(
    image: NDArray[np.uint8], boxes: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A window of 0.45 to 1.2 of the picture (beyond its edge a flat colour), and the boxes that are still seen in it."""
    side = image.shape[0]
    window = (
        side
        * (1.0 if rng.random() < 0.3 else float(rng.uniform(0.45, 1.2)))
        * np.clip(np.exp(rng.normal(0, 0.08, 2)), 0.8, 1.2)
    )
    low = (side - window) * rng.uniform(0, 1, 2)
    scale = side / window
    matrix = float32([[scale[0], 0, -low[0] * scale[0]], [0, scale[1], -low[1] * scale[1]]])
    fill = tuple(float(v) for v in image.mean(axis=(0, 1)))
    cut = cv2.warpAffine(
        image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
    )
    moved = (boxes - np.tile(low, 2)) * np.tile(scale, 2)
    inside = np.clip(moved, 0, side)
    left = (inside[:, 2:] - inside[:, :2]).prod(axis=1) / np.maximum((moved[:, 2:] - moved[:, :2]).prod(axis=1), 1e-6)
    return np.asarray(cut, np.uint8), inside[left >= LEAST_LEFT].astype(np.float32)
