"""Backgrounds and camera effects: walls, tables, shelves, light, blur and noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from shitu_train.arrays import float32

_Float = NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int, strength: float) -> _Float:
    """Cloudy noise float32 [height, width, 1] of mean about 0."""
    coarse = rng.normal(0, strength, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)[..., None]


def muted_colour(rng: np.random.Generator, low: float, high: float) -> _Float:
    """A colour of little saturation, float32 RGB [3]."""
    return np.asarray(rng.uniform(low, high) + rng.normal(0, 14, 3), np.float32)


def plain_backdrop(rng: np.random.Generator, height: int, width: int) -> _Float:
    """A studio backdrop with a soft gradient, float32 RGB [height, width, 3]."""
    top, foot = muted_colour(rng, 170, 250), muted_colour(rng, 160, 245)
    ramp = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    return np.repeat(top * (1 - ramp) + foot * ramp, width, axis=1) + smooth_noise(rng, height, width, 3, 5)


def wall(rng: np.random.Generator, height: int, width: int) -> _Float:
    """A wall with blurred shapes far behind, float32 RGB [height, width, 3]."""
    image = np.empty((height, width, 3), np.float32)
    image[:] = muted_colour(rng, 60, 225)
    for _ in range(int(rng.integers(0, 7))):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        colour = tuple(float(c) for c in rng.uniform(20, 235, 3))
        size = int(rng.integers(width // 16, width // 3)), int(rng.integers(height // 16, height // 3))
        if rng.random() < 0.5:
            cv2.rectangle(image, (x, y), (x + size[0], y + size[1]), colour, -1)
        else:
            cv2.ellipse(image, (x, y), size, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    small = cv2.resize(image, (max(width // 8, 2), max(height // 8, 2)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), float(rng.uniform(1.2, 4)))
    image = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    return image + smooth_noise(rng, height, width, 4, 9)


def table_top(rng: np.random.Generator, image: _Float, edge_y: int) -> None:
    """Paints a table from `edge_y` downwards into `image`: plain, wooden or tiled."""
    height, width = image.shape[0] - edge_y, image.shape[1]
    ground = muted_colour(rng, 70, 215)
    if rng.random() < 0.5:
        ground = float32((150, 105, 65)) * rng.uniform(0.6, 1.4)
    texture = np.full((height, width, 3), 1, np.float32) * ground
    texture += smooth_noise(rng, height, width, 5, 10)
    if rng.random() < 0.6:
        grain = rng.normal(0, 9, (height, 1 + width // 24)).astype(np.float32)
        texture += cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    image[edge_y:] = texture
    image[edge_y : edge_y + 2] *= 0.8


def shelf_board(rng: np.random.Generator, image: _Float, y: int, thickness: int, colour: _Float) -> None:
    """Paints one board whose upper edge is at `y`, its shadow, and price tags, into `image`."""
    width = image.shape[1]
    image[y : y + thickness] = colour
    image[y : y + 2] = np.clip(colour * 1.15, 0, 255)
    shadow = np.linspace(0.55, 1, max(thickness, 2), dtype=np.float32)[:, None, None]
    below = image[y + thickness : y + 2 * thickness]
    below *= shadow[: below.shape[0]]
    for x in np.arange(rng.uniform(10, 60), width, rng.uniform(70, 150)):
        if rng.random() < 0.6 and thickness > 9:
            tag = image[y + 3 : y + thickness - 2, int(x) : int(x) + int(thickness * 1.7)]
            tag[:] = (245, 244, 236) if rng.random() < 0.7 else (240, 216, 60)
            tag[tag.shape[0] // 3 : tag.shape[0] // 3 + 2, 2 : max(tag.shape[1] - 3, 3)] = 60


@dataclass(frozen=True)
class Camera:
    """Strengths of the camera's faults: the spread of the colour gains, largest blur in pixels, and noise in grey levels."""

    tint: float
    blur_px: float
    noise: float


SCENE_CAMERA = Camera(tint=0.07, blur_px=1.1, noise=5.0)
GALLERY_CAMERA = Camera(tint=0.03, blur_px=0.5, noise=2.0)


def photograph(rng: np.random.Generator, image: _Float, camera: Camera) -> NDArray[np.uint8]:
    """Light gradient, tint, blur and noise over the whole picture: uint8 RGB."""
    height, width = image.shape[:2]
    gain = np.exp(rng.normal(0, camera.tint, 3) + rng.normal(0, 1.5 * camera.tint)).astype(np.float32)
    slope = rng.uniform(-2.2, 2.2, 2) * camera.tint
    ramp = (
        1
        + np.linspace(-slope[0], slope[0], width, dtype=np.float32)
        + np.linspace(-slope[1], slope[1], height, dtype=np.float32)[:, None]
    )
    lit = np.asarray(image * gain * ramp[..., None], np.float32)
    sigma = float(rng.uniform(0, camera.blur_px))
    if sigma > 0.25:
        lit = np.asarray(cv2.GaussianBlur(lit, (0, 0), sigma), np.float32)
    grain = np.empty((height, width), np.int16)
    cv2.setRNGSeed(int(rng.integers(2**31 - 1)))
    cv2.randn(grain, float32([0]), float32([rng.uniform(0.3, 1) * camera.noise]))
    return np.clip(lit + grain[..., None], 0, 255).astype(np.uint8)
