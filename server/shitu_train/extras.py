"""Modules that need the train extra, imported only where they are used."""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType

from shitu_train.errors import TrainError

_PACKAGES = frozenset({"paddle", "paddle2onnx", "onnx", "yaml"})


def paddle_module(name: str) -> ModuleType:
    """Return a module that needs Paddle.

    Raises:
        TrainError: the train extra is not installed.
    """
    # What Paddle says at its import and of its own graphs concerns nobody who converts a model.
    os.environ.setdefault("GLOG_minloglevel", "2")
    warnings.filterwarnings("ignore", message="No ccache found", category=UserWarning)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        raise TrainError(f"this needs {error.name}: pip install 'shitu[train]'") from error
