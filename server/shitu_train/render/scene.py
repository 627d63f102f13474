"""Scenes with several products on a table or a shelf, and their true boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from shitu_train.render.backdrop import SCENE_CAMERA, muted_colour, photograph, shelf_board, table_top, wall
from shitu_train.render.body import draw_body, random_pose
from shitu_train.render.picture import paste
from shitu_train.render.product import Product

FEWEST_OBJECTS = 3
MOST_OBJECTS = 9
# An object of which less than this is visible is not produced.
LEAST_VISIBLE = 0.6


@dataclass(frozen=True)
class Scene:
    """A drawn photo: `image` uint8 RGB [H, W, 3], with one product per box.

    `boxes` float32 [n, 4] are x0 y0 x1 y1 in pixels, x1 and y1 exclusive, tight to what is visible.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    products: tuple[Product, ...]


@dataclass
class _Stage:
    """A scene being built: the picture, and which object each pixel shows (0 is none)."""

    image: NDArray[np.float32]
    owner: NDArray[np.uint8]
    areas: list[int] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)

    def add(self, product: Product, cut_out: NDArray[np.uint8], left: int, top: int) -> bool:
        """Places the object unless it would leave the picture or hide another one too much."""
        height, width = cut_out.shape[:2]
        if left < 0 or top < 0 or left + width > self.owner.shape[1] or top + height > self.owner.shape[0]:
            return False
        solid = cut_out[..., 3] > 127
        region = self.owner[top : top + height, left : left + width]
        hidden = np.bincount(region[solid], minlength=len(self.areas) + 1)[1:]
        visible = np.bincount(self.owner.reshape(-1), minlength=len(self.areas) + 1)[1:]
        if any(v - h < LEAST_VISIBLE * a for v, h, a in zip(visible, hidden, self.areas, strict=True)):
            return False
        paste(self.image, cut_out, left, top)
        region[solid] = len(self.areas) + 1
        self.areas.append(int(solid.sum()))
        self.products.append(product)
        return True


def draw_scene(products: Sequence[Product], rng: np.random.Generator, width: int, height: int) -> Scene:
    """A photo of 3 to 9 products drawn from `products` (a product may stand there more than once).

    Raises:
        ValueError: no products were given, or the picture is smaller than 160 x 120.
    """
    if not products:
        raise ValueError("expected at least one product to draw, got none")
    if width < 160 or height < 120:
        raise ValueError(f"expected a picture of at least 160x120, got {width}x{height}")
    stage = _Stage(wall(rng, height, width), np.zeros((height, width), np.uint8))
    arrange = _on_shelf if rng.random() < 0.5 else _on_table
    arrange(stage, products, rng, int(rng.integers(FEWEST_OBJECTS, MOST_OBJECTS + 1)))
    if len(stage.products) < FEWEST_OBJECTS:
        return draw_scene(products, rng, width, height)
    return Scene(photograph(rng, stage.image, SCENE_CAMERA), _boxes(stage), tuple(stage.products))


def _boxes(stage: _Stage) -> NDArray[np.float32]:
    boxes = []
    for number in range(1, len(stage.products) + 1):
        x, y, width, height = cv2.boundingRect((stage.owner == number).astype(np.uint8))
        boxes.append((x, y, x + width, y + height))
    return np.asarray(boxes, np.float32).reshape(-1, 4)


def _pick(products: Sequence[Product], rng: np.random.Generator) -> Product:
    return products[int(rng.integers(len(products)))]


def _height_of(product: Product, unit: float, rng: np.random.Generator) -> int:
    """Bottles stand taller than cans; wide things are not larger than their shelf."""
    tall = {"can": 0.72, "bottle": 1.0, "carton": 0.85, "pouch": 0.85}[product.kind]
    return int(unit * tall * rng.uniform(0.85, 1.08))


