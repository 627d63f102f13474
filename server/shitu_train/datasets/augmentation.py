"""Random changes of training pictures: cut, colour, blur and erasing. No mirroring where there is print."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from shitu_train.arrays import float32
from shitu_train.datasets.drawn import CROP_MARGIN


def jittered_cut(image: NDArray[np.uint8], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """A cached crop cut as a detector might: each edge up to 7 % inside or 9 % outside the true box, turned a little; uint8 RGB."""
    side = image.shape[0]
    margin = side * CROP_MARGIN / (1 + 2 * CROP_MARGIN)
    low = margin + rng.uniform(-0.09, 0.07, 2) * (side - 2 * margin)
    high = side - margin + rng.uniform(-0.07, 0.09, 2) * (side - 2 * margin)
    return _turned_cut(image, low, high, float(rng.normal(0, 2.5)), size)


def random_cut(image: NDArray[np.uint8], rng: np.random.Generator, size: int, mirror: bool) -> NDArray[np.uint8]:
    """A random cut of a whole photo: a share of 0.45 to 1 of each side, turned up to some degrees, maybe mirrored; uint8 RGB."""
    side = image.shape[0]
    extent = side * rng.uniform(0.55, 1.0) * np.clip(np.exp(rng.normal(0, 0.1, 2)), 0.8, 1.2)
    extent = np.minimum(extent, side)
    low = rng.uniform(0, 1, 2) * (side - extent)
    cut = _turned_cut(image, low, low + extent, float(rng.normal(0, 6)), size)
    return np.ascontiguousarray(cut[:, ::-1]) if mirror and rng.random() < 0.5 else cut


def _turned_cut(
    image: NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64], degrees: float, size: int
) -> NDArray[np.uint8]:
    centre, half = (low + high) / 2, (high - low) / 2
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    across, down = np.array([cosine, sine]) * half[0] * 2 / size, np.array([-sine, cosine]) * half[1] * 2 / size
    corner = centre - (across + down) * size / 2
    matrix = float32([[across[0], down[0], corner[0]], [across[1], down[1], corner[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def disturb(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blurs one picture in four, lowers the resolution of one in four, and erases a rectangle of one in seven."""
    if rng.random() < 0.25:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4))), np.uint8)
    if rng.random() < 0.25:
        size = image.shape[0]
        small = int(size * rng.uniform(0.4, 0.8))
        image = np.asarray(
            cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (size, size)), np.uint8
        )
    if rng.random() < 0.15:
        size = image.shape[0]
        height, width = (int(v) for v in rng.uniform(0.1, 0.45, 2) * size)
        top, left = int(rng.integers(size - height)), int(rng.integers(size - width))
        image = image.copy()
        image[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return image


def shift_colours(batch: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Random gain, contrast and saturation per picture of uint8 RGB [n, S, S, 3]: float32 in 0 to 255, same shape."""
    count = len(batch)
    gain = np.exp(rng.normal(0, 0.13, (count, 1, 1, 1)) + rng.normal(0, 0.06, (count, 1, 1, 3))).astype(np.float32)
    pictures = batch.astype(np.float32) * gain
    grey = pictures.mean(axis=3, keepdims=True)
    pictures += (grey - pictures) * rng.uniform(-0.25, 0.35, (count, 1, 1, 1)).astype(np.float32)
    middle = pictures.mean(axis=(1, 2, 3), keepdims=True)
    pictures += (pictures - middle) * rng.uniform(-0.2, 0.2, (count, 1, 1, 1)).astype(np.float32)
    return np.clip(pictures, 0, 255)
