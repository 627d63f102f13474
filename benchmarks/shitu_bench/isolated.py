"""Measurements in a fresh process: numpy, FAISS and CUDA read their environment once, when they are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import shitu_server
from shitu_bench.errors import BenchError

_LAUNCHER: Final = Path(shitu_server.__file__).with_name("launcher.py")


def bound_command(*command: str) -> list[str]:
    """Return a command whose process the kernel ends with the thread that starts it, whatever that dies of."""
    return [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command]


def environment_without_settings() -> dict[str, str]:
    """Return this process' environment save SHITU_*: what is measured has the settings that its results tell, not the shell's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SHITU_")}


def run_isolated(
    module: str, plan: Mapping[str, Any], environment: Mapping[str, str], timeout_s: float
) -> dict[str, Any]:
    """Run a module's `main(plan, results_path)` in a process of its own, and return the JSON that it wrote.

    Args:
        module: is run with `python -m`; what it prints goes to the terminal.
        plan: in JSON's types.
        environment: of the process, whole.
        timeout_s: after which it is ended.

    Raises:
        BenchError: it failed, and said why, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="shitu-bench-") as folder:
        results = Path(folder) / "results.json"
        command = bound_command(sys.executable, "-m", module, json.dumps(plan), str(results))
        try:
            done = subprocess.run(command, env=dict(environment), check=False, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{module} was not done in {timeout_s:g} s and was ended") from error
        if done.returncode:
            raise BenchError(f"{module} ended with code {done.returncode}; it said why above")
        figures: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    return figures
