"""The gallery process as an operator sees it: addresses, directories, signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shitu_server.errors import ShituError, UnavailableError
from shitu_server.gallery.client import GalleryClient
from shitu_server.types import AddResult, NewItem

ROWS = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)


def start(address: str, data_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shitu_server.gallery", "--address", address, "--data-dir", str(data_dir)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def running(address: str, data_dir: Path) -> Iterator[subprocess.Popen[str]]:
    with start(address, data_dir) as process:
        try:
            yield process
        finally:
            process.kill()


def refusal(address: str, data_dir: Path) -> str:
    """Start a process that must end by itself; return what it says."""
    with start(address, data_dir) as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in said
    return said


async def connect(address: str) -> GalleryClient:
    client = GalleryClient(address)
    end_s = time.monotonic() + 30
    while True:
        try:
            await client.check()
        except ShituError:
            assert time.monotonic() < end_s
            await asyncio.sleep(0.05)
        else:
            return client


async def test_addresses_and_directories_in_use(tmp_path: Path):
    address = f"unix:{tmp_path}/a.sock"
    with running(address, tmp_path / "data"):
        client = await connect(address)
        assert stat.S_IMODE(os.stat(f"{tmp_path}/a.sock").st_mode) == 0o600  # noqa: PTH116  # takes no time
        assert f"another process listens on {address}" in await asyncio.to_thread(refusal, address, tmp_path / "other")
        assert "in use by process" in await asyncio.to_thread(refusal, f"unix:{tmp_path}/b.sock", tmp_path / "data")
        await client.create("g", "encoder", 128)  # unharmed
        await client.close()
    with running(address, tmp_path / "data"):  # the socket of the killed process is replaced
        client = await connect(address)
        assert (await client.get("g")).item_count == 0
        await client.close()


async def test_tcp_address(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "in use" in await asyncio.to_thread(refusal, f"127.0.0.1:{port}", tmp_path)
    with running(f"127.0.0.1:{port}", tmp_path):
        client = await connect(f"127.0.0.1:{port}")
        await client.create("g", "encoder", 128)
        await client.close()


@pytest.mark.parametrize("address", ["unix:relative.sock", f"unix:/tmp/{'a' * 120}"])
def test_socket_path_that_cannot_be(address: str, tmp_path: Path):
    assert "absolute path of at most 107 bytes" in refusal(address, tmp_path)


async def test_sigterm_finishes_what_is_in_flight(tmp_path: Path):
    address = f"unix:{tmp_path}/a.sock"
    with running(address, tmp_path / "data") as process:
        client = await connect(address)
        await client.create("g", "encoder", 128)
        adding = [
            asyncio.create_task(
                client.add("g", [NewItem(f"{call}-{i}", "l", row) for i, row in enumerate(ROWS)], "encoder")
            )
            for call in range(10)
        ]
        await asyncio.wait(adding, return_when=asyncio.FIRST_COMPLETED)
        process.terminate()
        outcomes = await asyncio.gather(*adding, return_exceptions=True)
        assert await asyncio.to_thread(process.wait, 20) == 0
        refused = [outcome for outcome in outcomes if isinstance(outcome, UnavailableError)]
        added = [outcome for outcome in outcomes if isinstance(outcome, AddResult)]
        assert added
        assert len(refused) + len(added) == len(outcomes)
        assert all(error.retry_after_s > 0 for error in refused)
        begin_s = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            await client.get("g")
        assert time.monotonic() - begin_s < 1
        assert caught.value.retry_after_s > 0
    assert not list((tmp_path / "data").glob("*-wal"))  # closed, not dropped
    with running(address, tmp_path / "data"):
        for _ in range(600):  # the same client finds the new process by itself
            try:
                info = await client.get("g")
                break
            except UnavailableError:
                await asyncio.sleep(0.05)
        assert info.item_count == len(added) * len(ROWS)
        await client.close()


async def test_reflection_lists_the_services(tmp_path: Path):
    address = f"unix:{tmp_path}/a.sock"
    with running(address, tmp_path / "data"):
        await (await connect(address)).close()
        async with grpc.aio.insecure_channel(address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            replies = [reply async for reply in stub.ServerReflectionInfo(asked)]
    names = {service.name for service in replies[0].list_services_response.service}
    assert {"shitu.v1.GalleryService", "grpc.health.v1.Health"} <= names
