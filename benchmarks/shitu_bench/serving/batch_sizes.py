"""Batches of every size that models take, sent to Triton itself: a load makes the large ones by chance only."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, Final

from tritonclient.grpc import service_pb2

from shitu_bench.serving.triton import BenchTriton

_RUNS: Final = 2
"""At the second batch of a size ONNX Runtime takes memory by the plan that it made at the first, and keeps it; each instance of a model
does so for itself, so that this is sure for one only."""


def run_every_batch_size(triton_address: str, models: Iterable[str]) -> None:
    """Let each model run batches of black pictures, of each size that its configuration allows.

    Raises:
        BenchError: Triton does not answer, or a model fails.
    """
    with BenchTriton(triton_address) as triton:
        for model in models:
            config = triton.config(model)
            for size in range(config.max_batch_size, 0, -1):
                for _ in range(_RUNS):
                    triton.infer(_black(config, size))


def _black(config: Any, size: int) -> Any:
    (pixels,) = config.input
    shape = [size, *pixels.dims]
    request = service_pb2.ModelInferRequest(model_name=config.name, raw_input_contents=[bytes(prod(shape))])
    request.inputs.add(name=pixels.name, datatype="UINT8", shape=shape)
    return request
