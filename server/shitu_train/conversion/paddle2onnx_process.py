"""Runs paddle2onnx in a process of its own, because it may end the process it runs in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import paddle

from shitu_train.errors import ConversionError

OPSET = 17
TIME_LIMIT_S = 600.0
# Its default optimiser installs packages while it exports and is reported to drop casts (Paddle2ONNX issue 1565).
_SCRIPT = """
import sys, paddle2onnx
paddle2onnx.export(sys.argv[1], sys.argv[2], sys.argv[3], opset_version=int(sys.argv[4]), optimize_tool="None")
"""


def export_layer(layer: paddle.nn.Layer, input_px: int, folder: Path) -> Path:
    """Exports `layer` (its `forward` takes normalised pictures [n, 3, S, S]) and returns the path of the plain ONNX file in `folder`.

    Raises:
        ConversionError: paddle2onnx failed; the message holds the end of its output.
    """
    layer.eval()
    saved, plain = folder / "paddle_model", folder / "plain.onnx"
    spec = paddle.static.InputSpec([None, 3, input_px, input_px], "float32", "image")
    paddle.jit.save(layer, str(saved), input_spec=[spec])
    command = [sys.executable, "-c", _SCRIPT, f"{saved}.json", f"{saved}.pdiparams", str(plain), str(OPSET)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    if done.returncode != 0 or not plain.exists():
        raise ConversionError(f"paddle2onnx ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return plain