def _on_shelf(stage: _Stage, products: Sequence[Product], rng: np.random.Generator, count: int) -> None:
    height, width = stage.owner.shape
    rows = 2 if count > 5 or rng.random() < 0.4 else 1
    boards = [
        int(height * (0.84 if rows == 1 else share) * rng.uniform(0.97, 1.03))
        for share in ((0.48, 0.93) if rows == 2 else (0.9,))
    ]
    colour, thickness = muted_colour(rng, 90, 235), int(height * rng.uniform(0.025, 0.05))
    for y in boards:
        shelf_board(rng, stage.image, y, thickness, colour)
    unit = height * (0.40 if rows == 2 else rng.uniform(0.42, 0.62))
    per_row = -(-count // rows)
    for y in boards:
        x = float(rng.uniform(0.01, 0.12)) * width
        for _ in range(min(per_row, count - len(stage.products))):
            x = _stand(stage, products, rng, x, y, unit)


def _stand(
    stage: _Stage, products: Sequence[Product], rng: np.random.Generator, x: float, board_y: int, unit: float
) -> float:
    """Puts one product on the board at `x`, sometimes two facings of it, and returns where the next may stand."""
    product = _pick(products, rng)
    facings = 2 if rng.random() < 0.15 else 1
    for _ in range(facings):
        cut_out = draw_body(product, random_pose(rng, _height_of(product, unit, rng), 0.8), rng)
        top = board_y - cut_out.shape[0] + int(rng.integers(1, 4))
        if len(stage.products) < MOST_OBJECTS and x + cut_out.shape[1] < stage.owner.shape[1]:
            _shadow(stage.image, int(x + cut_out.shape[1] / 2), board_y, cut_out.shape[1])
            stage.add(product, cut_out, int(x), top)
        x += cut_out.shape[1] * float(rng.uniform(0.97, 1.3))
    return x + float(rng.uniform(-4, 40))


def _on_table(stage: _Stage, products: Sequence[Product], rng: np.random.Generator, count: int) -> None:
    height, width = stage.owner.shape
    edge = int(height * rng.uniform(0.25, 0.5))
    table_top(rng, stage.image, edge)
    feet = np.sort(rng.uniform(edge + 0.12 * height, 0.98 * height, count))
    unit = height * rng.uniform(0.32, 0.5)
    for foot in feet:
        product = _pick(products, rng)
        nearness = 0.7 + 0.5 * (foot - edge) / max(height - edge, 1)
        cut_out = draw_body(product, random_pose(rng, _height_of(product, unit * nearness, rng)), rng)
        for _ in range(8):
            left = int(rng.integers(0, max(width - cut_out.shape[1], 1)))
            if _roomy(stage, left, cut_out.shape[1], int(foot), cut_out.shape[0]):
                _shadow(stage.image, left + cut_out.shape[1] // 2, int(foot), cut_out.shape[1])
                if stage.add(product, cut_out, left, int(foot) - cut_out.shape[0]):
                    break


def _roomy(stage: _Stage, left: int, width: int, foot: int, height: int) -> bool:
    """Whether most of the place is free, so that a shadow is not cast for an object that will be refused."""
    region = stage.owner[max(foot - height, 0) : foot, left : left + width]
    return region.size > 0 and foot >= height and float((region > 0).mean()) < 0.22


def _shadow(image: NDArray[np.float32], centre_x: int, foot_y: int, width: int) -> None:
    """Darkens the ground around an object's foot."""
    reach = int(width * 0.7)
    depth = max(int(width * 0.16), 3)
    x0, x1 = max(centre_x - reach, 0), min(centre_x + reach, image.shape[1])
    y0, y1 = max(foot_y - depth, 0), min(foot_y + depth, image.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    ys, xs = np.mgrid[y0:y1, x0:x1].astype(np.float32)
    distance = np.hypot((xs - centre_x) / reach, (ys - foot_y) / depth)
    image[y0:y1, x0:x1] *= (1 - 0.5 * np.clip(1 - distance, 0, 1))[..., None]
