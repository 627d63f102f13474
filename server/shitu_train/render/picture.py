"""Single product pictures, as a gallery holds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shitu_train.render.backdrop import GALLERY_CAMERA, photograph, plain_backdrop
from shitu_train.render.body import draw_body, random_pose
from shitu_train.render.product import Product


def paste(image: NDArray[np.float32], cut_out: NDArray[np.uint8], left: int, top: int) -> None:
    """Blends the RGBA `cut_out` into `image` with its corner at (left, top), clipped to the picture."""
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + cut_out.shape[1], image.shape[1]), min(top + cut_out.shape[0], image.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    patch = cut_out[y0 - top : y1 - top, x0 - left : x1 - left].astype(np.float32)
    alpha = patch[..., 3:] / 255
    region = image[y0:y1, x0:x1]
    region[:] = region * (1 - alpha) + patch[..., :3] * alpha


def draw_picture(product: Product, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """A gallery picture of `product` on a plain background: uint8 RGB [size, size, 3], the product filling most of it."""
    freedom = float(rng.uniform(0.2, 0.9))
    fill = float(rng.uniform(0.78, 0.94))
    height = int(size * fill / max(1.0, product.aspect * 1.25))
    cut_out = draw_body(product, random_pose(rng, height, freedom), rng)
    image = plain_backdrop(rng, size, size)
    left, top = (size - cut_out.shape[1]) // 2, (size - cut_out.shape[0]) // 2
    paste(image, cut_out, left + int(rng.integers(-2, 3)), top + int(rng.integers(-2, 3)))
    return photograph(rng, image, GALLERY_CAMERA)
