"""Whether a gateway answers SERVING on its grpc.health.v1 service."""

from __future__ import annotations

from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shitu_server.addresses import joined

_PROBE_TIMEOUT_S: Final = 1.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  listening there, asking here


def is_serving(host: str, port: int) -> bool:
    """Return whether the server at this address, or on this host where the address is any, is serving."""
    target = _ANY_ADDRESS.get(host, host)
    with grpc.insecure_channel(joined(target, port)) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
