"""Pictures on which a detector finds 2 to 5 objects, and pictures of products for a gallery: drawn, seeded, as JPEG.

A detector with random weights finds a hundred things on every picture, of all scores. A threshold and pictures are chosen with which it
finds about three, with scores away from the threshold and boxes away from each other, so that rounding cannot make two servers differ.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from shitu_bench.errors import BenchError
from shitu_models.boxes import iou
from shitu_models.preprocessing import resize
from shitu_models.repository import placed_any, weights_path
from shitu_models.specs import DET_BOXES, DET_SCORES, PIXELS
from shitu_train.render import Product, draw_picture, draw_scene, make_products

WIDTH, HEIGHT = 640, 480
PICTURES: Final = 16
PRODUCTS: Final = 100
WISHED_OBJECTS: Final = 3
_FEWEST, _MOST = 2, 5
_CANDIDATES: Final = 128
_LEAST_MARGIN: Final = 2e-3
"""Between the threshold and any score."""
_MOST_IOU: Final = 0.4
"""Of two boxes of a picture: over .5 we drop one of them, which PaddleX never does."""
_LEAST_SIDE: Final = 8.0
"""Of a box inside the picture, in pixels: PaddleX fails with crops of nothing."""
_PRODUCT_SIDE: Final = 256
_JPEG_QUALITY: Final = 92


@dataclass(frozen=True)
class Pictures:
    """What is sent, and the threshold that belongs to it."""

    files: Sequence[bytes]
    """JPEG, 640 x 480."""
    threshold: float
    """Of the detector."""
    object_counts: Sequence[int]
    """Of each picture, by the graph that is served."""


@dataclass(frozen=True)
class _Candidate:
    file: bytes
    boxes: NDArray[np.float32]
    """[n, 4] in pixels of the picture, cut to it."""
    scores: NDArray[np.float32]
    """[n], descending."""

    def count(self, threshold: float) -> int:
        return int((self.scores > threshold).sum())

    def fits(self, threshold: float) -> bool:
        count = self.count(threshold)
        if not _FEWEST <= count <= _MOST or float(np.abs(self.scores - threshold).min()) < _LEAST_MARGIN:
            return False
        boxes = self.boxes[:count]
        overlaps = iou(boxes, boxes) - np.eye(count, dtype=np.float32)
        sides = boxes[:, 2:] - boxes[:, :2]
        return bool(overlaps.max() <= _MOST_IOU and sides.min() >= _LEAST_SIDE)


def chosen_pictures(repository: Path, detector: str, seed: int) -> Pictures:
    """Draw scenes, look at the detector's scores on them, and choose.

    Raises:
        BenchError: the detector finds nothing that is of use.
    """
    products = make_products(seed, PRODUCTS, "demo")
    files = [_scene(products, seed, number) for number in range(_CANDIDATES)]
    candidates = _detected(repository, detector, files)
    # Of all scores one could take, that with the most pictures that fit.
    scores = np.unique(np.concatenate([one.scores[: 2 * _MOST] for one in candidates]))
    thresholds = (scores[1:] + scores[:-1]) / 2
    threshold = float(max(thresholds, key=lambda value: sum(one.fits(float(value)) for one in candidates)))
    fitting = [one for one in candidates if one.fits(threshold)]
    if len(fitting) < PICTURES:
        raise BenchError(
            f"expected {PICTURES} of {_CANDIDATES} pictures with {_FEWEST} to {_MOST} clear objects, {detector} finds "
            f"{len(fitting)}; another seed draws other pictures"
        )
    chosen = _nearest_to_wished(fitting, threshold)
    return Pictures([one.file for one in chosen], threshold, [one.count(threshold) for one in chosen])


def product_pictures(seed: int) -> list[tuple[str, bytes]]:
    """Return of each product a label of its own and a picture."""
    drawn = [
        draw_picture(product, np.random.default_rng([seed, 1, number]), _PRODUCT_SIDE)
        for number, product in enumerate(make_products(seed, PRODUCTS, "demo"))
    ]
    return [(f"product-{number:03}", _jpeg(picture)) for number, picture in enumerate(drawn)]


def _nearest_to_wished(fitting: Sequence[_Candidate], threshold: float) -> list[_Candidate]:
    """Return so many that have about three objects on average, in the order in which they were drawn."""
    left, chosen = list(enumerate(fitting)), list[tuple[int, _Candidate]]()
    while len(chosen) < PICTURES:
        # What still has to come for the mean to be as it is wished.
        missing = WISHED_OBJECTS * (len(chosen) + 1) - sum(one.count(threshold) for _, one in chosen)
        best = min(left, key=lambda entry: abs(entry[1].count(threshold) - missing))
        left.remove(best)
        chosen.append(best)
    return [one for _, one in sorted(chosen, key=lambda entry: entry[0])]


def _scene(products: Sequence[Product], seed: int, number: int) -> bytes:
    return _jpeg(draw_scene(products, np.random.default_rng([seed, 0, number]), WIDTH, HEIGHT).image)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _detected(repository: Path, detector: str, files: Sequence[bytes]) -> list[_Candidate]:
    spec = placed_any(repository, detector).spec
    session: Any = onnxruntime.InferenceSession(str(weights_path(repository, spec)), providers=["CPUExecutionProvider"])
    scale = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32)
    found = []
    for file in files:
        pixels = resize(np.asarray(Image.open(io.BytesIO(file))), spec)[None]
        (boxes,), (scores,) = session.run([DET_BOXES, DET_SCORES], {PIXELS: pixels})
        found.append(_Candidate(file, np.clip(boxes * scale / spec.input_size, 0, scale), scores))
    return found
