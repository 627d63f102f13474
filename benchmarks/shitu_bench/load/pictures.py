"""Drawn shelves and products as JPEG files; the same ones for the same seed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shitu_bench.load.plans import WorkloadKind
from shitu_train.render import draw_picture, draw_scene, make_products

JPEG_QUALITY: Final = 90
FIXED_OBJECTS: Final = 3
_FIXED_SIZE: Final = (640, 480)
_MIXED_SIZES: Final = {
    (320, 240): 0.10,
    (640, 480): 0.35,
    (800, 600): 0.20,
    (1280, 720): 0.25,
    (1920, 1080): 0.10,
}
"""Width and height in pixels, and the share of pictures: thumbnails to phone cameras, most of them scaled down by an app."""
_MOST_MIXED_OBJECTS: Final = 6
_PRODUCT_COUNT: Final = 30
_VIEWS: Final = 4
"""Pictures of each product."""
_PRODUCT_PX: Final = 256


@dataclass(frozen=True)
class Shelf:
    """A picture to recognise."""

    content: bytes
    most_objects: int
    """That are asked for."""


@dataclass(frozen=True)
class ProductPicture:
    """A picture for a gallery."""

    item_id: str
    label: str
    content: bytes


def shelves(kind: WorkloadKind, count: int, seed: int) -> Iterator[Shelf]:
    """Draw `count` shelves; a tenth of a second for each of 640x480."""
    products = make_products(seed, _PRODUCT_COUNT, "demo")
    for number in range(count):
        if kind is WorkloadKind.FIXED:
            (width, height), most = _FIXED_SIZE, FIXED_OBJECTS
        else:
            (width, height), most = _mixed_size(number, count), 1 + number % _MOST_MIXED_OBJECTS
        scene = draw_scene(products, np.random.default_rng([seed, 1, number]), width, height)
        yield Shelf(jpeg(scene.image), most)


def product_pictures(seed: int) -> Iterator[ProductPicture]:
    """Draw the products that stand on the shelves of the same seed, several views of each."""
    for number, product in enumerate(make_products(seed, _PRODUCT_COUNT, "demo")):
        for view in range(_VIEWS):
            picture = draw_picture(product, np.random.default_rng([seed, 2, number, view]), _PRODUCT_PX)
            yield ProductPicture(f"{number}-{view}", product.label, jpeg(picture))


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Return uint8 [H, W, 3] RGB as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _mixed_size(number: int, count: int) -> tuple[int, int]:
    """Return sizes in their shares, by the middles of equal steps: no draw could be nearer."""
    place = (number + 0.5) / count
    bounds = np.cumsum(list(_MIXED_SIZES.values()))
    return list(_MIXED_SIZES)[min(int(np.searchsorted(bounds, place)), len(bounds) - 1)]
