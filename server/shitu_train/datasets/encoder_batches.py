"""Batches for the encoder: drawn crops mixed with real photos."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from shitu_train.datasets.augmentation import disturb, jittered_cut, random_cut, shift_colours
from shitu_train.datasets.drawn import CropSet
from shitu_train.datasets.grocery import Photo

PHOTO_PX = 320


@dataclass(frozen=True)
class PhotoSet:
    """Real photos: `images` uint8 RGB [n, 320, 320, 3], `labels` int64 [n], `printed` bool [n] (has print, so is not mirrored)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    printed: NDArray[np.bool_]


def load_photos(photos: list[Photo]) -> PhotoSet:
    """Reads the photos, stretched to 320 x 320.

    Raises:
        FileNotFoundError: a photo is missing or cannot be decoded.
    """
    images = np.empty((len(photos), PHOTO_PX, PHOTO_PX, 3), np.uint8)
    for i, photo in enumerate(photos):
        decoded = cv2.imread(str(photo.path), cv2.IMREAD_COLOR)
        if decoded is None:
            raise FileNotFoundError(f"expected a readable photo at {photo.path}")
        images[i] = cv2.resize(
            cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), (PHOTO_PX, PHOTO_PX), interpolation=cv2.INTER_LINEAR
        )
    labels = np.asarray([photo.label for photo in photos], np.int64)
    return PhotoSet(images, labels, np.asarray(["Packages" in photo.path.parts for photo in photos], np.bool_))


@dataclass(frozen=True)
class EncoderBatches:
    """Makes the batch of any step from the seed and the step alone, so that a resumed run goes on where it stopped.

    Photos' classes follow the drawn ones: class `drawn_classes + label`.
    """

    crops: CropSet
    photos: PhotoSet | None
    drawn_classes: int
    size_px: int
    batch: int
    photo_share: float
    seed: int

    @property
    def classes(self) -> int:
        """How many classes the loss has."""
        return self.drawn_classes + (int(self.photos.labels.max()) + 1 if self.photos is not None else 0)

    def make(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Pictures float32 [batch, S, S, 3] in 0 to 255 and labels int64 [batch]."""
        rng = np.random.default_rng([self.seed, step])
        pictures = np.empty((self.batch, self.size_px, self.size_px, 3), np.uint8)
        labels = np.empty(self.batch, np.int64)
        real = round(self.batch * self.photo_share) if self.photos is not None else 0
        for i in range(self.batch):
            picture, labels[i] = self._photo(rng) if i < real else self._crop(rng)
            pictures[i] = disturb(picture, rng)
        return shift_colours(pictures, rng), labels

    def _crop(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], int]:
        i = int(rng.integers(len(self.crops.images)))
        return jittered_cut(self.crops.images[i], rng, self.size_px), int(self.crops.labels[i])

    def _photo(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], int]:
        assert self.photos is not None
        i = int(rng.integers(len(self.photos.images)))
        cut = random_cut(self.photos.images[i], rng, self.size_px, mirror=not self.photos.printed[i])
        return cut, self.drawn_classes + int(self.photos.labels[i])
