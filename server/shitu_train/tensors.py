"""Pictures as the networks take them."""

from __future__ import annotations

import numpy as np
import paddle
from numpy.typing import NDArray

from shitu_models.specs import ModelSpec
from shitu_train.arrays import float32


def normalise(pictures: NDArray[np.float32], spec: ModelSpec) -> paddle.Tensor:
    """Pictures float32 [n, S, S, 3] in 0 to 255 as a network takes them: [n, 3, S, S], less the mean, by the deviation."""
    mean, std = float32(spec.mean) * 255, float32(spec.std) * 255
    return paddle.to_tensor(np.ascontiguousarray(((pictures - mean) / std).transpose(0, 3, 1, 2)))
