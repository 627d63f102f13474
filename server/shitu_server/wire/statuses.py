"""Errors as google.rpc.Status and back. AIP-193: one ErrorInfo, and one typed detail where it helps."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from shitu_server.errors import (
    AlreadyExistsError,
    ConfigurationError,
    DeadlineExceededError,
    EncoderMismatchError,
    InternalError,
    InvalidArgumentError,
    InvalidImageError,
    NotFoundError,
    OverloadedError,
    PreconditionError,
    ShituError,
    StorageError,
    UnavailableError,
    UnsupportedError,
)

M = TypeVar("M", bound=message.Message)

DOMAIN: Final = "shitu.v1"

DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailing metadata that carries the google.rpc.Status (gRPC's richer error model)."""

CODES: Final[dict[type[ShituError], grpc.StatusCode]] = {
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidImageError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    EncoderMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    UnsupportedError: grpc.StatusCode.UNIMPLEMENTED,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    StorageError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ConfigurationError: grpc.StatusCode.INTERNAL,
    InternalError: grpc.StatusCode.INTERNAL,
}
"""Total over the tree; a test proves it."""

RETRY_WHEN_UNREACHABLE_S: Final = 1.0
"""RetryInfo for an UNAVAILABLE that the transport made itself, which carries no detail."""

RETRY_WHEN_CROWDED_S: Final = 0.5
"""The same for a RESOURCE_EXHAUSTED of the transport: calls are over in about this time."""

RETRY_SPREAD: Final = (0.5, 1.5)
"""Of RetryInfo around the error's own time: who was sent away together shall not come back together."""

_TOO_LARGE: Final = "message larger than max"
"""In what gRPC says of a message that it does not take ("Received ..." or "Sent ..."). Of calls: "Concurrent RPC limit exceeded!"."""


def to_status(error: ShituError) -> status_pb2.Status:
    """Return the status that a client gets for an error."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    details: list[message.Message] = [info]
    if isinstance(error, InvalidArgumentError):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.description)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    elif isinstance(error, (NotFoundError, AlreadyExistsError)):
        resource = error_details_pb2.ResourceInfo(
            resource_type=error.resource_type, resource_name=error.resource_name, description=error.message
        )
        details.append(resource)
    elif isinstance(error, (OverloadedError, UnavailableError)):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000 * random.uniform(*RETRY_SPREAD)))  # noqa: S311
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(
        code=CODES[type(error)].value[0], message=error.message, details=[_packed(d) for d in details]
    )


def from_rpc_error(error: grpc.RpcError, peer: str) -> ShituError:
    """Return the error that a failed call stands for.

    Args:
        error: as raised by a grpc.aio call.
        peer: the part that was called, for the message, e.g. "the gallery process".
    """
    assert isinstance(error, grpc.aio.AioRpcError)
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    return _from_bare_code(error.code(), error.details() or "", peer)


def from_status(status: status_pb2.Status) -> ShituError:
    """Return the error that `to_status` made this status from; InternalError for one of another domain."""
    info = _detail(status, error_details_pb2.ErrorInfo) or error_details_pb2.ErrorInfo()
    build = _BUILDERS.get(info.reason) if info.domain == DOMAIN else None
    return build(status) if build is not None else InternalError(status.message)


def _from_bare_code(code: grpc.StatusCode, details: str, peer: str) -> ShituError:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(f"{peer} did not answer before the deadline")
    # A server that stops answers CANCELLED; our own cancellations are asyncio.CancelledError and never come here.
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
        return UnavailableError(f"{peer} cannot be reached; it is being restarted", RETRY_WHEN_UNREACHABLE_S)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in details:
        return InvalidArgumentError("", f"the message is over the size limit of {peer}: {details}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return OverloadedError(f"{peer} has too many calls in flight; try again", RETRY_WHEN_CROWDED_S)
    return InternalError(f"{peer} failed with {code.name}")


def _packed(detail: message.Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _detail(status: status_pb2.Status, kind: type[M]) -> M | None:
    wanted = kind()
    return next((wanted for detail in status.details if detail.Unpack(wanted)), None)


def _invalid(kind: type[InvalidArgumentError]) -> Callable[[status_pb2.Status], ShituError]:
    def build(status: status_pb2.Status) -> ShituError:
        bad = _detail(status, error_details_pb2.BadRequest) or error_details_pb2.BadRequest()
        violation = next(iter(bad.field_violations), None)
        return kind(violation.field, violation.description) if violation else kind("", status.message)

    return build


def _resource(kind: type[NotFoundError | AlreadyExistsError]) -> Callable[[status_pb2.Status], ShituError]:
    def build(status: status_pb2.Status) -> ShituError:
        resource = _detail(status, error_details_pb2.ResourceInfo) or error_details_pb2.ResourceInfo()
        return kind(resource.resource_type, resource.resource_name, status.message)

    return build


def _retryable(kind: type[OverloadedError | UnavailableError]) -> Callable[[status_pb2.Status], ShituError]:
    def build(status: status_pb2.Status) -> ShituError:
        retry = _detail(status, error_details_pb2.RetryInfo) or error_details_pb2.RetryInfo()
        return kind(status.message, retry.retry_delay.ToMilliseconds() / 1000)

    return build


def _plain(kind: type[ShituError]) -> Callable[[status_pb2.Status], ShituError]:
    return lambda status: kind(status.message)


_BUILDERS: Final[dict[str, Callable[[status_pb2.Status], ShituError]]] = {
    **{kind.reason: _invalid(kind) for kind in (InvalidArgumentError, InvalidImageError)},
    **{kind.reason: _resource(kind) for kind in (NotFoundError, AlreadyExistsError)},
    **{kind.reason: _retryable(kind) for kind in (OverloadedError, UnavailableError)},
    **{
        kind.reason: _plain(kind)
        for kind in (
            EncoderMismatchError,
            PreconditionError,
            UnsupportedError,
            DeadlineExceededError,
            StorageError,
            ConfigurationError,
            InternalError,
        )
    },
}
