"""GET of a file from some byte on: proxies, redirects and time limits as downloads need them."""

from __future__ import annotations

import re
import ssl
import time
from base64 import b64encode
from dataclasses import dataclass
from email.message import Message
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import IO, Any, Final
from urllib.parse import unquote, urlsplit
from urllib.request import (
    BaseHandler,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
)

_BLOCK_BYTES: Final = 256 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PARTIAL: Final = 206


class RefusedAnswerError(Exception):
    """The server wants or says what is never followed; the message says what."""


@dataclass(frozen=True)
class Timeouts:
    """How long a server may take."""

    connect_s: float
    """To connect, TLS and the proxy's tunnel included."""
    read_s: float
    """To send anything at all."""
    min_bytes_per_s: int
    """Slower than this over `read_s`, a connection is taken for dead."""


class Answer:
    """A server's answer: what it says of the file, and the bytes that follow."""

    def __init__(self, response: HTTPResponse, timeouts: Timeouts) -> None:
        """Take over the response.

        Raises:
            RefusedAnswerError: the bytes are encoded; only those of the file itself can be resumed.
        """
        self._response = response
        self._timeouts = timeouts
        self._window_end_s = time.monotonic() + timeouts.read_s
        self._window_bytes = 0
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise RefusedAnswerError(f"expected the file's own bytes, the server encodes them ({encoding!r})")
        length = response.length
        self.start_byte: int | None = 0
        """Of the first byte that follows; None where the server sends some other part."""
        self.total_bytes: int | None = length
        """Size of the whole file, None where the server does not say."""
        if response.status == _PARTIAL:
            self.start_byte, self.total_bytes = _content_range(response.headers)
            if self.total_bytes is None and self.start_byte is not None and length is not None:
                self.total_bytes = self.start_byte + length
        self.tells_end: bool = length is not None or "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        """Whether a body that was cut off can be told from a whole one."""
        self.validator: str | None = _validator(response.headers)

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._response.close()

    def read(self) -> bytes:
        """Return the next bytes, none at the end.

        Raises:
            TimeoutError: nothing, or next to nothing, came in time.
            OSError, HTTPException: the connection broke.
        """
        block = self._response.read1(_BLOCK_BYTES)
        self._window_bytes += len(block)
        now_s = time.monotonic()
        if now_s > self._window_end_s:
            least = self._timeouts.min_bytes_per_s * self._timeouts.read_s
            if block and self._window_bytes < least:
                raise TimeoutError(f"{self._window_bytes} bytes in {self._timeouts.read_s:g} s")
            self._window_end_s, self._window_bytes = now_s + self._timeouts.read_s, 0
        return block


class HttpSource:
    """Asks servers for files."""

    def __init__(self, timeouts: Timeouts, proxy: str | None = None) -> None:
        """Prepare the way to the servers.

        Args:
            timeouts: how long they may take.
            proxy: `http://[user:password@]host:port`; None means what the environment says (`https_proxy`, `no_proxy` ...).

        Raises:
            ValueError: the proxy's address is none.
        """
        self._timeouts = timeouts
        proxies: tuple[BaseHandler, ...] = (ProxyHandler({}), _FixedProxy(proxy)) if proxy else (ProxyHandler(),)
        self._opener = build_opener(_Http(timeouts), _Https(timeouts), _Redirects(), *proxies)

    def get(self, url: str, start_byte: int, validator: str | None) -> Answer:
        """Ask for a file from a byte on; the server may send all of it instead.

        Args:
            url: of the file.
            start_byte: of the first byte that is wanted.
            validator: ETag or Last-Modified of the bytes at hand; if the file has another one now, all of it is sent.

        Raises:
            urllib.error.HTTPError: the status is an error.
            OSError, http.client.HTTPException: there is no connection, or it broke.
            RefusedAnswerError: the answer is one that is never followed.
        """
        request = Request(url, headers={"User-Agent": "shitu"})  # noqa: S310 - only http and https get here
        if start_byte:
            request.add_header("Range", f"bytes={start_byte}-")
            if validator:
                request.add_header("If-Range", validator)
        response = self._opener.open(request, timeout=self._timeouts.connect_s)
        try:
            return Answer(response, self._timeouts)
        except BaseException:
            response.close()
            raise


def check_base(url: str, what: str) -> str:
    """Return the base of URLs, ending in one slash.

    Raises:
        ValueError: it is none; the message says what was expected.
    """
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        fits = False
    if not fits or set(url) & set("?#@ \t\r\n"):
        raise ValueError(f"{what}: expected http(s)://host[:port][/folder], got {url!r}")
    return url.rstrip("/") + "/"


class _TimedConnection(HTTPConnection):
    """Takes the time limit it gets for connecting only."""

    def __init__(self, host: str, *, read_timeout_s: float, **options: Any) -> None:
        super().__init__(host, **options)
        self._read_timeout_s = read_timeout_s

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self._read_timeout_s)


class _TimedTlsConnection(_TimedConnection, HTTPSConnection):
    """The same over TLS."""


class _Http(HTTPHandler):
    def __init__(self, timeouts: Timeouts) -> None:
        super().__init__()
        self._read_s = timeouts.read_s

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(_TimedConnection, read_timeout_s=self._read_s), req)


class _Https(HTTPSHandler):
    def __init__(self, timeouts: Timeouts) -> None:
        super().__init__()
        self._read_s = timeouts.read_s
        self._tls = ssl.create_default_context()

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(_TimedTlsConnection, read_timeout_s=self._read_s), req, context=self._tls)


class _Redirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        fp.close()  # urllib would read the body to its end, however long it is
        scheme = urlsplit(newurl).scheme
        if scheme not in {"http", "https"} or (urlsplit(req.full_url).scheme == "https" and scheme != "https"):
            raise RefusedAnswerError(f"the server redirects to {newurl}, which is not followed: it is less safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _FixedProxy(BaseHandler):
    """Sends everything through one proxy; the environment's `no_proxy` is not for a proxy that was named explicitly."""

    handler_order = 400  # before urllib's own handlers (500), which write the headers

    def __init__(self, proxy: str) -> None:
        try:
            parts = urlsplit(proxy)
            fits = parts.scheme == "http" and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            fits = False
        if not fits:  # urllib speaks no TLS and no SOCKS to proxies
            raise ValueError("proxy: expected http://[user:password@]host:port, got something else")
        self._host = parts.netloc.rpartition("@")[2]
        user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        self._credentials = b64encode(user.encode()).decode() if parts.username else None

    def http_request(self, req: Request) -> Request:
        req.set_proxy(self._host, "http")
        if self._credentials:
            req.add_unredirected_header("Proxy-authorization", f"Basic {self._credentials}")
        return req

    https_request = http_request


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """Return first byte and total of a partial answer; None is unknown."""
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None:
        return None, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _validator(headers: Message) -> str | None:
    """Return what tells this state of the file from others; a weak ETag does not (RFC 9110, 13.1.5)."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
