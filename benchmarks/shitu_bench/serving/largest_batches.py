"""The largest batches that models take, sent to Triton itself: a load makes them by chance only."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from shitu_bench.errors import BenchError

_TIMEOUT_S: Final = 120.0


def run_largest_batches(triton_address: str, models: Iterable[str]) -> None:
    """Let each model run one batch of black pictures, as large as its configuration allows.

    Raises:
        BenchError: Triton does not answer, or a model fails.
    """
    with grpc.insecure_channel(triton_address) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            for model in models:
                answer = stub.ModelConfig(service_pb2.ModelConfigRequest(name=model), timeout=_TIMEOUT_S)
                stub.ModelInfer(_largest(answer.config), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise BenchError(f"Triton at {triton_address} did not run the largest batches: {error}") from error


def _largest(config: Any) -> Any:
    (pixels,) = config.input
    shape = [config.max_batch_size, *pixels.dims]
    request = service_pb2.ModelInferRequest(model_name=config.name, raw_input_contents=[bytes(prod(shape))])
    request.inputs.add(name=pixels.name, datatype="UINT8", shape=shape)
    return request
