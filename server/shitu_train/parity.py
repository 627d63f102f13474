"""Paddle against ONNX Runtime on fixed pictures: the gate that every exported model passes before it is placed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnxruntime
import paddle
from numpy.typing import NDArray

from shitu_models.boxes import nms
from shitu_models.preprocessing import resize
from shitu_models.specs import DET_BOXES, DET_SCORES, EMBEDDING, PIXELS, ModelSpec, Task
from shitu_train.arrays import float32
from shitu_train.errors import ParityError
from shitu_train.render import draw_picture, draw_scene, make_products
from shitu_train.training.encoder import normalise

MOST_DIFFERENCE = 1e-4
LEAST_COSINE = 0.99999
BATCHES = (1, 3, 8)


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference, and smallest cosine, over all pictures and outputs.

    Boxes are compared in units of the picture's side (pixels over the input size), so that one limit serves all outputs.
    """

    max_abs_difference: float
    min_cosine: float
    pictures: int


def fixed_pictures(spec: ModelSpec) -> NDArray[np.uint8]:
    """Twelve pictures uint8 RGB [12, S, S, 3]: drawn ones, noise, and flat black and white."""
    rng = np.random.default_rng(20)
    products = make_products(3, 12, "val")
    if spec.task is Task.ENCODER:
        drawn = [draw_picture(product, rng, 200) for product in products[:9]]
    else:
        drawn = [draw_scene(products, rng, 640, 480).image for _ in range(9)]
    side = spec.input_size
    noise = rng.integers(0, 256, (side, side, 3), np.uint8)
    flat = [np.full((side, side, 3), value, np.uint8) for value in (0, 255)]
    return np.stack([*(resize(picture, spec) for picture in drawn), noise, *flat])


def check_parity(layer: paddle.nn.Layer, onnx_bytes: bytes, spec: ModelSpec) -> Parity:
    """Compares the Paddle layer (as it was exported) with the served graph, in batches of 1, 3 and 8.

    Raises:
        ParityError: a difference is over 1e-4 or a cosine under 0.99999, a value is NaN or infinite, or a detector finds
            no box on the pictures, so that there is nothing to compare.
    """
    pictures = fixed_pictures(spec)
    wanted = _paddle_outputs(layer, pictures, spec)
    if spec.task is Task.DETECTOR and not wanted[1].any():
        raise ParityError(
            f"{spec.name}: expected a box that scores over {spec.nms_min_score} on the {len(pictures)} fixed pictures, "
            "got none, so there is nothing to compare; train the detector longer"
        )
    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    got = _finite(_onnx_outputs(session, pictures, spec), "ONNX", spec)
    parity = _compare(wanted, got, len(pictures))
    if not (parity.max_abs_difference < MOST_DIFFERENCE and parity.min_cosine > LEAST_COSINE):
        raise ParityError(
            f"{spec.name}: expected a difference under {MOST_DIFFERENCE} and a cosine over {LEAST_COSINE}, got {parity}"
        )
    return parity


def _paddle_outputs(layer: paddle.nn.Layer, pictures: NDArray[np.uint8], spec: ModelSpec) -> list[NDArray[np.float32]]:
    layer.eval()
    with paddle.no_grad():
        outputs = layer(normalise(pictures.astype(np.float32)))
    if spec.task is Task.ENCODER:
        (vectors,) = _finite([outputs.numpy()], "Paddle", spec)
        return _finite([float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))], "Paddle", spec)
    # Before the suppression, which would drop boxes whose score is NaN.
    boxes, scores = _finite([part.numpy() for part in outputs], "Paddle", spec)
    return _suppressed(boxes, scores, spec)


def _finite(outputs: list[NDArray[np.float32]], side: str, spec: ModelSpec) -> list[NDArray[np.float32]]:
    wrong = sum(int((~np.isfinite(output)).sum()) for output in outputs)
    if wrong:
        raise ParityError(f"{spec.name}: expected finite values from {side}, got {wrong} that are NaN or infinite")
    return outputs


def _suppressed(boxes: NDArray[np.float32], scores: NDArray[np.float32], spec: ModelSpec) -> list[NDArray[np.float32]]:
    """The reference of the NMS in the graph: zero-padded boxes (over the input size) and scores."""
    all_boxes = np.zeros((len(boxes), spec.max_boxes, 4), np.float32)
    all_scores = np.zeros((len(boxes), spec.max_boxes), np.float32)
    for i, (own_boxes, own_scores) in enumerate(zip(boxes, scores, strict=True)):
        best = np.argsort(-own_scores, kind="stable")[: spec.nms_candidates]
        best = best[own_scores[best] > spec.nms_min_score]
        kept = best[nms(own_boxes[best], own_scores[best], spec.nms_iou)][: spec.max_boxes]
        all_boxes[i, : len(kept)], all_scores[i, : len(kept)] = own_boxes[kept] / spec.input_size, own_scores[kept]
    return [all_boxes, all_scores]


def _onnx_outputs(
    session: onnxruntime.InferenceSession, pictures: NDArray[np.uint8], spec: ModelSpec
) -> list[NDArray[np.float32]]:
    names = [EMBEDDING] if spec.task is Task.ENCODER else [DET_BOXES, DET_SCORES]
    starts = np.cumsum([0, *BATCHES])
    parts = [session.run(names, {PIXELS: pictures[a:b]}) for a, b in pairwise(starts)]
    outputs = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if spec.task is Task.DETECTOR:
        outputs[0] = outputs[0] / float32(spec.input_size)
    return outputs


def _compare(wanted: list[NDArray[np.float32]], got: list[NDArray[np.float32]], pictures: int) -> Parity:
    differences, cosines = [], []
    for left, right in zip(wanted, got, strict=True):
        if left.shape != right.shape:
            raise ParityError(f"expected an output of shape {left.shape}, got {right.shape}")
        differences.append(float(np.abs(left - right).max()))
        for a, b in zip(
            left.reshape(pictures, -1).astype(np.float64), right.reshape(pictures, -1).astype(np.float64), strict=True
        ):
            lengths = np.linalg.norm(a) * np.linalg.norm(b)
            cosines.append(float(a @ b / lengths) if lengths else float(np.array_equal(a, b)))
    return Parity(float(np.max(differences)), float(np.min(cosines)), pictures)
