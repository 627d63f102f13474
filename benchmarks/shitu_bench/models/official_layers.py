"""The official architectures with random but spread weights: as layers, and as checkpoints like PaddleX's own."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import paddle

from shitu_bench.models.spread_weights import spread
from shitu_models.specs import SPECS
from shitu_train.architectures.catalogue import ARCHITECTURES
from shitu_train.conversion.parity import fixed_pictures
from shitu_train.tensors import normalise


def spread_layer(name: str, seed: int = 1) -> paddle.nn.Layer:
    """Return the layer of an official model, as it is trained."""
    spec = SPECS[name]
    pictures = normalise(fixed_pictures(spec).astype(np.float32), spec)
    return cast("paddle.nn.Layer", spread(ARCHITECTURES[name].build(spec.input_size), pictures, seed))


def write_checkpoint(name: str, folder: Path, seed: int = 1) -> Path:
    """Write a checkpoint like the official one, with the class centres that an encoder's loss had, and return its path."""
    state = spread_layer(name, seed).state_dict()
    if SPECS[name].embedding_dimension:
        state["head.fc.weight"] = paddle.randn([512, 7])
    path = folder / f"{name}_pretrained.pdparams"
    paddle.save(state, str(path))
    return path
