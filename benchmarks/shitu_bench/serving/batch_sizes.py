"""Batches of every size that models take, sent to Triton itself: a load makes the large ones by chance only."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from shitu_bench.errors import BenchError

_TIMEOUT_S: Final = 120.0
_RUNS: Final = 2
"""At the second batch of a size ONNX Runtime takes memory by the plan that it made at the first, and keeps it; each instance of a model
does so for itself, so that this is sure for one only."""


def run_every_batch_size(triton_address: str, models: Iterable[str]) -> None:
    """Let each model run batches of black pictures, of each size that its configuration allows.

    Raises:
        BenchError: Triton does not answer, or a model fails.
    """
    with grpc.insecure_channel(triton_address) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            for model in models:
                config = stub.ModelConfig(service_pb2.ModelConfigRequest(name=model), timeout=_TIMEOUT_S).config
                for size in range(config.max_batch_size, 0, -1):
                    for _ in range(_RUNS):
                        stub.ModelInfer(_black(config, size), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise BenchError(f"Triton at {triton_address} did not run batches of every size: {error}") from error


def _black(config: Any, size: int) -> Any:
    (pixels,) = config.input
    shape = [size, *pixels.dims]
    request = service_pb2.ModelInferRequest(model_name=config.name, raw_input_contents=[bytes(prod(shape))])
    request.inputs.add(name=pixels.name, datatype="UINT8", shape=shape)
    return request
