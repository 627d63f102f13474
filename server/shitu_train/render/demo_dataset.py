"""A demo data set on disk, laid out like PaddleX's drink_dataset_v2.0."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shitu_train.render.picture import draw_picture
from shitu_train.render.product import Product, make_products
from shitu_train.render.scene import draw_scene

JPEG_QUALITY = 90


@dataclass(frozen=True)
class DemoSizes:
    """How much is drawn. Pictures in pixels."""

    products: int = 30
    gallery_pictures_per_product: int = 4
    scenes: int = 20
    gallery_picture_px: int = 256
    scene_width_px: int = 640
    scene_height_px: int = 480


def write_demo_dataset(
    folder: Path,
    seed: int,
    sizes: DemoSizes | None = None,
    split: str = "demo",
    advance: Callable[[], None] | None = None,
) -> tuple[Product, ...]:
    """Draws `gallery/*.jpg`, `gallery.txt` (`gallery/x.jpg<TAB>label`), `test_images/*.jpg` and `test_truth.json` into `folder`.

    `test_truth.json` maps each picture's path to `{"boxes": [[x0, y0, x1, y1], ...], "labels": [...]}` in pixels. `advance` is called
    once per picture written (for a progress bar).

    Returns:
        The products, in the order of the gallery.
    """
    sizes = sizes or DemoSizes()
    (folder / "gallery").mkdir(parents=True, exist_ok=True)
    (folder / "test_images").mkdir(exist_ok=True)
    products = make_products(seed, sizes.products, split)
    step = advance or (lambda: None)
    _write_gallery(folder, products, np.random.default_rng([seed, 1]), sizes, step)
    _write_scenes(folder, products, np.random.default_rng([seed, 2]), sizes, step)
    return products


def _save(path: Path, image: NDArray[np.uint8]) -> None:
    Image.fromarray(image).save(path, quality=JPEG_QUALITY)


def _write_gallery(
    folder: Path, products: tuple[Product, ...], rng: np.random.Generator, sizes: DemoSizes, step: Callable[[], None]
) -> None:
    lines = []
    for number, product in enumerate(products):
        for view in range(sizes.gallery_pictures_per_product):
            name = f"gallery/{number:04d}_{view}.jpg"
            _save(folder / name, draw_picture(product, rng, sizes.gallery_picture_px))
            lines.append(f"{name}\t{product.label}\n")
            step()
    (folder / "gallery.txt").write_text("".join(lines), encoding="utf-8")


def _write_scenes(
    folder: Path, products: tuple[Product, ...], rng: np.random.Generator, sizes: DemoSizes, step: Callable[[], None]
) -> None:
    truth = {}
    for number in range(sizes.scenes):
        scene = draw_scene(products, rng, sizes.scene_width_px, sizes.scene_height_px)
        name = f"test_images/{number:04d}.jpg"
        _save(folder / name, scene.image)
        truth[name] = {"boxes": scene.boxes.tolist(), "labels": [product.label for product in scene.products]}
        step()
    (folder / "test_truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
