"""Calls of a Milvus server, by the messages that pymilvus carries; its errors are translated here and nowhere else.

The client of pymilvus is not used: it drops the timestamps of writes, which tell when a search sees them, tries again by itself
after failures, logs a traceback for each, and knows no deadline that a call must keep.
"""

from __future__ import annotations

import base64
import logging
import math
import time
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc

from shitu_server.errors import (
    AlreadyExistsError,
    ConfigurationError,
    DeadlineExceededError,
    InternalError,
    NotFoundError,
    OverloadedError,
    ShituError,
    StorageError,
    UnavailableError,
)

_log = logging.getLogger(__name__)

READ_TIMEOUT_S: Final = 10.0
"""Longest wait for one call, also where the caller's deadline is later or there is none."""
WRITE_TIMEOUT_S: Final = 60.0
CHECK_TIMEOUT_S: Final = 1.0
RETRY_AFTER_S: Final = 1.0
CALLS_IN_FLIGHT: Final = 1024
MESSAGE_BYTES: Final = 256 * 1024 * 1024
"""Milvus itself refuses to send or to take more than 64 MiB by default."""
LOGICAL_BITS: Final = 18
"""A timestamp of Milvus is milliseconds since 1970, and in its lowest bits a counter."""

_CHANNEL_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
)

# Codes of `merr` in Milvus' sources.
_NOT_THERE: Final = frozenset({100, 1600})
"""No such collection, no such alias."""
_TAKEN: Final = frozenset({1601, 1602})
"""A collection or an alias has the name."""
_UNREADY: Final = frozenset(
    {
        *(1, 2, 101, 103, 106, 201, 202, 305),  # the service, a collection or a partition
        *(400, 401, 500, 501, 503, 600, 601, 602, 604),  # a replica, a channel or a segment
        *(901, 902, 903, 904, 905, 906, 10000),  # a node; cancelled
    }
)
_OVERLOADED: Final = frozenset({4, 8})
_FULL: Final = frozenset({3, 7, 9, 12, 102, 250, 1001})
"""Memory, disk, quota, resources, collections, capacity; a disk that fails."""
_REFUSED_TOKEN: Final = frozenset({1400, 1401, 1800})
_TIMED_OUT: Final = 10001
_UNKNOWN: Final = 65535


class AbsentError(NotFoundError):
    """Milvus has no collection or alias of that name. Callers say what it is of ours."""

    def __init__(self) -> None:
        super().__init__("gallery", "", "the gallery was deleted during the call")


class TakenError(AlreadyExistsError):
    """Milvus has an alias of that name, of another collection. Callers say what it is of ours."""

    def __init__(self) -> None:
        super().__init__("gallery", "", "the name was taken during the call")


class TooLargeError(OverloadedError):
    """The message is over what Milvus sends or takes. Callers say of what there is too much."""

    def __init__(self) -> None:
        super().__init__("the message is larger than Milvus takes, or it has more calls than it takes", RETRY_AFTER_S)


