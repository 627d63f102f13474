"""A detector and an encoder that compute nothing: what is left of a request's time is the server's own work.

They take and return the tensors of the demo models, so that as many bytes go to Triton and back.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

from shitu_models.cards import CARD_FILE, ModelCard, Source, write_card
from shitu_models.repository import WEIGHTS_FILE
from shitu_models.specs import DEMO_DET, DEMO_REC, DET_BOXES, DET_SCORES, EMBEDDING, PIXELS, ModelSpec, Precision
from shitu_models.triton_config import write_configs

ZERO_DET: Final = replace(DEMO_DET, name="zero_det")
ZERO_REC: Final = replace(DEMO_REC, name="zero_rec")
_OPSET: Final = 17
_IR_VERSION: Final = 8
_BOXES: Final = ((0.05, 0.2, 0.3, 0.8), (0.37, 0.2, 0.62, 0.8), (0.7, 0.2, 0.95, 0.8))
"""x1 y1 x2 y2 as shares of the picture."""
_SCORES: Final = (0.9, 0.8, 0.7)


def place_zero_models(repository: Path) -> None:
    """Write both models into a folder, as the converter places models."""
    boxes = np.zeros((1, ZERO_DET.max_boxes, 4), np.float32)
    boxes[0, : len(_BOXES)] = np.array(_BOXES, np.float32) * ZERO_DET.input_size
    scores = np.zeros((1, ZERO_DET.max_boxes), np.float32)
    scores[0, : len(_SCORES)] = _SCORES
    dimension = ZERO_REC.embedding_dimension
    vector = np.full((1, dimension), dimension**-0.5, np.float32)
    _place(repository, ZERO_DET, {DET_BOXES: boxes, DET_SCORES: scores})
    _place(repository, ZERO_REC, {EMBEDDING: vector})


def _place(repository: Path, spec: ModelSpec, outputs: dict[str, NDArray[np.float32]]) -> None:
    folder = repository / spec.name / "1"
    folder.mkdir(parents=True)
    weights: bytes = _constant_graph(spec, outputs).SerializeToString()
    (folder / WEIGHTS_FILE).write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    write_card(folder / CARD_FILE, ModelCard(spec, spec.name, Precision.FP32, digest, Source("layer", {}), 0.0, 1.0))
    write_configs(repository, [spec])


def _constant_graph(spec: ModelSpec, outputs: dict[str, NDArray[np.float32]]) -> Any:
    """Return a graph whose outputs are constants, repeated for each picture of the batch; the pixels are not read."""
    nodes = [
        helper.make_node("Shape", [PIXELS], ["count"], end=1),
        *(
            node
            for name, value in outputs.items()
            for node in (
                helper.make_node("Concat", ["count", f"{name}_ones"], [f"{name}_shape"], axis=0),
                helper.make_node("Expand", [f"{name}_row", f"{name}_shape"], [name]),
            )
        ),
    ]
    constants = [numpy_helper.from_array(value, f"{name}_row") for name, value in outputs.items()]
    ones = [
        numpy_helper.from_array(np.ones(value.ndim - 1, np.int64), f"{name}_ones") for name, value in outputs.items()
    ]
    size = spec.input_size
    graph = helper.make_graph(
        nodes,
        spec.name,
        [helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", size, size, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *value.shape[1:]])
            for name, value in outputs.items()
        ],
        [*constants, *ones],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    checker.check_model(model)
    return model
