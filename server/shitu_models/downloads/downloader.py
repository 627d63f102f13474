"""Downloads of single files: resumed where they broke, checked against the lock file, visible only when whole.

What can go wrong is a `DownloadError`; their tree stands atop `remote_file.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shitu_models.downloads.contents import fault_of
from shitu_models.downloads.digests import DamagedLockError, DifferentDigestError, DigestLock
from shitu_models.downloads.files import NO_ROOM
from shitu_models.downloads.http_source import HttpSource, Timeouts, check_base
from shitu_models.downloads.part_file import PartFile
from shitu_models.downloads.remote_file import (
    ELSEWHERE,
    AddressError,
    BusyError,
    DigestMismatchError,
    DiskFullError,
    DownloadError,
    GaveUpError,
    LockFileError,
    NotFoundError,
    RefusedError,
    RemoteFile,
    StorageError,
    TooLargeError,
    WrongContentError,
    too_large,
)
from shitu_models.downloads.transfer import Advance, DownloadLimits, Transfer

__all__ = [  # what a caller needs, in one place
    "AddressError",
    "Advance",
    "BusyError",
    "DigestMismatchError",
    "DiskFullError",
    "DownloadError",
    "DownloadLimits",
    "Downloader",
    "GaveUpError",
    "LockFileError",
    "NotFoundError",
    "RefusedError",
    "RemoteFile",
    "StorageError",
    "TooLargeError",
    "WrongContentError",
    "adopt",
]

_BLOCK_BYTES: Final = 1 << 20
_DEFAULT_LIMITS: Final = DownloadLimits()


class Downloader:
    """Downloads files into a folder."""

    def __init__(
        self,
        folder: Path,
        lock: Path,
        *,
        mirror: str | None = None,
        proxy: str | None = None,
        limits: DownloadLimits | None = None,
    ) -> None:
        """Prepare downloads; connects to nothing.

        Args:
            folder: where the files are put; made where it is missing.
            lock: the lock file of digests; made where it is missing.
            mirror: base URL below which the files are, instead of each one's own.
            proxy: `http://[user:password@]host:port`; None means what the environment says.
            limits: None means the usual ones.

        Raises:
            AddressError: mirror or proxy is no address of one.
        """
        self._folder = folder
        self._lock = lock
        self._limits = limits or _DEFAULT_LIMITS
        timeouts = Timeouts(self._limits.connect_timeout_s, self._limits.read_timeout_s, self._limits.min_bytes_per_s)
        try:
            self._mirror = check_base(mirror, "mirror") if mirror is not None else None
            self._source = HttpSource(timeouts, proxy)
        except ValueError as error:
            raise AddressError(str(error)) from error

    def fetch(self, remote: RemoteFile, advance: Advance | None = None) -> Path:
        """Return a file's path once it is there and is what the lock file says; what is there already is only checked.

        Args:
            remote: the file.
            advance: called while it comes.

        Raises:
            DownloadError: see the tree in `remote_file.py`.
        """
        target = self._folder / remote.name
        with _translated(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            if target.exists():
                return adopt(target, remote, self._lock)
            with _part_of(target, remote) as part:
                if target.exists():  # another process was faster
                    return adopt(target, remote, self._lock)
                seen = DigestLock(self._lock).seen(remote.path)  # a damaged lock file is said before the bytes come
                known_sha256 = remote.sha256 or (seen.sha256 if seen else None)
                url = remote.url(self._mirror)
                Transfer(self._source, url, remote, part, known_sha256, self._limits, advance).run()
                _finish(part, remote, url, self._lock)
        return target


def adopt(file: Path, remote: RemoteFile, lock: Path) -> Path:
    """Return a file that is there already, once it is checked as a downloaded one would be; it stays where it is.

    Args:
        file: on this machine.
        remote: what it is.
        lock: the lock file of digests.

    Raises:
        DownloadError: it cannot be read or is something else.
    """
    with _translated(file):
        size_bytes = file.stat().st_size
        if size_bytes > remote.max_bytes:
            raise TooLargeError(too_large(str(file), remote, size_bytes))
        fault = fault_of(file, remote.name)
        if fault is not None:
            raise WrongContentError(f"{file}: {fault}; remove it and get {remote.name} again ({remote.url()})")
        digest = hashlib.sha256()
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK_BYTES):
                digest.update(block)
        _accept(digest.hexdigest(), size_bytes, file, remote, lock)
    return file


@contextmanager
def _translated(place: Path) -> Iterator[None]:
    """Translate what storage and the lock file say; the network's errors never get here."""
    try:
        yield
    except DifferentDigestError as error:
        raise DigestMismatchError(str(error)) from error
    except DamagedLockError as error:
        raise LockFileError(str(error)) from error
    except OSError as error:
        where = error.filename or place
        if error.errno in NO_ROOM:
            raise DiskFullError(
                f"{where}: there is no room ({error.strerror}); nothing is left of it; make room or choose another folder"
            ) from error
        raise StorageError(
            f"{where} cannot be read or written ({error.strerror}); check the path and its permissions"
        ) from error


def _part_of(target: Path, remote: RemoteFile) -> PartFile:
    try:
        return PartFile(target, remote.path)
    except BlockingIOError as error:
        raise BusyError(
            f"{target}: another process downloads it; wait for that one or end it, then run this again"
        ) from error


def _finish(part: PartFile, remote: RemoteFile, url: str, lock: Path) -> None:
    fault = fault_of(part.path, remote.name)
    if fault is not None:  # before its digest is recorded: what is recorded is official from then on
        part.discard()
        raise WrongContentError(
            f"{url}: {fault}; nothing of it is kept; if this network wants a login first, log in, or {ELSEWHERE}"
        )
    try:
        _accept(part.sha256, part.size_bytes, part.path, remote, lock)
    except (DigestMismatchError, DifferentDigestError):
        part.discard()  # or the next run would take up what is wrong
        raise
    part.become_target()


def _accept(sha256: str, size_bytes: int, file: Path, remote: RemoteFile, lock: Path) -> None:
    if remote.sha256 not in {None, sha256}:
        raise DigestMismatchError(
            f"{file}: expected sha256 {remote.sha256}, which {remote.path} is known to have, it is {sha256}; "
            f"delete {file} and get it again; if it stays so, {ELSEWHERE}"
        )
    DigestLock(lock).check(remote.path, sha256, size_bytes, file)
