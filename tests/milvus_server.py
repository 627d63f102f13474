"""A real Milvus for tests: started, asked, killed, started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from shitu_server.errors import UnavailableError
from shitu_server.gallery.milvus.gallery import MilvusGallery
from tests.conftest import REPOSITORY

PYTHON = "SHITU_MILVUS_PYTHON"
"""Names the interpreter that has the package `milvus`; `make milvus` makes the one that is taken where it is unset."""
START_TIMEOUT_S = 120
TOKEN = "root:Milvus"
"""Of every new Milvus."""
_PORTS = (
    *("proxy", "proxy_internal", "etcd", "etcd_peer", "root_coord", "query_coord", "query_node", "index_coord"),
    *("index_node", "data_coord", "data_node", "metrics"),
)
_OPTIONS = {
    "log.level": "warn",
    "common.security.authorizationEnabled": "true",
    # After a kill Milvus waits so many seconds for the process that is no more; 30 by default.
    "common.session.ttl": "3",
}
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def milvus_python() -> Path:
    """The interpreter that has Milvus; skips where it is missing."""
    python = Path(os.environ.get(PYTHON) or REPOSITORY / ".venv-milvus" / "bin" / "python")
    if not python.is_file():
        pytest.skip(f"needs a Milvus server, and there is none at {python}: make milvus")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if subprocess.run([python, "-c", "import milvus"], capture_output=True, env=environment, check=False).returncode:
        pytest.skip(f"{python} has no package milvus: make milvus")
    return python


class MilvusServer:
    """One at a time, always on the same ports and data. It listens on all interfaces, as Milvus 2.3.5 cannot be told otherwise."""

    def __init__(self, folder: Path) -> None:
        self._python = milvus_python()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        ports = _free_ports(len(_PORTS))
        self._ports = {f"{name}_port": str(port) for name, port in zip(_PORTS, ports, strict=True)}
        self._options = {**self._ports, **_OPTIONS}
        self.token = TOKEN
        self.address = f"http://127.0.0.1:{self._ports['proxy_port']}"
        self.start()
        self.wait_until_serving()

    def start(self) -> None:
        script = Path(__file__).with_name("milvus_process.py")
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [self._python, script, self._folder, json.dumps(self._options)],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def pause(self) -> None:
        """Let it neither answer nor refuse; for less than a second, or it ends."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait_until_serving(self) -> None:
        """Until it says so itself; collections may take longer to be searched."""
        end_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end_s:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(OSError, urllib.error.URLError):
                if _NO_PROXY.open(f"http://127.0.0.1:{self._ports['metrics_port']}/healthz", timeout=5).read() == b"OK":
                    return
            time.sleep(0.1)
        self.kill()
        pytest.fail(f"Milvus did not start: {(self._folder / 'server.log').read_text()[-4000:]}")

    async def wait_until_loaded(self, gallery: MilvusGallery) -> None:
        """Until all galleries can be read, with all that was written before it was started."""
        end_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                await gallery.list_galleries(1000, "")
            except UnavailableError:
                assert time.monotonic() < end_s, "Milvus did not load its collections"
                await asyncio.sleep(0.2)
            else:
                return


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
