"""Real servers and real pictures for every test that wants them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from shitu_server.addresses import reserved_port
from shitu_server.readiness import is_serving

if TYPE_CHECKING:
    from tests.milvus_server import MilvusServer

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
START_TIMEOUT_S = 60


@dataclass
class RunningServer:
    """A `shitu serve` in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    data_dir: Path
    log: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_until_serving(self, timeout_s: float = START_TIMEOUT_S) -> None:
        end_s = time.monotonic() + timeout_s
        while not is_serving("127.0.0.1", self.port):
            if self.process.poll() is not None or time.monotonic() > end_s:
                pytest.fail(f"the server did not start:\n{self.log.read_text()}")
            time.sleep(0.1)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


def start_server(folder: Path, *options: str, port: int = 0, env: dict[str, str] | None = None) -> RunningServer:
    """Start `shitu serve` on a free port, data and log in `folder`; returns at once."""
    if port == 0:
        with reserved_port("127.0.0.1", 0) as free:
            port = free
    folder.mkdir(parents=True, exist_ok=True)
    data_dir, log = folder / "data", folder / "server.log"
    # In the environment too, where all descendants have it, so that what is left of them is found.
    environment = {**os.environ, "SHITU_DATA_DIR": str(data_dir), **(env or {})}
    command = [
        sys.executable,
        "-m",
        "shitu_client",
        "serve",
        "--port",
        str(port),
        "--data-dir",
        str(data_dir),
        *options,
    ]
    with log.open("a") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, text=True, start_new_session=True, env=environment
        )
    return RunningServer(process, port, data_dir, log)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all tests that leave it as they found it."""
    running = start_server(tmp_path_factory.mktemp("server"))
    try:
        running.wait_until_serving()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """One Milvus for all tests that do not end it."""
    from tests.milvus_server import MilvusServer

    running = MilvusServer(tmp_path_factory.mktemp("milvus"))
    yield running
    running.kill()


@pytest.fixture
async def channel(server: RunningServer):
    async with grpc.aio.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def grocery() -> Path:
    """The grocery photos, which are not part of the project."""
    folder = SHARED_DATA / "grocery"
    if not folder.is_dir():
        pytest.skip(f"the grocery photos are not at {folder}")
    return folder
