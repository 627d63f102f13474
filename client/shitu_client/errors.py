"""What a call can end with, in one tree; gRPC's errors are translated here and nowhere else.

ShituClientError
├── InvalidArgumentError       the server refuses a field (`field` names it)
├── NotFoundError              gallery or item unknown
├── AlreadyExistsError         gallery exists
├── FailedPreconditionError    vectors of another encoder than the gallery's, writes that a rollback would lose, ...
├── ResourceExhaustedError     the server is busy, try again after `retry_after_s`
├── UnavailableError           the server is down, starting or draining, try again after `retry_after_s`
│   └── UnreachableError       nobody answers at the address
├── DeadlineExceededError      no answer in time
├── UnsupportedError           this server, or its gallery backend, cannot do that
└── ServerError                anything else

InputError                     a file, a folder or an option on this side cannot be used
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

M = TypeVar("M", bound=Message)

_DETAILS_KEY: Final = "grpc-status-details-bin"
_NOBODY: Final = ("Connection refused", "DNS resolution failed", "Domain name not found")
_NO_METHOD: Final = "Method not found!"
"""What gRPC itself says of a call that the server does not have."""


class ShituClientError(Exception):
    """Root of the tree.

    Attributes:
        message: what was expected, what came, what to do.
        reason: stable and machine-readable, e.g. INVALID_IMAGE; empty where the transport failed.
        field: the field that was refused; empty where none was.
        retry_after_s: seconds after which the call may be tried again; None where it may not.
    """

    def __init__(self, message: str, reason: str = "", field: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidArgumentError(ShituClientError):
    """The server refuses a field of the request."""


class NotFoundError(ShituClientError):
    """There is no such gallery, alias or item."""


class AlreadyExistsError(ShituClientError):
    """There is such a gallery or alias already."""


class FailedPreconditionError(ShituClientError):
    """What is there does not allow it: the gallery is bound to another encoder, a rollback would lose writes, ..."""


class ResourceExhaustedError(ShituClientError):
    """The server is busy."""


class UnavailableError(ShituClientError):
    """The server is down, starting or draining."""


class UnreachableError(UnavailableError):
    """Nobody answers at the server's address."""


class DeadlineExceededError(ShituClientError):
    """No answer came in time."""


class UnsupportedError(ShituClientError):
    """This server, or its gallery backend, cannot do that; `AsyncClient.capabilities` says what it can."""


class ServerError(ShituClientError):
    """The server failed; its log has the cause."""


class InputError(Exception):
    """What was given on this side cannot be used; the message says what was expected and what came."""


def said_of(error: Exception) -> str:
    """Return what went wrong in words, also where the operating system says it with numbers."""
    if not isinstance(error, OSError) or error.errno is None or not isinstance(error.filename, (str, bytes)):
        return str(error)
    path = Path(os.fsdecode(error.filename))
    if error.errno == errno.ENOENT:
        return f"{path}: there is no such {'file' if path.parent.is_dir() else 'folder'}"
    if error.errno == errno.ENOSPC:
        return f"{path}: no space left on the device"
    return f"{path}: {error.strerror}"


_KINDS: Final[dict[grpc.StatusCode, type[ShituClientError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
}


def error_of_call(error: grpc.RpcError, server: str) -> ShituClientError:
    """Return the error for a failed call to `server`."""
    assert isinstance(error, grpc.aio.AioRpcError)
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == _DETAILS_KEY:
            return error_of_status(status_pb2.Status.FromString(value))
    if error.code() == grpc.StatusCode.UNIMPLEMENTED and error.details() == _NO_METHOD:
        return older_server(server, "such call")
    if error.code() == grpc.StatusCode.UNAVAILABLE and any(part in (error.details() or "") for part in _NOBODY):
        return UnreachableError(f"no server answers at {server}; is shitu serve running there?")
    kind = _KINDS.get(error.code(), ServerError)
    return kind(f"{server}: {error.code().name}: {error.details()}")


def older_server(server: str, lacks: str) -> UnsupportedError:
    """Return the error for what a server is too old for."""
    return UnsupportedError(f"{server}: the server is older than this client and knows no {lacks}; upgrade it")


def error_of_status(status: status_pb2.Status) -> ShituClientError:
    """Return the error for a status, of a call or of one entry of a batch."""
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    info = _detail(status, error_details_pb2.ErrorInfo)
    bad = _detail(status, error_details_pb2.BadRequest)
    retry = _detail(status, error_details_pb2.RetryInfo)
    return _KINDS.get(code, ServerError)(
        status.message,
        reason=info.reason if info else "",
        field=bad.field_violations[0].field if bad and bad.field_violations else "",
        retry_after_s=retry.retry_delay.ToMilliseconds() / 1000 if retry else None,
    )


def _detail(status: status_pb2.Status, kind: type[M]) -> M | None:
    wanted = kind()
    return next((wanted for detail in status.details if detail.Unpack(wanted)), None)
