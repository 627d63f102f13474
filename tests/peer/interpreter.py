"""The peer environment: PaddleX, PaddleClas and PaddleDetection, which cannot live in one environment with ours."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

SCRIPTS = Path(__file__).parent
PEER = "SHITU_PEER_PYTHON"
"""Names the peer's interpreter; `make peer` makes the one that is taken where it is unset."""
PEER_OF_PADDLE_2 = "SHITU_PEER26_PYTHON"
"""Names an interpreter with PaddlePaddle 2.6.2, PaddleClas and PaddleDetection, which exports `.pdmodel`. Nothing makes it."""
NEEDED = ("paddle", "paddleclas", "ppdet")
_TIME_LIMIT_S = 1200


def peer_python(*modules: str) -> Path:
    """The peer's interpreter; skips where it is missing, or cannot import the modules (what the official layers need, where none)."""
    python = Path(os.environ.get(PEER) or REPOSITORY / ".venv-peer" / "bin" / "python")
    if not python.is_file():
        pytest.skip(f"needs the peer environment, and there is none at {python}: make peer")
    return _importing(python, modules or NEEDED, f"{python} is no complete peer environment: make peer")


def peer_python_of_paddle_2() -> Path:
    """As `peer_python`, with PaddlePaddle 2.6."""
    named = os.environ.get(PEER_OF_PADDLE_2)
    if not named:
        pytest.skip(
            f"needs PaddlePaddle 2.6.2, PaddleClas and PaddleDetection beside `make peer`: name it in {PEER_OF_PADDLE_2}"
        )
    return _importing(Path(named), NEEDED, f"{named}, which {PEER_OF_PADDLE_2} names, is not complete")


def _importing(python: Path, modules: tuple[str, ...], complaint: str) -> Path:
    if fault := _import_fault(python, modules):
        pytest.skip(f"{complaint} ({fault})")
    return python


@functools.cache
def _import_fault(python: Path, modules: tuple[str, ...]) -> str:
    try:
        done = _run(python, ["-c", f"import {', '.join(modules)}"])
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]


def run_peer(python: Path, script: str, *arguments: str | Path) -> None:
    """Run a script of this folder with the peer's interpreter; fails the test with what it said."""
    done = _run(python, [str(SCRIPTS / script), *map(str, arguments)])
    if done.returncode != 0:
        pytest.fail(f"{script} {' '.join(map(str, arguments))} failed:\n{(done.stdout + done.stderr)[-4000:]}")


def _run(python: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK"] = "1"
    return subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=False, env=environment
    )
