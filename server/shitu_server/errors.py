"""What can go wrong, in one tree. Foreign errors are translated into it once, where they enter.

ShituError
├── InvalidArgumentError          a field of the request is wrong (names the field)
│   └── InvalidImageError         the bytes are no picture that we take
├── NotFoundError                 gallery or item unknown
├── AlreadyExistsError            gallery exists
├── EncoderMismatchError          vectors of another encoder or length than the gallery's
├── PreconditionError             the gallery is not in the state that the call needs
├── UnsupportedError              this gallery backend cannot do that
├── OverloadedError               admission full, try again after `retry_after_s`
├── UnavailableError              a part is down or draining, try again after `retry_after_s`
├── DeadlineExceededError         the client's deadline passed
├── StorageError                  the disk refuses writes
├── ConfigurationError            the server cannot start this way
└── InternalError                 a bug; says nothing about the inside
"""

from __future__ import annotations

from typing import ClassVar


class ShituError(Exception):
    """Root of the tree. The message says what was expected, what came and what to do."""

    reason: ClassVar[str] = "UNKNOWN"
    """Stable, machine-readable; sent as ErrorInfo.reason."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgumentError(ShituError):
    """A field of the request is wrong."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.description = message


class InvalidImageError(InvalidArgumentError):
    """The bytes are no picture that we take."""

    reason = "INVALID_IMAGE"


class NotFoundError(ShituError):
    """There is no such gallery or item."""

    reason = "NOT_FOUND"

    def __init__(self, resource_type: str, resource_name: str, message: str) -> None:
        super().__init__(message)
        self.resource_type = resource_type
        self.resource_name = resource_name


class AlreadyExistsError(ShituError):
    """There is such a gallery already."""

    reason = "ALREADY_EXISTS"

    def __init__(self, resource_type: str, resource_name: str, message: str) -> None:
        super().__init__(message)
        self.resource_type = resource_type
        self.resource_name = resource_name


class EncoderMismatchError(ShituError):
    """Vectors of another encoder, or of another length, than the gallery is bound to."""

    reason = "ENCODER_MISMATCH"


class PreconditionError(ShituError):
    """The gallery is not in the state that the call needs; trying again without a change fails again."""

    reason = "PRECONDITION"


class UnsupportedError(ShituError):
    """The backend that keeps the galleries cannot do that; `capabilities` says what it can."""

    reason = "UNSUPPORTED"


class OverloadedError(ShituError):
    """More work than the limit is in flight; nothing was done."""

    reason = "OVERLOADED"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(ShituError):
    """A part is down, starting or draining."""

    reason = "UNAVAILABLE"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(ShituError):
    """The client's deadline passed before the work was done."""

    reason = "DEADLINE_EXCEEDED"


class StorageError(ShituError):
    """The gallery's disk refuses writes; reads go on."""

    reason = "STORAGE"


class ConfigurationError(ShituError):
    """The server cannot start with these settings or files."""

    reason = "CONFIGURATION"


class InternalError(ShituError):
    """A bug. The cause is in the server's log."""

    reason = "INTERNAL"
