"""`shitu serve` while parts of Triton are killed under it."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import time
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import error_details_pb2, status_pb2
from PIL import Image
from tests.conftest import start_server

from shitu.v1 import recognition_pb2, recognition_pb2_grpc
from shitu_server.children import sweep

RECOVERY_LIMIT_S = 10.0


@pytest.fixture
def outage_server(tmp_path):
    running = start_server(tmp_path, env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    try:
        running.wait_until_serving()
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def descendants(server) -> list[psutil.Process]:
    return [one for one in psutil.Process(server.process.pid).children(recursive=True) if is_alive(one)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def one_of(server, *words: str) -> psutil.Process:
    """Return the process whose program is the first word and whose command line holds the others."""
    found = [
        one
        for one in descendants(server)
        if Path(one.cmdline()[0]).name == words[0] and all(word in " ".join(one.cmdline()) for word in words[1:])
    ]
    assert len(found) == 1
    return found[0]


def shared_memory_of(run_ids: list[str]) -> list[Path]:
    return [path for path in Path("/dev/shm").iterdir() if any(run_id in path.name for run_id in run_ids)]


def retry_delay_s(error: grpc.aio.AioRpcError) -> float:
    status = next(value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status_pb2.Status.FromString(status).details)
    return retry.retry_delay.ToTimedelta().total_seconds()


async def outage(stub) -> tuple[float, list[grpc.aio.AioRpcError]]:
    """Embed until it works again; returns the seconds from now on and the failures, of which there must be one."""
    start_s, errors = time.monotonic(), []
    while time.monotonic() - start_s < 2 * RECOVERY_LIMIT_S:
        try:
            await stub.Embed(recognition_pb2.EmbedRequest(image=picture()), timeout=5)
        except grpc.aio.AioRpcError as error:
            errors.append(error)
        else:
            if errors:
                return time.monotonic() - start_s, errors
        await asyncio.sleep(0.05)
    pytest.fail(f"not served again: {errors[-1:]}")


async def test_triton_comes_back_and_everything_dies_with_the_server(outage_server, tmp_path):
    async with grpc.aio.insecure_channel(outage_server.address) as channel:
        stub = recognition_pb2_grpc.RecognitionServiceStub(channel)
        await stub.Embed(recognition_pb2.EmbedRequest(image=picture()), timeout=5)
        for victim in (
            one_of(outage_server, "triton_python_backend_stub", "demo_rec"),
            one_of(outage_server, "tritonserver"),
        ):
            victim.kill()
            seconds, errors = await outage(stub)
            assert seconds < RECOVERY_LIMIT_S
            assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
            assert all(retry_delay_s(error) > 0 for error in errors)
    outage_server.wait_until_serving()
    family = descendants(outage_server)
    assert len(family) >= 5, "gallery, gateway, Triton and two stubs"
    os.kill(outage_server.process.pid, signal.SIGKILL)
    outage_server.process.wait(5)
    end_s = time.monotonic() + 10  # stubs look for their server every few seconds
    while left := [one for one in family if is_alive(one)]:
        assert time.monotonic() < end_s, left
        await asyncio.sleep(0.1)
    runs = tmp_path / "cache" / "shitu" / "runs"
    crashed = [record.stem for record in runs.iterdir()]
    assert len(crashed) == 2, "of the server and of its Triton"
    sweep(runs)  # the next server does it before it starts
    assert list(runs.iterdir()) == []
    assert shared_memory_of(crashed) == []
