"""How far a reduced precision moves what a model says, on products and scenes that are drawn anew each time from one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shitu_models.boxes import iou
from shitu_models.cards import Drift
from shitu_models.preprocessing import resize
from shitu_models.specs import DET_BOXES, DET_SCORES, EMBEDDING, PIXELS, ModelSpec, Precision, Task
from shitu_train.errors import DriftError
from shitu_train.evaluation import recall_at_1
from shitu_train.render import draw_picture, draw_scene, make_products

PRODUCTS: Final = 40
PICTURES_EACH: Final = 5
"""Two of them are the gallery, three are recognised: 120 queries, so that one lost is a change of 0.8 %."""
GALLERY_EACH: Final = 2
SCENES: Final = 12
LEAST_MEAN_IOU: Final = 0.99
"""Of a detector's boxes in both precisions: of a box of 100 px, corners that are a quarter of a pixel apart."""
_SEED: Final = 31
_BATCH: Final = 8


@dataclass(frozen=True)
class DriftLimits:
    """What a reduced precision may change."""

    least_mean_cosine: float
    """Of an encoder's vectors, 0..1."""
    least_recall_change: float
    """Negative: how much of recall@1 may be lost."""


def measured_drift(full: onnxruntime.InferenceSession, reduced: onnxruntime.InferenceSession, spec: ModelSpec) -> Drift:
    """Compare a model in FP32 with the same in a reduced precision."""
    return _of_encoder(full, reduced, spec) if spec.task is Task.ENCODER else _of_detector(full, reduced, spec)


def check_drift(drift: Drift, limits: DriftLimits, spec: ModelSpec, precision: Precision) -> None:
    """Raise DriftError where a reduced precision changes too much."""
    least_mean = limits.least_mean_cosine if spec.task is Task.ENCODER else LEAST_MEAN_IOU
    if not (drift.mean_cosine >= least_mean and drift.recall_change >= limits.least_recall_change):
        raise DriftError(
            f"{spec.name} in {precision.value}: expected a mean agreement of at least {least_mean} and a change of recall "
            f"of at least {limits.least_recall_change:+}, got {drift}; serve it in fp32"
        )


def _of_encoder(full: onnxruntime.InferenceSession, reduced: onnxruntime.InferenceSession, spec: ModelSpec) -> Drift:
    rng = np.random.default_rng(_SEED)
    products = make_products(_SEED, PRODUCTS, "val")
    drawn = [draw_picture(product, rng, 200) for product in products for _ in range(PICTURES_EACH)]
    pixels = np.stack([resize(picture, spec) for picture in drawn])
    labels = np.repeat(np.arange(PRODUCTS), PICTURES_EACH)
    is_query = np.arange(len(labels)) % PICTURES_EACH >= GALLERY_EACH
    vectors = [_vectors(session, pixels) for session in (full, reduced)]
    recalls = [recall_at_1(v[~is_query], labels[~is_query], v[is_query], labels[is_query]) for v in vectors]
    cosines = (vectors[0].astype(np.float64) * vectors[1]).sum(axis=1)
    return Drift(len(pixels), float(cosines.min()), float(cosines.mean()), recalls[1] - recalls[0])


def _vectors(session: onnxruntime.InferenceSession, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    parts = [
        session.run([EMBEDDING], {PIXELS: pixels[start : start + _BATCH]})[0] for start in range(0, len(pixels), _BATCH)
    ]
    return np.concatenate(parts)


def _of_detector(full: onnxruntime.InferenceSession, reduced: onnxruntime.InferenceSession, spec: ModelSpec) -> Drift:
    rng = np.random.default_rng(_SEED)
    products = make_products(_SEED, PRODUCTS, "val")
    agreements: list[float] = []
    wanted = False
    for _ in range(SCENES):
        pixels = resize(draw_scene(products, rng, 640, 480).image, spec)[np.newaxis]
        boxes = [_boxes(session, pixels, spec) for session in (full, reduced)]
        wanted = wanted or len(boxes[0]) > 0
        for left, right in (boxes, boxes[::-1]):  # boxes that were lost, and boxes that were invented
            best = iou(left, right).max(axis=1) if len(right) else np.zeros(len(left))
            agreements.extend(float(value) for value in best)
    if not wanted:
        raise DriftError(
            f"{spec.name}: expected boxes on the drawn scenes in fp32, got none, so there is nothing to compare"
        )
    lost = float(np.mean(np.asarray(agreements) < 0.5))
    return Drift(SCENES, min(agreements), float(np.mean(agreements)), -lost)


def _boxes(session: onnxruntime.InferenceSession, pixels: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.float32]:
    boxes, scores = session.run([DET_BOXES, DET_SCORES], {PIXELS: pixels})
    return np.asarray(boxes[0][scores[0] >= spec.default_threshold], np.float32)
