"""Paddle against ONNX Runtime on fixed pictures: the gate that every exported model passes before it is placed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime
import paddle
from numpy.typing import NDArray

from shitu_models.boxes import nms
from shitu_models.preprocessing import resize
from shitu_models.specs import DET_BOXES, DET_SCORES, EMBEDDING, PIXELS, ModelSpec, Task
from shitu_train.arrays import float32
from shitu_train.conversion.graph import RAW_BOXES, RAW_SCORES, with_raw_outputs
from shitu_train.errors import ParityError
from shitu_train.render import draw_picture, draw_scene, make_products
from shitu_train.tensors import normalise

Layer = Callable[[paddle.Tensor], Any]
Outputs = list[NDArray[np.float32]]
Rows = Sequence[Sequence[NDArray[Any]]]
"""Outputs of each picture."""

MOST_DIFFERENCE = 1e-4
LEAST_COSINE = 0.99999
LEAST_MATCHED = 0.98
BATCHES = (1, 3, 8)


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference, and smallest cosine, over all pictures and outputs.

    Boxes are compared in units of the picture's side (pixels over the input size), so that one limit serves all outputs.
    """

    max_abs_difference: float
    min_cosine: float
    """Where boxes are compared that two suppressions left: the share of them that agree."""
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


def check_parity(layer: Layer, onnx_bytes: bytes, spec: ModelSpec) -> Parity:
    """Compares the Paddle layer (as it was exported) with the served graph, in batches of 1, 3 and 8.

    Of a detector all boxes and scores are compared before the suppression, and the graph's suppression with a reference of it on
    the graph's own boxes: of boxes that score alike to the last digit, Paddle and ONNX Runtime may keep different ones.

    Args:
        layer: normalised pictures float32 [n, 3, S, S] to embeddings [n, d], or to boxes [n, cells, 4] and scores [n, cells].
        onnx_bytes: the served graph.
        spec: the model.

    Raises:
        ParityError: a difference is over 1e-4 or a cosine under 0.99999, a value is NaN or infinite, or a detector finds
            no box on the pictures, so that there is nothing to compare.
    """
    pictures = fixed_pictures(spec)
    if spec.task is Task.ENCODER:
        wanted, got = _vectors(layer, pictures, spec), _onnx_outputs(onnx_bytes, [EMBEDDING], pictures)
    else:
        wanted, got = _detections(layer, onnx_bytes, pictures, spec)
    return _checked(wanted, _finite(got, "ONNX", spec), spec)


def check_recovery(layer: Layer, rows: Rows, spec: ModelSpec) -> Parity:
    """Compares a layer with what the exported program, from which its weights were recovered, gave for the fixed pictures.

    Args:
        layer: as for `check_parity`.
        rows: the program's outputs of each of `fixed_pictures`.
        spec: the model.

    Raises:
        ParityError: as `check_parity`.
    """
    outputs = _paddle_outputs(layer, fixed_pictures(spec), spec)
    if spec.task is Task.ENCODER:
        return _checked(_program_outputs(rows, spec), _finite([_unit(outputs[0])], "the recovered layer", spec), spec)
    found = _in_shares(_suppressed(outputs[0], outputs[1], spec), spec)
    return _same_boxes(_program_outputs(rows, spec), _finite(found, "the recovered layer", spec), spec)


def check_program(rows: Rows, onnx_bytes: bytes, spec: ModelSpec) -> Parity:
    """Compares a served graph with the program that it was converted from, as it is; a detector at batch 1.

    Raises:
        ParityError: as `check_parity`.
    """
    pictures = fixed_pictures(spec)
    wanted = _program_outputs(rows, spec)
    if spec.task is Task.ENCODER:
        return _checked(wanted, _finite(_onnx_outputs(onnx_bytes, [EMBEDDING], pictures), "ONNX", spec), spec)
    got = _in_shares(_onnx_outputs(onnx_bytes, [DET_BOXES, DET_SCORES], pictures, (1,) * len(pictures)), spec)
    return _same_boxes(wanted, _finite(got, "ONNX", spec), spec)


