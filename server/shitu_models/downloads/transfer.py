"""Brings the bytes of one file, over as many connections as it takes."""

from __future__ import annotations

import shutil
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Final
from urllib.error import HTTPError, URLError

from shitu_models.downloads.http_source import Answer, HttpSource, RefusedAnswerError
from shitu_models.downloads.part_file import PartFile
from shitu_models.downloads.remote_file import (
    ELSEWHERE,
    DiskFullError,
    GaveUpError,
    NotFoundError,
    RefusedError,
    RemoteFile,
    TooLargeError,
    too_large,
)

_GONE: Final = {404, 410}
_RANGE_REFUSED: Final = 416
_TEMPORARY: Final = {408, 425, 429, 500, 502, 503, 504}

Advance = Callable[[int, int | None], None]
"""Called with the bytes that are there and those of the whole file, None where the server does not say."""


@dataclass(frozen=True)
class DownloadLimits:
    """How patient a download is."""

    connect_timeout_s: float = 10.0
    """To connect, TLS and the proxy's tunnel included."""
    read_timeout_s: float = 30.0
    """Without a byte."""
    min_bytes_per_s: int = 1024
    """Slower than this over `read_timeout_s`, a connection is taken for dead."""
    attempts: int = 5
    """Failures in a row, after which it gives up."""
    progress_bytes: int = 1 << 20
    """An attempt that brings this many bytes more than any before it starts the count of failures anew."""
    first_wait_s: float = 0.5
    """Before the second attempt; doubles from one to the next."""
    max_wait_s: float = 15.0


class _BrokenError(Exception):
    """An attempt failed that another one may make good."""


