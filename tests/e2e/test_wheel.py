"""The wheel, installed outside the checkout in environments of its own: the client alone, and with the server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY
from tests.drawn import product_picture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, REPOSITORY]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def installed(folder: Path, wheel: Path, *extras: str) -> Path:
    """Make an environment in `folder` with the wheel; returns its `shitu`."""
    venv.create(folder, with_pip=True)
    what = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    # The server's lock file holds every version, the client's among them.
    constraints = folder / "constraints.txt"
    lines = (REPOSITORY / "requirements" / "server.lock").read_text().splitlines()
    constraints.write_text("\n".join(line.rstrip(" \\") for line in lines if line[:1].isalnum()))
    subprocess.run([folder / "bin" / "pip", "install", "-q", what, "-c", constraints], check=True)
    return folder / "bin" / "shitu"


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    # Without the checkout's environment: only what the wheel brings.
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "COLUMNS": "200"}
    result = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    output = result.stdout + result.stderr
    assert result.returncode == status, output
    return output


def test_client_and_server_from_the_wheel(wheel, tmp_path):
    client = installed(tmp_path / "client", wheel)
    server = installed(tmp_path / "server", wheel, "server")
    home = tmp_path / "home"
    home.mkdir()
    assert "recognize" in run(client, "--help", cwd=home)
    assert "pip install 'shitu[server]'" in run(client, "serve", cwd=home, status=1)
    assert "pip install 'shitu[train]'" in run(server, "train", cwd=home, status=1)
    for name in ("vector.index", "id_map.yaml"):
        (home / name).touch()
    assert "pip install 'shitu[paddlex]'" in run(client, "gallery", "import-paddlex", "p", home, cwd=home, status=1)
    picture = home / "product.jpg"
    picture.write_bytes(product_picture(0))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serving = subprocess.Popen(
        [server, "serve", "--port", str(port)], cwd=home, env={"PATH": os.environ["PATH"], "HOME": str(home)}
    )
    try:
        address = f"127.0.0.1:{port}"
        wait_until_serving(serving, port)
        assert "gallery" in run(client, "gallery", "create", "g", "--server", address, cwd=home)
        assert "added 1 of 1" in run(client, "gallery", "add", "g", "Cola", picture, "--server", address, cwd=home)
        table = run(client, "recognize", picture, "-g", "g", "--whole-image", "--server", address, cwd=home)
        assert "Cola" in table
    finally:
        serving.terminate()
        assert serving.wait(30) == 0


def wait_until_serving(process: subprocess.Popen[bytes], port: int) -> None:
    from shitu_server.readiness import is_serving

    end_s = time.monotonic() + 60
    while not is_serving("127.0.0.1", port):
        assert process.poll() is None
        assert time.monotonic() < end_s
        time.sleep(0.2)