class MilvusConnection:
    """One connection, which comes back by itself. A call while Milvus is down fails at once with UnavailableError."""

    def __init__(self, address: str, token: str = "") -> None:
        """Connect at the first call, in the event loop that then runs.

        Args:
            address: http://host:port, or https:// for TLS by the certificates that this host trusts.
            token: "user:password" or an API key; empty where Milvus asks for none.

        Raises:
            ConfigurationError: the address is none.
        """
        self._address = address
        self._metadata = (("authorization", base64.b64encode(token.encode()).decode()),) if token else ()
        self._channel = _channel(address)
        self._stub = milvus_pb2_grpc.MilvusServiceStub(self._channel)
        self._in_flight = 0

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        await self._channel.close(None)

    async def check(self) -> None:
        """Raise UnavailableError unless Milvus says that it is healthy."""
        request = milvus_pb2.CheckHealthRequest()
        reply = await self.read("CheckHealth", request, time.monotonic() + CHECK_TIMEOUT_S)
        if not reply.isHealthy:
            raise UnavailableError(f"Milvus at {self._address} is not healthy: {'; '.join(reply.reasons)[:200]}")

    async def timestamp(self, deadline_s: float | None) -> int:
        """Return a timestamp that is later than every write that was acknowledged before, at whatever client."""
        reply = await self.read("AllocTimestamp", milvus_pb2.AllocTimestampRequest(), deadline_s)
        return int(reply.timestamp)

    async def read(self, method: str, request: Any, deadline_s: float | None) -> Any:
        """Return the reply. Raises as `write`."""
        return await self._call(method, request, deadline_s, READ_TIMEOUT_S)

    async def write(self, method: str, request: Any, deadline_s: float | None) -> Any:
        """Return the reply.

        Raises:
            AbsentError: the collection or alias that is named is not there.
            TakenError: the name is another's.
            TooLargeError: the reply is too large.
            UnavailableError: Milvus is down, starting, or gave no answer; a write may yet be done.
            DeadlineExceededError: the caller's deadline passed; a write may yet be done.
            OverloadedError: too many calls.
            StorageError: Milvus takes no more.
            InternalError: Milvus refused for another reason, which is logged.
        """
        return await self._call(method, request, deadline_s, WRITE_TIMEOUT_S)

    async def _call(self, method: str, request: Any, deadline_s: float | None, most_s: float) -> Any:
        left_s = math.inf if deadline_s is None else deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceededError("the deadline passed before Milvus was called")
        if self._in_flight >= CALLS_IN_FLIGHT:
            raise OverloadedError(f"{self._in_flight} calls of Milvus are in flight", RETRY_AFTER_S)
        self._in_flight += 1
        try:
            reply = await getattr(self._stub, method)(request, timeout=min(left_s, most_s), metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._translated(error, method, ours=left_s > most_s) from error
        finally:
            self._in_flight -= 1
        self._check_status(reply, method, ours=left_s > most_s)
        return reply

    def _check_status(self, reply: Any, method: str, *, ours: bool) -> None:
        status = reply if isinstance(reply, common_pb2.Status) else reply.status
        code = status.code or (_UNKNOWN if status.error_code else 0)
        if code in _NOT_THERE:
            raise AbsentError
        if code in _TAKEN:
            raise TakenError
        if code:
            _log.info("Milvus refuses %s: %d, %s", method, code, status.reason)
            raise self._refusal(code, status, method, ours=ours)

    def _refusal(self, code: int, status: Any, method: str, *, ours: bool) -> ShituError:
        if code == _TIMED_OUT:
            return self._late(ours=ours)
        if code in _OVERLOADED:
            return OverloadedError("Milvus has more to do than its limits allow", RETRY_AFTER_S)
        if code in _REFUSED_TOKEN:
            return self._refused_token()
        if code in _UNREADY or status.retriable:
            return UnavailableError(f"Milvus at {self._address} is starting, or has not loaded the gallery yet")
        if code in _FULL:
            return StorageError(f"Milvus at {self._address} takes no more: {status.reason[:200]}")
        _log.error("Milvus refuses %s: %d, %s", method, code, status.reason)
        return InternalError("Milvus refused a call; the server's log says why")

    def _translated(self, error: grpc.RpcError, method: str, *, ours: bool) -> ShituError:
        code = error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._late(ours=ours)
        if code is grpc.StatusCode.UNAVAILABLE:
            return UnavailableError(f"there is no Milvus at {self._address}, or its connection broke", RETRY_AFTER_S)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return TooLargeError()
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return self._refused_token()
        _log.error("Milvus fails at %s: %s, %s", method, code, error.details())
        return InternalError("a call of Milvus failed; the server's log says why")

    def _late(self, *, ours: bool) -> ShituError:
        if not ours:
            return DeadlineExceededError("the deadline passed before Milvus answered; a write may yet be done")
        return UnavailableError(
            f"Milvus at {self._address} gave no answer in time: it is busy, or still reading what was written before it was "
            "started; a write may yet be done: adding items again does no harm",
            RETRY_AFTER_S,
        )

    def _refused_token(self) -> ShituError:
        return UnavailableError(f"Milvus at {self._address} refuses the token; set SHITU_MILVUS_TOKEN", RETRY_AFTER_S)


def _channel(address: str) -> grpc.aio.Channel:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ConfigurationError(f"milvus_address: expected http://host:port or https://host:port, came {address}")
    if parts.scheme == "https":
        return grpc.aio.secure_channel(parts.netloc, grpc.ssl_channel_credentials(), options=_CHANNEL_OPTIONS)
    return grpc.aio.insecure_channel(parts.netloc, options=_CHANNEL_OPTIONS)
