"""TCP ports of the embedded Triton server."""

from __future__ import annotations

import socket
from dataclasses import astuple, dataclass
from typing import Final

LOOPBACK: Final = "127.0.0.1"


class PortInUseError(Exception):
    """Another process has one of the ports; `port` is 0 where it is not known which."""

    def __init__(self, port: int, detail: str) -> None:
        super().__init__(f"port {port or 'of Triton'} is in use: {detail}")
        self.port = port


@dataclass(frozen=True)
class Ports:
    """Ports on the loopback interface; 0 stands for any free one."""

    grpc: int = 0
    http: int = 0
    metrics: int = 0

    def fixes(self, port: int) -> bool:
        """Return whether this very port was asked for."""
        return port != 0 and port in astuple(self)

    def chosen(self) -> Ports:
        """Put free ports where 0 stands. They can be taken before Triton binds them, so the caller tries again.

        Raises:
            PortInUseError: one that was asked for is taken.
        """
        sockets: list[socket.socket] = []
        try:
            for port in astuple(self):
                sockets.append(socket.socket())
                if port:  # as Triton does: connections that are closing do not hold it
                    sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    sockets[-1].bind((LOOPBACK, port))
                except OSError as error:
                    raise PortInUseError(port, str(error)) from error
            return Ports(*(one.getsockname()[1] for one in sockets))
        finally:
            for one in sockets:
                one.close()
