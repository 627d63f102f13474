"""From a trained layer to a checked `model.onnx` in the model repository."""

from __future__ import annotations

from pathlib import Path

import onnx
import paddle

from shitu_models.specs import ModelSpec, Task
from shitu_train.conversion.graph import complete_detector, complete_encoder
from shitu_train.conversion.paddle2onnx_process import export_layer
from shitu_train.conversion.parity import Parity, check_parity


def exported_graph(layer: paddle.nn.Layer, spec: ModelSpec) -> onnx.ModelProto:
    """The served ONNX graph of an encoder or of a DecodedDetector.

    Raises:
        ConversionError: paddle2onnx failed.
    """
    complete = complete_encoder if spec.task is Task.ENCODER else complete_detector
    return complete(export_layer(layer, spec.input_size), spec)


def export_model(layer: paddle.nn.Layer, spec: ModelSpec, repository: Path) -> Parity:
    """Writes `<repository>/<name>/1/model.onnx` if, and only if, it passes the parity gate.

    Raises:
        ConversionError: paddle2onnx failed.
        ParityError: the graph computes something else than the layer; nothing is written then.
    """
    content = exported_graph(layer, spec).SerializeToString()
    parity = check_parity(layer, content, spec)
    target = repository / spec.name / "1" / "model.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".tmp")
    unfinished.write_bytes(content)
    unfinished.replace(target)
    return parity
