"""`shitu serve --role gateway`: a gateway alone, as in a pod."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.conftest import START_TIMEOUT_S, RunningServer, start_server

SERVICES = ("", "shitu.v1.RecognitionService", "shitu.v1.GalleryService")


def start_gateway(folder: Path, silent: socket.socket, *options: str, port: int = 0) -> RunningServer:
    """A gateway whose gallery process and Triton take connections but never answer."""
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    parts = ("--role", "gateway", "--gallery-address", address, "--triton-address", address)
    return start_server(folder, *parts, *options, port=port)


def wait_until_listening(server: RunningServer) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
        except ConnectionRefusedError:
            assert server.process.poll() is None, server.log.read_text()
            assert time.monotonic() < end_s
            time.sleep(0.02)
        else:
            return


@pytest.fixture
def silent():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def gateway(tmp_path, silent):
    server = start_gateway(tmp_path / "first", silent)
    try:
        wait_until_listening(server)
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def test_never_says_serving_before_it_has_looked(gateway):
    with grpc.insecure_channel(gateway.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        first = [stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status for name in SERVICES]
    assert first == [health_pb2.HealthCheckResponse.NOT_SERVING] * 3


def test_a_second_one_on_the_port_is_refused(gateway, silent, tmp_path):
    second = start_gateway(tmp_path / "second", silent, port=gateway.port)
    assert second.process.wait(START_TIMEOUT_S) == 1
    assert f"cannot listen on 127.0.0.1:{gateway.port}: Address already in use" in second.log.read_text()


def test_several_workers_are_refused(silent, tmp_path):
    server = start_gateway(tmp_path, silent, "--workers", "2")
    assert server.process.wait(START_TIMEOUT_S) == 1
    assert "workers: a gateway alone is one process, got 2" in server.log.read_text()
