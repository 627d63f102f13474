"""A real HTTP server of files that misbehaves on demand, and a real proxy before it."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

PIECE_BYTES = 16 * 1024


@dataclass(frozen=True)
class Behaviour:
    """How one request is answered; the defaults are a good server."""

    status: int = 0
    """Instead of the file."""
    redirect: str = ""
    content: bytes | None = None
    """Instead of the file's."""
    knows_ranges: bool = True
    minds_if_range: bool = True
    etag: str | None = ""
    """Empty: a strong one of the content. None: none."""
    last_modified: str = ""
    cut_after: int | None = None
    """Bytes of the body, after which the connection ends."""
    resets: bool = False
    """Ends it by a reset, which may overtake what was sent before."""
    range_shift: int = 0
    """Bytes before the wanted range at which the range that is sent begins."""
    extra_length: int = 0
    """Announced and never sent."""
    chunked: bool = False
    closes: bool = False
    """Says no length; the body ends with the connection."""
    encoding: str = ""
    pause_s: float = 0.0
    """Before each piece of 16 KiB."""
    piece_bytes: int = PIECE_BYTES


@dataclass
class Asked:
    path: str
    start: int | None
    if_range: str | None
    status: int = 0
    sent: int = 0
    headers: dict[str, str] = field(default_factory=dict)


class FileServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.script: list[Behaviour] = []
        """One for each request; a good answer when it is used up."""
        self.asked: list[Asked] = []
        self.scheme = "http"

    @property
    def base(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/"

    def speak_tls(self, certificate: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "https"

    def handle_error(self, request, client_address) -> None:
        """Clients that are killed or refuse a certificate are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        behaviour = self.server.script.pop(0) if self.server.script else Behaviour()
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        asked = Asked(self.path, int(match[1]) if match else None, self.headers.get("If-Range"))
        asked.headers = dict(self.headers)
        self.server.asked.append(asked)
        self.close_connection = True
        content = self.server.files.get(self.path) if behaviour.content is None else behaviour.content
        if behaviour.redirect:
            self._head(asked, 302, {"Location": behaviour.redirect, "Content-Length": "0"})
        elif behaviour.status or content is None:
            self._head(asked, behaviour.status or 404, {"Content-Length": "0"})
        else:
            self._send_file(asked, behaviour, content)

    def _head(self, asked: Asked, status: int, headers: dict[str, str]) -> None:
        asked.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def _send_file(self, asked: Asked, behaviour: Behaviour, content: bytes) -> None:
        etag = f'"{hashlib.md5(content).hexdigest()}"' if behaviour.etag == "" else behaviour.etag
        headers = {"ETag": etag} if etag else {}
        headers |= {"Last-Modified": behaviour.last_modified} if behaviour.last_modified else {}
        headers |= {"Content-Encoding": behaviour.encoding} if behaviour.encoding else {}
        same = not behaviour.minds_if_range or asked.if_range in {None, *headers.values()}
        start = asked.start if asked.start is not None and behaviour.knows_ranges and same else None
        if start is not None and start >= len(content):
            self._head(asked, 416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        start = None if start is None else start - behaviour.range_shift
        body = content[start or 0 :]
        if behaviour.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif not behaviour.closes:
            headers["Content-Length"] = str(len(body) + behaviour.extra_length)
        if start is not None:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(asked, 200 if start is None else 206, headers)
        self._send_body(asked, behaviour, body)

    def _send_body(self, asked: Asked, behaviour: Behaviour, body: bytes) -> None:
        end = len(body) if behaviour.cut_after is None else behaviour.cut_after
        for begin in range(0, end, behaviour.piece_bytes):
            time.sleep(behaviour.pause_s)
            piece = body[begin : min(begin + behaviour.piece_bytes, end)]
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" if behaviour.chunked else piece)
            asked.sent += len(piece)
        if behaviour.resets:
            time.sleep(0.05)  # or nothing would arrive at all
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif behaviour.chunked and behaviour.cut_after is None:
            self.wfile.write(b"0\r\n\r\n")


class Proxy(ThreadingHTTPServer):
    """Passes on GET of http URLs, which is what proxies get for them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.asked: list[Asked] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _ProxyHandler(BaseHTTPRequestHandler):
    server: Proxy

    def log_message(self, *arguments) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(Asked(self.path, None, None, headers=dict(self.headers)))
        with build_opener(ProxyHandler({})).open(self.path, timeout=10) as answer:
            body = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", answer.headers["ETag"])
            self.end_headers()
            self.wfile.write(body)


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
