"""A file that can be downloaded, and all that can go wrong with it.

DownloadError
├── AddressError        the address of a mirror or proxy is none
├── NotFoundError       the server has no such file
├── RefusedError        the server refuses, or wants something that is never done
├── GaveUpError         the connection broke too often; running again goes on where it stopped
├── TooLargeError       it is larger than it may be
├── WrongContentError   it is something else, e.g. the page of a network that wants a login
├── DigestMismatchError it is not what it was, or what it is known to be
├── LockFileError       the lock file is damaged or held
├── BusyError           another process downloads it
└── StorageError        a file cannot be read or written
    └── DiskFullError   there is no room
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from shitu_models.downloads.http_source import check_base

ELSEWHERE: Final = "get the file elsewhere and name it with --from-file, or name a mirror with --mirror"
"""What to do where a server does not give a file."""

_PATH: Final = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class DownloadError(Exception):
    """A file cannot be had; the message says what was expected, what came and what to do."""


class AddressError(DownloadError):
    """The address of a mirror or proxy is none."""


class NotFoundError(DownloadError):
    """The server has no such file."""


class RefusedError(DownloadError):
    """The server refuses, or wants something that is never done; another attempt would change nothing."""


class GaveUpError(DownloadError):
    """The connection broke too often."""


class TooLargeError(DownloadError):
    """The file is larger than it may be."""


class WrongContentError(DownloadError):
    """The file is neither a checkpoint nor a tar, whichever it should be."""


class DigestMismatchError(DownloadError):
    """The file is not what it was when it was first seen, or what it is known to be."""


class LockFileError(DownloadError):
    """The lock file is damaged, or another process holds it."""


class BusyError(DownloadError):
    """Another process downloads the same file."""


class StorageError(DownloadError):
    """A file cannot be read or written."""


class DiskFullError(StorageError):
    """There is no room for the file."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded."""

    path: str
    """Below the base URL; the key of the lock file, and the same on every mirror."""
    base_url: str
    max_bytes: int
    """More than it can have; a sanity bound."""
    sha256: str | None = None
    """64 hex digits in lower case, where it is known from elsewhere."""

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path) or {".", ".."} & set(self.path.split("/")):
            raise ValueError(f"path of a remote file: expected names joined by slashes, got {self.path!r}")
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"{self.path}: expected a sha256 of 64 hex digits in lower case, got {self.sha256!r}")
        if self.max_bytes < 1:
            raise ValueError(f"{self.path}: expected max_bytes of at least 1, got {self.max_bytes}")
        check_base(self.base_url, "base URL")

    @property
    def name(self) -> str:
        """Of the file itself."""
        return self.path.rpartition("/")[2]

    def url(self, mirror: str | None = None) -> str:
        """Return where it is, below another base where a mirror is named."""
        return check_base(mirror or self.base_url, "mirror") + self.path


def too_large(what: str, remote: RemoteFile, size_bytes: int) -> str:
    """Return the message for a file of this size or more."""
    return f"{what}: expected at most {remote.max_bytes} bytes, it has {size_bytes} or more; check that it is the right file"