def _same_boxes(wanted: Outputs, got: Outputs, spec: ModelSpec) -> Parity:
    """Compares what two suppressions left, box by box.

    Where two boxes score alike, or overlap just as much as is allowed, two computations may keep different ones and order them
    differently; and ONNX's suppression, other than Paddle's, looks at all boxes and not at the best `nms_candidates`, so that it
    may leave more weak ones, which are not counted. Boxes of at least half of a picture's best score are counted by themselves.
    """
    every, found = _rows(wanted), _rows(got)
    directions = ((every, found), (_strong(every), found), (_strong(found), every))
    pairs = [_near_rows(left, right) for lefts, rights in directions for left, right in zip(lefts, rights, strict=True)]
    counts = [sum(len(left) for left in lefts) for lefts, _ in directions]
    matched = [sum(len(left) for left, _ in pairs[i * len(every) : (i + 1) * len(every)]) for i in range(3)]
    share = min(n / max(count, 1) for n, count in zip(matched, counts, strict=True))
    if not share >= LEAST_MATCHED:
        raise ParityError(
            f"{spec.name}: expected a difference under {MOST_DIFFERENCE} for {LEAST_MATCHED:.0%} of the boxes, all and the best "
            f"alike, got {share:.1%}"
        )
    left, right = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    return Parity(float(np.abs(left - right).max()), float(share), len(wanted[0]))


