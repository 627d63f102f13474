"""Triton itself, over its gRPC: what it ran and with what, and batches sent past the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from typing_extensions import Self

from shitu_bench.errors import BenchError
from shitu_bench.models.sessions import SessionPlan
from shitu_bench.serving.batches import Executions, executions_of

_TIMEOUT_S: Final = 20.0
_INFERENCE_TIMEOUT_S: Final = 120.0
_SESSION: Final = "session."


class BenchTriton:
    """A connection to a Triton, for measurements; the server has one of its own."""

    def __init__(self, address: str) -> None:
        self.address: Final = address

    def __enter__(self) -> Self:
        self._channel = grpc.insecure_channel(self.address)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def executions(self, model: str = "") -> dict[str, Executions]:
        """Return by model how many batches of each size ran since it was loaded, in all its versions; all models where none is named.

        Raises:
            BenchError: Triton does not answer, or has not the model.
        """
        answer = self._asked(self._stub.ModelStatistics, service_pb2.ModelStatisticsRequest(name=model))
        return executions_of(answer.model_stats)

    def session_plan(self, model: str) -> SessionPlan:
        """Return how the backend opens a model's session on the CPU. Raises BenchError."""
        parameters: Mapping[str, Any] = self.config(model).parameters
        values = {name: parameters[name].string_value for name in parameters}
        entries = {name: value for name, value in values.items() if name.startswith(_SESSION)}
        return SessionPlan(int(values.get("intra_op_thread_count", "0")), entries=entries)

    def config(self, model: str) -> Any:
        """Return a model's configuration, a `ModelConfig` of Triton's protocol. Raises BenchError."""
        return self._asked(self._stub.ModelConfig, service_pb2.ModelConfigRequest(name=model)).config

    def infer(self, request: Any) -> None:
        """Run a model on a `ModelInferRequest`. Raises BenchError."""
        self._asked(self._stub.ModelInfer, request, _INFERENCE_TIMEOUT_S)

    def _asked(self, call: Any, request: Any, timeout_s: float = _TIMEOUT_S) -> Any:
        try:
            return call(request, timeout=timeout_s)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)  # noqa: PT017
            raise BenchError(
                f"Triton at {self.address} did not answer: {error.code().name} {error.details()}"
            ) from error