class Transfer:
    """Brings the bytes of one file into its part."""

    def __init__(
        self,
        source: HttpSource,
        url: str,
        remote: RemoteFile,
        part: PartFile,
        known_sha256: str | None,
        limits: DownloadLimits,
        advance: Advance | None,
    ) -> None:
        self._source = source
        self._url = url
        self._remote = remote
        self._part = part
        self._known_sha256 = known_sha256
        self._limits = limits
        self._advance = advance
        self._fault = ""

    def run(self) -> None:
        """Go on until all is there.

        Raises:
            DownloadError: it cannot be had.
            OSError: the part cannot be written.
        """
        if self._part.size_bytes and not (self._part.validator or self._known_sha256):
            self._part.restart()  # nothing would tell if the file had changed in between
        failures, most_bytes = 0, self._part.size_bytes
        while not self._attempt():
            if self._part.size_bytes >= most_bytes + self._limits.progress_bytes:
                failures, most_bytes = 0, self._part.size_bytes
            failures += 1
            if failures >= self._limits.attempts:
                raise GaveUpError(self._gave_up())
            time.sleep(min(self._limits.first_wait_s * 2 ** (failures - 1), self._limits.max_wait_s))

    def _gave_up(self) -> str:
        kept = f"; {self._part.size_bytes} bytes are kept, run this again to go on from there" * bool(
            self._part.size_bytes
        )
        return (
            f"{self._url}: gave up after {self._limits.attempts} attempts, the last one: {self._fault}{kept}; "
            f"check the network and --proxy, or {ELSEWHERE}"
        )

    def _attempt(self) -> bool:
        """Return whether all is there after one more attempt."""
        try:
            if not self._part.is_complete:
                self._receive()
        except _BrokenError as error:
            self._fault = str(error)
            return False
        except RefusedAnswerError as error:
            raise RefusedError(f"{self._url}: {error}; {ELSEWHERE}") from error
        return True

    def _receive(self) -> None:
        with self._ask() as answer:
            self._agree(answer)
            while block := self._next_block(answer):
                if self._part.size_bytes + len(block) > self._remote.max_bytes:
                    self._refuse_size(self._part.size_bytes + len(block))
                self._part.append(block)
                if self._advance:
                    self._advance(self._part.size_bytes, self._part.total_bytes)
        total_bytes = self._part.total_bytes
        if total_bytes is not None and self._part.size_bytes < total_bytes:
            raise _BrokenError(f"it was cut off at byte {self._part.size_bytes} of {total_bytes}")
        if total_bytes is not None and self._part.size_bytes > total_bytes:
            self._start_over(f"more came than the {total_bytes} bytes that the server announced")

    def _ask(self) -> Answer:
        try:
            return self._source.get(self._url, self._part.size_bytes, self._part.validator)
        except HTTPError as error:
            error.close()
            raise self._of_status(error.code, error.reason) from error
        except URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise RefusedError(
                    f"{self._url}: the server's certificate is not trusted ({error.reason.verify_message}); name the "
                    f"certificates to trust in SSL_CERT_FILE, or {ELSEWHERE}"
                ) from error
            raise _BrokenError(f"no connection ({error.reason})") from error
        except (OSError, HTTPException) as error:
            raise _BrokenError(f"the connection broke ({_said(error)})") from error
        except ValueError as error:  # what urllib says to an address that is none, such as that of a redirect
            raise RefusedError(
                f"{self._url}: the address, or where it leads, is none ({error}); {ELSEWHERE}"
            ) from error

    def _of_status(self, status: int, reason: str) -> Exception:
        if status in _GONE:
            return NotFoundError(f"{self._url} is not there (HTTP {status}); check the address, {ELSEWHERE}")
        if status == _RANGE_REFUSED and self._part.size_bytes:
            fault = f"the server refuses to go on from byte {self._part.size_bytes} (HTTP {status})"
            self._part.restart()
            return _BrokenError(fault)
        if status in _TEMPORARY:
            return _BrokenError(f"HTTP {status} {reason}")
        return RefusedError(f"{self._url}: expected the file, the server answers HTTP {status} {reason}; {ELSEWHERE}")

    def _agree(self, answer: Answer) -> None:
        """Make the part fit the bytes that follow."""
        part = self._part
        if answer.start_byte == 0:  # the whole file: the server knows no ranges, or the file has changed
            part.restart()
        changed = _differs(answer.validator, part.validator) or _differs(answer.total_bytes, part.total_bytes)
        if answer.start_byte != part.size_bytes or changed:
            self._start_over("the file changed on the server")
        if not answer.tells_end and not self._known_sha256:
            raise RefusedError(
                f"{self._url}: expected a Content-Length, the server sends none; a file cut off would go unnoticed; {ELSEWHERE}"
            )
        total_bytes = part.total_bytes if answer.total_bytes is None else answer.total_bytes
        if total_bytes is not None and total_bytes > self._remote.max_bytes:
            self._refuse_size(total_bytes)
        part.note(answer.validator or part.validator, total_bytes)
        self._check_room()

    def _start_over(self, fault: str) -> None:
        self._part.restart()
        raise _BrokenError(fault)

    def _refuse_size(self, size_bytes: int) -> None:
        self._part.discard()
        raise TooLargeError(too_large(self._url, self._remote, size_bytes))

    def _check_room(self) -> None:
        """Say beforehand that there is no room; what is there already is kept for when there is."""
        free_bytes = shutil.disk_usage(self._part.path.parent).free
        needed_bytes = (self._part.total_bytes or 0) - self._part.size_bytes
        if needed_bytes > free_bytes:
            raise DiskFullError(
                f"{self._url}: {needed_bytes} bytes are to come, {self._part.path.parent} has room for {free_bytes}; "
                f"make room or choose another folder"
            )

    def _next_block(self, answer: Answer) -> bytes:
        try:
            return answer.read()
        except (OSError, HTTPException) as error:
            raise _BrokenError(
                f"the connection broke at byte {self._part.size_bytes} of {self._part.total_bytes or 'an unknown number'} ({_said(error)})"
            ) from error


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _differs(told: str | int | None, noted: str | int | None) -> bool:
    return told is not None and noted is not None and told != noted
