"""Runs paddle2onnx in a process of its own, because it may end the process it runs in."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import paddle

from shitu_train.errors import ConversionError

OPSET = 17
TIME_LIMIT_S = 600.0
# Its default optimiser installs packages while it exports and is reported to drop casts (Paddle2ONNX issue 1565).
_SCRIPT = """
import sys, paddle2onnx
paddle2onnx.export(sys.argv[1], sys.argv[2], sys.argv[3], opset_version=int(sys.argv[4]), optimize_tool="None")
"""


def export_layer(layer: paddle.nn.Layer, input_px: int) -> onnx.ModelProto:
    """Returns the plain ONNX graph of `layer` (its `forward` takes normalised pictures [n, 3, S, S]).

    Raises:
        ConversionError: paddle2onnx failed; the message holds the end of its output.
    """
    layer.eval()
    spec = paddle.static.InputSpec([None, 3, input_px, input_px], "float32", "image")
    with tempfile.TemporaryDirectory(prefix="shitu-export-") as folder:
        saved = Path(folder) / "paddle_model"
        paddle.jit.save(layer, str(saved), input_spec=[spec])
        return export_program(saved.with_suffix(".json"))


def export_program(program: Path) -> onnx.ModelProto:
    """Returns the plain ONNX graph of `<stem>.json` or `<stem>.pdmodel` with its `<stem>.pdiparams`. Raises as `export_layer`."""
    with tempfile.TemporaryDirectory(prefix="shitu-export-") as folder:
        plain = Path(folder) / "plain.onnx"
        arguments = [str(program), str(program.with_suffix(".pdiparams")), str(plain), str(OPSET)]
        _run([sys.executable, "-c", _SCRIPT, *arguments])
        if not plain.exists():
            raise ConversionError(f"paddle2onnx wrote nothing for {program}")
        return onnx.load(str(plain))


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConversionError(f"paddle2onnx did not end within {TIME_LIMIT_S:g} s") from error
    if done.returncode != 0:
        raise ConversionError(f"paddle2onnx ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
