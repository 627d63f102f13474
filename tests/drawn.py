"""Drawn products and scenes, as bytes of picture files."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

from shitu_train.render import Product, Scene, draw_picture, draw_scene, make_products

SEED = 7


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@functools.cache
def products(count: int = 6) -> tuple[Product, ...]:
    return make_products(SEED, count, "demo")


@functools.cache
def product_picture(index: int, view: int = 0) -> bytes:
    return jpeg(draw_picture(products()[index], np.random.default_rng([SEED, index, view]), 256))


@functools.cache
def scene(number: int = 0) -> Scene:
    return draw_scene(products(), np.random.default_rng([SEED, 100 + number]), 640, 480)


@functools.cache
def scene_picture(number: int = 0) -> bytes:
    return jpeg(scene(number).image)
