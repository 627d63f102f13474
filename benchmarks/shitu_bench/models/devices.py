"""What models run on, and the environment of a process that measures them. Loads no library of models: commands are read at every start."""

from __future__ import annotations

import os
from enum import Enum
from typing import Final

from shitu_server.gallery.environment import search_environment
from shitu_server.processors import processor_count

_MOST_THREADS: Final = 8
"""As many as PaddleX's published figures were measured with."""


class Device(str, Enum):
    """What a model runs on."""

    CPU = "cpu"
    CUDA = "cuda"


def default_threads() -> int:
    """Return 8, or as many processors as there are."""
    return min(_MOST_THREADS, processor_count())


def measuring_environment(threads: int) -> dict[str, str]:
    """Return the environment of a process that measures: numpy and CUDA read it when they are loaded."""
    return {**os.environ, **search_environment(threads), "NVIDIA_TF32_OVERRIDE": "0"}
