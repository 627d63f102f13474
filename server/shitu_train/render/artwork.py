"""The flat label of a product: pattern, word mark, emblem and variant band."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from shitu_train.arrays import float32
from shitu_train.render.product import Colour, Product

ART_HEIGHT_PX = 288
# A label on a round body is wider than the body's diameter: it reaches beyond the visible half.
ROUND_WRAP = 1.35
_HERSHEY = (
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
)
# Height bands of the label (top of the word mark, emblem centre, variant band), one row per `layout`.
_LAYOUTS = ((0.10, 0.55, 0.80), (0.56, 0.30, 0.84), (0.36, 0.18, 0.74), (0.08, 0.74, 0.44))
_Mask = NDArray[np.uint8]


@lru_cache(maxsize=4096)
def label_art(product: Product) -> NDArray[np.uint8]:
    """The product's flat label, uint8 RGB [288, width, 3]; do not write to it (it is cached)."""
    wrap = ROUND_WRAP if product.kind in ("can", "bottle") else 1.0
    # A bottle's label covers about half of its height, a can's nearly all.
    height_share = 0.5 if product.kind == "bottle" else 1.0
    width = int(np.clip(ART_HEIGHT_PX * product.aspect * wrap / height_share, 96, 420))
    art = np.empty((ART_HEIGHT_PX, width, 3), np.uint8)
    art[:] = product.base
    rng = np.random.default_rng(product.art_seed)
    _PATTERN_MASKS[product.pattern](art, product, rng)
    top, emblem_y, band_y = _LAYOUTS[product.layout]
    _word_mark(art, product, top, rng)
    _emblem(art, product, emblem_y, rng)
    _variant_band(art, product, band_y)
    _small_print(art, product, rng)
    art.setflags(write=False)
    return art


