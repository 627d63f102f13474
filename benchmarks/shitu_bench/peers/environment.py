"""PaddleX's environment, and how PaddleX is started in it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shitu_bench.errors import BenchError
from shitu_bench.isolated import bound_command
from shitu_bench.peers.http import HOST

LAST_CHARACTERS: Final = 1500
"""Of what a process said that failed, how much is shown."""
_SCRIPTS: Final = Path(__file__).with_name("scripts")
_SCRIPT_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True)
class PeerConfiguration:
    """How PaddleX serves; the defaults are its own."""

    threads: int | None = None
    """Of a model; None is what `paddlex --serve` takes, 10."""
    encoder_batch: int = 1
    """Crops that go through the encoder together."""
    processes: int = 1
    """Servers, each with models of its own; the clients are shared evenly among them."""
    is_onednn_on: bool = True
    is_plugin_used: bool = False
    """Of high-performance inference, `--use_hpip`."""

    def __str__(self) -> str:
        threads = "10 threads (its default)" if self.threads is None else f"{self.threads} threads"
        parts = [threads, f"crops by {self.encoder_batch}", f"{self.processes} process(es)"]
        parts += ["no oneDNN"] * (not self.is_onednn_on) + ["high-performance plugin"] * self.is_plugin_used
        return ", ".join(parts)


@dataclass(frozen=True)
class PeerModels:
    """What PaddleX serves."""

    encoder: str
    directories: Mapping[str, Path]
    """Exported, by name: of the detector and of the encoder."""
    threshold: float
    """Of the detector."""
    index: Path | None = None
    """Folder of an index that is read once, at the start; requests then name none."""


class PeerEnvironment:
    """PaddleX's interpreter."""

    def __init__(self, python: Path) -> None:
        """Refuse a place where there is none."""
        if not python.is_file():
            raise BenchError(
                f"expected PaddleX's interpreter at {python}, and there is none: run `make peer` in the checkout, or name another "
                f"with --peer-python"
            )
        self.python = python

    def facts(self) -> dict[str, Any]:
        """Return versions, and whether oneDNN is there."""
        facts: dict[str, Any] = json.loads(self.run("facts.py").splitlines()[-1])
        return facts

    def write_index(self, vectors: NDArray[np.float32], labels: Sequence[str], stored: Path, folder: Path) -> None:
        """Write a gallery as a file of the index storage, and as a folder.

        Args:
            vectors: float32 [n, dimension].
            labels: of the vectors.
            stored: to be made.
            folder: to be made.
        """
        source = folder.with_suffix(".npy")
        np.save(source, vectors)
        source.with_suffix(".json").write_text(json.dumps(list(labels)), encoding="utf-8")
        self.run("index_files.py", str(source), str(source.with_suffix(".json")), str(stored), str(folder))

    def run(self, script: str, *arguments: str) -> str:
        """Run a script of the folder `peer`, and return what it printed.

        Raises:
            BenchError: it failed, or took too long.
        """
        command = [str(self.python), str(_SCRIPTS / script), *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SCRIPT_TIMEOUT_S, check=False, env=self.variables()
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"{script} did not run with {self.python}: {error}") from error
        if done.returncode:
            told = (done.stdout + done.stderr)[-LAST_CHARACTERS:]
            raise BenchError(
                f"{self.python} is no complete environment of PaddleX: run `make peer`. {script} said:\n{told}"
            )
        return done.stdout

    def start(self, config: Path, port: int, configuration: PeerConfiguration, log: Path) -> subprocess.Popen[bytes]:
        """Start a server that logs to a file, works in that file's folder, and ends with this process whatever it dies of."""
        with log.open("wb") as output:
            # Of a session of its own: Ctrl-C is ours, and we end it.
            return subprocess.Popen(
                bound_command(*self.command(config, port, configuration)),
                stdout=output,
                stderr=output,
                cwd=log.parent,
                env=self.variables(is_onednn_on=configuration.is_onednn_on),
                start_new_session=True,
            )

    def command(self, config: Path, port: int, configuration: PeerConfiguration) -> list[str]:
        """Return what serves."""
        if configuration.threads is not None:
            script = str(_SCRIPTS / "serving.py")
            return [str(self.python), script, str(config), HOST, str(port), str(configuration.threads)]
        plugin = ["--use_hpip"] * configuration.is_plugin_used
        serve = ["--serve", "--pipeline", str(config), "--device", "cpu", "--host", HOST, "--port", str(port)]
        return [str(self.python), "-m", "paddlex", *serve, *plugin]

    def variables(self, *, is_onednn_on: bool = True) -> dict[str, str]:
        """Return the environment of its processes: no network, nothing of our own interpreter."""
        kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
        onednn = {} if is_onednn_on else {"PADDLE_PDX_ENABLE_MKLDNN_BYDEFAULT": "0"}
        return {**kept, "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "1", **onednn}
