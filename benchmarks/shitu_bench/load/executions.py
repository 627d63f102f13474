"""The batches that Triton ran of all its models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from shitu_bench.errors import BenchError
from shitu_bench.serving.batches import Executions, executions_of

_TIMEOUT_S: Final = 10.0


def executions(triton_address: str) -> dict[str, Executions]:
    """Return what Triton ran until now, by model, all versions together.

    Raises:
        BenchError: it does not answer.
    """
    with grpc.insecure_channel(triton_address) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            statistics = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(), timeout=_TIMEOUT_S).model_stats
        except grpc.RpcError as error:
            raise BenchError(f"Triton at {triton_address} told no statistics: {error}") from error
    return executions_of(statistics)


def added(before: Mapping[str, Executions], after: Mapping[str, Executions]) -> dict[str, Executions]:
    """Return what was run between two moments, by model; models that ran nothing are left out."""
    models = {name: now.since(before.get(name, Executions({}))) for name, now in after.items()}
    return {name: model for name, model in models.items() if model.batch_count}


def described(model: Executions) -> dict[str, Any]:
    """Return what a model ran, as it is kept in results."""
    return {
        "execution_count": model.batch_count,
        "item_count": model.item_count,
        "mean_batch": round(model.mean_size, 3),
        "batches": {str(size): count for size, count in model.counts.items()},
    }