def _grid(art: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    ys, xs = np.mgrid[0 : art.shape[0], 0 : art.shape[1]].astype(np.float32)
    return xs / art.shape[0], ys / art.shape[0]


def _paint(art: NDArray[np.uint8], where: NDArray[np.bool_], colour: Colour) -> None:
    art[where] = colour


def _plain(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    _, y = _grid(art)
    line = rng.uniform(0.02, 0.05)
    _paint(art, (y < line) | (y > 1 - line), product.accent)


def _stripes(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    x, _ = _grid(art)
    period = rng.uniform(0.08, 0.22)
    _paint(art, (x % period) < period * rng.uniform(0.2, 0.5), product.accent)


def _bars(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    _, y = _grid(art)
    period = rng.uniform(0.1, 0.3)
    _paint(art, ((y + rng.random()) % period) < period * rng.uniform(0.2, 0.5), product.accent)


def _diagonal(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    x, y = _grid(art)
    period = rng.uniform(0.12, 0.35)
    _paint(art, ((x + y * rng.choice((-1.0, 1.0, 0.5))) % period) < period * rng.uniform(0.25, 0.5), product.accent)


def _dots(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    x, y = _grid(art)
    period = rng.uniform(0.08, 0.18)
    row = np.floor(y / period)
    dx = (x + (row % 2) * period / 2) % period - period / 2
    _paint(art, np.hypot(dx, y % period - period / 2) < period * rng.uniform(0.22, 0.38), product.accent)


def _waves(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    x, y = _grid(art)
    crest = rng.uniform(0.3, 0.7) + rng.uniform(0.03, 0.1) * np.sin(x * rng.uniform(8, 22) + rng.uniform(0, 6))
    _paint(art, (y > crest) & (y < crest + rng.uniform(0.15, 0.4)), product.accent)


def _top(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    _, y = _grid(art)
    _paint(art, y < rng.uniform(0.2, 0.45), product.accent)


def _bottom(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    x, y = _grid(art)
    _paint(art, y > rng.uniform(0.55, 0.8) + rng.uniform(-0.2, 0.2) * (x - 0.3), product.accent)


def _split(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    x, y = _grid(art)
    _paint(art, x + (y - 0.5) * rng.uniform(-0.8, 0.8) > float(x.max()) / 2, product.accent)


def _chevron(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    x, y = _grid(art)
    period = rng.uniform(0.2, 0.4)
    _paint(art, ((y + np.abs(x - float(x.max()) / 2) * rng.uniform(0.5, 1.2)) % period) < period * 0.4, product.accent)


def _disc(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    x, y = _grid(art)
    radius = float(x.max()) * rng.uniform(0.35, 0.5)
    _paint(art, np.hypot(x - float(x.max()) / 2, y - rng.uniform(0.4, 0.6)) < radius, product.accent)


def _rays(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    x, y = _grid(art)
    angle = np.arctan2(y - rng.uniform(0.3, 0.7), x - float(x.max()) / 2)
    _paint(art, ((angle * rng.integers(5, 12) / np.pi) % 1.0) < rng.uniform(0.3, 0.5), product.accent)


def _checks(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    x, y = _grid(art)
    period = rng.uniform(0.07, 0.16)
    _paint(art, ((x // period + y // period) % 2 < 1) & (y > rng.uniform(0.3, 0.7)), product.accent)


_PATTERN_MASKS: dict[str, Callable[[NDArray[np.uint8], Product, np.random.Generator], None]] = {
    "plain": _plain, "stripes": _stripes, "bars": _bars, "diagonal": _diagonal, "dots": _dots, "waves": _waves, "top": _top,
    "bottom": _bottom, "split": _split, "chevron": _chevron, "disc": _disc, "rays": _rays, "checks": _checks,
}  # fmt: skip


@lru_cache(maxsize=4096)
def lettering_mask(text: str, lettering: int) -> _Mask:
    """`text` as a tight mask uint8 [h, w], 0 to 255, in one of six letterings (built-in fonts of Pillow and OpenCV only)."""
    if lettering < 2:
        font = ImageFont.load_default(64)
        stroke = 4 * lettering
        canvas = Image.new("L", (64 * len(text) + 64, 128))
        ImageDraw.Draw(canvas).text(
            (24, 20), text.upper() if lettering else text, fill=255, font=font, stroke_width=stroke
        )
        mask = np.asarray(canvas)
    else:
        mask = np.zeros((140, 60 * len(text) + 60), np.uint8)
        cv2.putText(mask, text, (20, 90), _HERSHEY[lettering - 2], 2.2, (255,), 7 if lettering < 4 else 5, cv2.LINE_AA)
    ys, xs = np.nonzero(mask > 40)
    return np.ascontiguousarray(mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1])


def _blend(art: NDArray[np.uint8], mask: _Mask, left: int, top: int, colour: Colour) -> None:
    """Paints `colour` through `mask` with its corner at (left, top), clipped to the label."""
    top, left = max(top, 0), max(left, 0)
    region = art[top : top + mask.shape[0], left : left + mask.shape[1]]
    alpha = mask[: region.shape[0], : region.shape[1], None].astype(np.float32) / 255
    region[:] = (region * (1 - alpha) + float32(colour) * alpha + 0.5).astype(np.uint8)


def _fit(mask: _Mask, width: int, height: int) -> _Mask:
    scale = min(width / mask.shape[1], 1.8 * height / mask.shape[0])
    size = max(int(mask.shape[1] * scale), 4), max(int(min(mask.shape[0] * scale, height)), 4)
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.uint8)


def _front_width(art: NDArray[np.uint8], product: Product) -> int:
    """The label's width that is seen at once, in pixels."""
    return int(art.shape[1] / (ROUND_WRAP if product.kind in ("can", "bottle") else 1.0))


def _word_mark(art: NDArray[np.uint8], product: Product, top: float, rng: np.random.Generator) -> None:
    height, width = art.shape[:2]
    front = _front_width(art, product)
    mask = _fit(lettering_mask(product.brand, product.lettering), int(front * 0.84), int(height * 0.26))
    left, upper = (width - mask.shape[1]) // 2, int(height * top)
    plate = product.pattern not in ("plain", "bottom", "top") or rng.random() < 0.3
    if plate:
        pad = max(height // 30, 4)
        corner = (left - pad, upper - pad), (left + mask.shape[1] + pad, upper + mask.shape[0] + pad)
        cv2.rectangle(art, *corner, product.base, -1)
        cv2.rectangle(art, *corner, product.ink, 2)
    _blend(art, mask, left, upper, product.ink)


def _emblem(art: NDArray[np.uint8], product: Product, centre_y: float, rng: np.random.Generator) -> None:
    height, width = art.shape[:2]
    size = int(min(_front_width(art, product) * 0.5, height * 0.3))
    mask = emblem_mask(product.emblem, size)
    left, top = (width - size) // 2, int(height * centre_y - size / 2)
    halo = np.asarray(cv2.dilate(mask, np.ones((7, 7), np.uint8)), np.uint8)
    _blend(art, halo, left, top, product.ink)
    _blend(art, mask, left, top, product.accent if rng.random() < 0.7 else product.base)


def _variant_band(art: NDArray[np.uint8], product: Product, band_y: float) -> None:
    height, width = art.shape[:2]
    top, bottom = int(height * band_y), int(height * min(band_y + 0.13, 0.99))
    art[top:bottom] = product.accent
    luma = 0.299 * product.accent[0] + 0.587 * product.accent[1] + 0.114 * product.accent[2]
    mask = _fit(lettering_mask(product.variant, 1), int(_front_width(art, product) * 0.7), int((bottom - top) * 0.7))
    ink = (255, 255, 255) if luma < 150 else (16, 16, 20)
    _blend(art, mask, (width - mask.shape[1]) // 2, (top + bottom - mask.shape[0]) // 2, ink)


def _small_print(art: NDArray[np.uint8], product: Product, rng: np.random.Generator) -> None:
    """Lines of unreadable small print near the foot."""
    height, width = art.shape[:2]
    for row in range(int(rng.integers(0, 3))):
        y = int(height * (0.95 + 0.018 * row))
        half = int(width * rng.uniform(0.1, 0.25))
        cv2.line(art, (width // 2 - half, y), (width // 2 + half, y), product.ink, 1)


@lru_cache(maxsize=256)
def emblem_mask(name: str, size_px: int) -> _Mask:
    """An emblem as a mask uint8 [size, size], 0 to 255."""
    big = 4 * size_px
    ys, xs = np.mgrid[0:big, 0:big].astype(np.float32)
    x, y = xs / big * 2 - 1, ys / big * 2 - 1
    inside = _emblem_inside(name, x, y)
    return np.asarray(
        cv2.resize((inside * 255).astype(np.uint8), (size_px, size_px), interpolation=cv2.INTER_AREA), np.uint8
    )


def _emblem_inside(name: str, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.bool_]:
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    shapes: dict[str, Callable[[], NDArray[np.bool_]]] = {
        "star": lambda: radius < 0.55 + 0.35 * np.cos(5 * angle),
        "disc": lambda: radius < 0.8,
        "leaf": lambda: (np.hypot(x - 0.55, y) < 1.05) & (np.hypot(x + 0.55, y) < 1.05) & (np.abs(x) > 0.04),
        "drop": lambda: np.where(y > 0.15, np.hypot(x, y - 0.2) < 0.6, np.abs(x) < 0.6 * (y + 0.95) / 1.1),
        "heart": lambda: x * x + (1.25 * (-y + 0.1) - 0.75 * np.sqrt(np.abs(x))) ** 2 < 0.72,
        "sun": lambda: (radius < 0.45) | ((radius > 0.55) & (radius < 0.92) & (np.cos(8 * angle) > 0.3)),
        "diamond": lambda: np.abs(x) * 1.3 + np.abs(y) < 0.9,
        "ring": lambda: (radius < 0.85) & (radius > 0.5),
        "hills": lambda: (y < 0.7) & ((y > 1.6 * np.abs(x + 0.25) - 0.8) | (y > 1.6 * np.abs(x - 0.4) - 0.3)),
        "cross": lambda: ((np.abs(x) < 0.28) | (np.abs(y) < 0.28)) & (np.maximum(np.abs(x), np.abs(y)) < 0.85),
        "fruit": lambda: (
            (np.hypot(x + 0.3, y - 0.3) < 0.5)
            | (np.hypot(x - 0.4, y - 0.1) < 0.45)
            | (np.abs(x - y * 0.2) < 0.06) & (y < 0)
        ),
        "bolt": lambda: (np.abs(x + 0.55 * y) < 0.28) & (np.abs(y) < 0.9) | (np.abs(y) < 0.15) & (np.abs(x) < 0.6),
    }
    return np.asarray(shapes[name](), np.bool_)