def _strong(rows: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    return [boxes[boxes[:, 4] >= 0.5 * boxes[:, 4].max(initial=0)] for boxes in rows]


def _near_rows(
    left: NDArray[np.float32], right: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Those rows of `left` that have an equal among `right`, up to MOST_DIFFERENCE, and these."""
    if not len(left) or not len(right):
        return left[:0], right[:0]
    apart = np.abs(left[:, np.newaxis] - right[np.newaxis]).max(axis=2)
    near = apart.min(axis=1) < MOST_DIFFERENCE
    return left[near], right[apart.argmin(axis=1)][near]


def _rows(outputs: Outputs) -> list[NDArray[np.float32]]:
    """Of each picture the boxes with their scores, float32 [n, 5], without the padding."""
    return [np.hstack([b, s[:, np.newaxis]])[s > 0] for b, s in zip(*outputs, strict=True)]


def network_input(pictures: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.float32]:
    """Pictures uint8 [n, S, S, 3] as an exported program takes them, float32 [n, 3, S, S]."""
    return float32(normalise(pictures.astype(np.float32), spec).numpy())


def _program_outputs(rows: Rows, spec: ModelSpec) -> Outputs:
    """What a program gave for each picture, in the shape of the served outputs."""
    if spec.task is Task.ENCODER:
        return _finite([_unit(np.concatenate([row[0] for row in rows]))], "the exported program", spec)
    boxes = np.zeros((len(rows), spec.max_boxes, 4), np.float32)
    scores = np.zeros((len(rows), spec.max_boxes), np.float32)
    for i, row in enumerate(rows):
        found = row[0].reshape(-1, 6)[: spec.max_boxes]
        boxes[i, : len(found)], scores[i, : len(found)] = found[:, 2:], found[:, 1]
    _check_finds(scores, spec)
    return _finite(_in_shares([boxes, scores], spec), "the exported program", spec)


def _check_finds(scores: NDArray[np.float32], spec: ModelSpec) -> None:
    if not (scores > spec.nms_min_score).any():
        raise ParityError(
            f"{spec.name}: expected a box that scores over {spec.nms_min_score} on the fixed pictures, got none, "
            "so there is nothing to compare; train the detector longer"
        )


def _in_shares(outputs: Outputs, spec: ModelSpec) -> Outputs:
    """Boxes over the input size, so that one limit serves all outputs; scores as they are."""
    boxes, scores = outputs
    return [boxes / np.float32(spec.input_size), scores]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _checked(wanted: Outputs, got: Outputs, spec: ModelSpec) -> Parity:
    parity = _compare(wanted, got, len(wanted[0]))
    if not (parity.max_abs_difference < MOST_DIFFERENCE and parity.min_cosine > LEAST_COSINE):
        raise ParityError(
            f"{spec.name}: expected a difference under {MOST_DIFFERENCE} and a cosine over {LEAST_COSINE}, got {parity}"
        )
    return parity


def _vectors(layer: Layer, pictures: NDArray[np.uint8], spec: ModelSpec) -> Outputs:
    (vectors,) = _finite(_paddle_outputs(layer, pictures, spec), "Paddle", spec)
    return _finite([_unit(vectors)], "Paddle", spec)


def _detections(
    layer: Layer, onnx_bytes: bytes, pictures: NDArray[np.uint8], spec: ModelSpec
) -> tuple[Outputs, Outputs]:
    """What is wanted and what came: boxes (over the input size) and scores before the suppression, then after it."""
    boxes, scores = _finite(_paddle_outputs(layer, pictures, spec), "Paddle", spec)
    _check_finds(scores, spec)
    names = [RAW_BOXES, RAW_SCORES, DET_BOXES, DET_SCORES]
    raw_boxes, raw_scores, *served = _onnx_outputs(with_raw_outputs(onnx_bytes, spec), names, pictures)
    _finite([raw_boxes, raw_scores], "ONNX", spec)
    suppressed = _suppressed(raw_boxes, raw_scores, spec)
    return (
        [*_in_shares([boxes, scores], spec), *_in_shares(suppressed, spec)],
        [*_in_shares([raw_boxes, raw_scores], spec), *_in_shares(served, spec)],
    )


def _paddle_outputs(layer: Layer, pictures: NDArray[np.uint8], spec: ModelSpec) -> Outputs:
    """The layer's outputs, in batches of 4: a large model needs much memory for each picture."""
    with paddle.no_grad():
        parts = [
            _as_list(layer(normalise(pictures[start : start + 4].astype(np.float32), spec)))
            for start in range(0, len(pictures), 4)
        ]
    return [np.concatenate([part.numpy() for part in column]) for column in zip(*parts, strict=True)]


def _as_list(outputs: Any) -> list[paddle.Tensor]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _finite(outputs: Outputs, side: str, spec: ModelSpec) -> Outputs:
    wrong = sum(int((~np.isfinite(output)).sum()) for output in outputs)
    if wrong:
        raise ParityError(f"{spec.name}: expected finite values from {side}, got {wrong} that are NaN or infinite")
    return outputs


def _suppressed(boxes: NDArray[np.float32], scores: NDArray[np.float32], spec: ModelSpec) -> Outputs:
    """The reference of the NMS in the graph: zero-padded boxes and scores."""
    all_boxes = np.zeros((len(boxes), spec.max_boxes, 4), np.float32)
    all_scores = np.zeros((len(boxes), spec.max_boxes), np.float32)
    for i, (own_boxes, own_scores) in enumerate(zip(boxes, scores, strict=True)):
        best = np.argsort(-own_scores, kind="stable")[: spec.nms_candidates]
        best = best[own_scores[best] > spec.nms_min_score]
        kept = best[nms(own_boxes[best], own_scores[best], spec.nms_iou)][: spec.max_boxes]
        all_boxes[i, : len(kept)], all_scores[i, : len(kept)] = own_boxes[kept], own_scores[kept]
    return [all_boxes, all_scores]


def _onnx_outputs(
    onnx_bytes: bytes, names: list[str], pictures: NDArray[np.uint8], batches: Sequence[int] = BATCHES
) -> Outputs:
    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    starts = np.cumsum([0, *batches])
    parts = [session.run(names, {PIXELS: pictures[a:b]}) for a, b in pairwise(starts)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _compare(wanted: Outputs, got: Outputs, pictures: int) -> Parity:
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
