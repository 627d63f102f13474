# ruff: noqa: INP001  # a script for another interpreter, in no package
# mypy: disable-error-code="import-not-found,attr-defined"
"""Run by the peer's interpreter: says as JSON what stands in its environment, or fails where PaddleX cannot serve from it."""

import json
import platform
import sys
from importlib.metadata import version

import faiss  # noqa: F401  # without them nothing is served
import fastapi  # noqa: F401
import paddle
import paddlex  # noqa: F401
from paddlex.inference.utils.misc import is_mkldnn_available

PACKAGES = ("paddlex", "paddlepaddle", "faiss-cpu", "numpy", "opencv-contrib-python", "fastapi", "uvicorn", "starlette")

if __name__ == "__main__":
    facts = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    sys.stdout.write(
        json.dumps({"versions": facts, "onednn": is_mkldnn_available(), "cuda": paddle.is_compiled_with_cuda()}) + "\n"
    )
