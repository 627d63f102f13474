"""A real gallery process for tests: started, asked, killed, started again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shitu_server.errors import DeadlineExceededError, UnavailableError
from shitu_server.gallery.client import GalleryClient
from shitu_server.kept_process import EXIT_CONFIGURATION

START_TIMEOUT_S = 30


class GalleryProcess:
    """One at a time, always on the same address and data."""

    def __init__(self, folder: Path, address: str = "", module: str = "shitu_server", **variables: str) -> None:
        folder.mkdir(exist_ok=True)
        self.module = module
        self.address = address or f"unix:{folder}/gallery.sock"
        self.data_dir = folder / "data"
        self.log = folder / f"gallery-{len(list(folder.iterdir()))}.log"
        self.start(**variables)

    def start(self, **variables: str) -> None:
        command = [sys.executable, "-m", self.module, "gallery"]
        settings = {"SHITU_GALLERY_ADDRESS": self.address, "SHITU_DATA_DIR": str(self.data_dir)}
        environment = {**os.environ, **settings, **variables}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environment)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it by SIGTERM, as `shitu serve` does."""
        self.process.terminate()
        assert self.process.wait(START_TIMEOUT_S) == 0, self.log.read_text()

    def refusal(self) -> str:
        """Wait until it ends by itself; return what it says."""
        assert self.process.wait(START_TIMEOUT_S) == EXIT_CONFIGURATION
        said = self.log.read_text()
        assert "Traceback" not in said
        return said

    async def wait_until_serving(self, client: GalleryClient) -> None:
        end_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end_s:
            try:
                await client.check()
            except (UnavailableError, DeadlineExceededError):
                if self.process.poll() is not None:
                    pytest.fail(f"the gallery process ended: {self.log.read_text()}")
                await asyncio.sleep(0.02)
            else:
                return
        pytest.fail("the gallery process did not start")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[GalleryClient]:
        """Connect when it is serving."""
        client = GalleryClient(self.address)
        try:
            await self.wait_until_serving(client)
            yield client
        finally:
            await client.close()
