"""What a conversion may be asked for. Knows no Paddle, so that the command line can show it without."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from shitu_models.specs import Precision


class Graph(str, Enum):
    """Which operators a graph is made of."""

    FUSED = "fused"
    """ONNX Runtime's own for attention and GELU; for its CPU and CUDA providers."""
    PLAIN = "plain"
    """ONNX alone; for TensorRT and OpenVINO, which fuse by themselves."""


@dataclass(frozen=True)
class ConversionOptions:
    """What becomes of a model."""

    repository: Path
    name: str = ""
    """In the repository; the architecture's, with the precision behind it where that is reduced, where empty."""
    architecture: str = ""
    """Of the registry; found out where empty."""
    precision: Precision = Precision.FP32
    graph: Graph = Graph.FUSED
