"""Random weights whose features and scores vary from picture to picture, so that a comparison of outputs means something.

Knows Paddle and numpy alone: the environment of the peers, which has nothing of ours installed, uses it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray

CELLS_OVER_HALF = 60
"""Of each picture's cells at least so many score over 0.5 at a detector; the suppression leaves some of them."""


def spread(layer: Any, pictures: Any, seed: int = 1) -> Any:
    """Give a layer such weights, and return it.

    Args:
        layer: an encoder or a detector; its batch normalisations take the statistics of `pictures`.
        pictures: float32 [n, 3, S, S], normalised.
        seed: the same seed gives the same weights.
    """
    rng = np.random.default_rng(seed)
    paddle.seed(seed)  # while normalisations take their statistics, dropout draws
    for name, parameter in layer.named_parameters():
        parameter.set_value(_values(name, parameter.shape, rng))
    for norm in _norms(layer):
        # Activations that are mostly on keep differences between pictures, and rounding errors, about as large as they are.
        norm.bias.set_value(rng.normal(0.6, 0.2, norm.bias.shape).astype(np.float32))
    _calibrate(layer, pictures)
    layer.eval()
    if hasattr(layer, "head"):
        _shift_scores(layer, pictures)
    return layer


def _values(name: str, shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.float32]:
    if name.endswith("bias"):
        return rng.normal(0, 0.2, shape).astype(np.float32)
    if len(shape) == 1:  # gains of normalisations
        return rng.uniform(0.3, 0.7, shape).astype(np.float32)
    if name.endswith(("pos_embed", "cls_token")):
        return rng.normal(0, 0.3, shape).astype(np.float32)
    is_convolution = len(shape) == 4  # noqa: PLR2004  # out, in, height, width
    fan_in = int(np.prod(shape[1:])) if is_convolution else shape[0]
    return rng.normal(0, 1.3 / np.sqrt(fan_in), shape).astype(np.float32)


def _norms(layer: Any) -> list[Any]:
    return [part for part in layer.sublayers() if isinstance(part, (paddle.nn.BatchNorm2D, paddle.nn.BatchNorm1D))]


def _calibrate(layer: Any, pictures: Any) -> None:
    norms = _norms(layer)
    layer.train()
    for norm in norms:
        norm._momentum = 0.0  # noqa: SLF001  # Paddle has no other way to take over the statistics of one batch
    with paddle.no_grad():
        layer(pictures)
    for norm in norms:
        norm._momentum = 0.9  # noqa: SLF001
        # A channel that hardly varies would be blown up until rounding errors are all that it says.
        variance = norm._variance.numpy()  # noqa: SLF001
        norm._variance.set_value(np.maximum(variance, 0.01 * variance.mean()))  # noqa: SLF001


def _shift_scores(detector: Any, pictures: Any) -> None:
    with paddle.no_grad():
        logits = detector(pictures)[:, :, 0].numpy()
    shift = -np.sort(logits, axis=1)[:, -CELLS_OVER_HALF].min()
    for level in range(4):
        bias = getattr(detector.head, f"head_cls{level}").bias
        bias.set_value(bias.numpy() + np.eye(1, bias.shape[0], dtype=np.float32)[0] * shift)
