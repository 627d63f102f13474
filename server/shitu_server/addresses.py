"""Where servers listen: hosts and ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from shitu_server.errors import ConfigurationError


def joined(host: str, port: int) -> str:
    """Return `host:port` as gRPC takes it: an IPv6 address stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Hold a port for the gateways, which share it by SO_REUSEPORT; yields its number (chosen by the system for 0).

    Raises:
        ConfigurationError: another program has it, or the address is not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        try:
            _refuse_used(family, host, port)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {joined(host, port)}: {error.strerror}; choose another --port, or 0 for a free one"
            ) from error
        yield int(holder.getsockname()[1])


def _refuse_used(family: socket.AddressFamily, host: str, port: int) -> None:
    # SO_REUSEPORT would let two servers of one user share a port unnoticed; a plain bind does not.
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
