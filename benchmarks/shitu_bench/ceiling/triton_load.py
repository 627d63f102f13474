"""Triton alone, without our gateway before it: perf_analyzer, NVIDIA's load generator, beside ONNX Runtime in process.

`make perf-analyzer` fetches it. It wants two libraries under names that pytriton's wheel has not: they are linked in a folder for it.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from shitu_bench.ceiling.models import CeilingModels, Slice
from shitu_bench.errors import BenchError
from shitu_bench.serving.batches import Batch, pictures_per_s, sequence
from shitu_bench.serving.triton import BenchTriton
from shitu_bench.summaries import spread_of
from shitu_models.specs import PIXELS

NAME: Final = "perf_analyzer"
CONCURRENCY: Final = 16
_LIBRARIES: Final = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
"""The names that it wants, and those of the wheel."""
_ROUNDS: Final = 3
_WINDOW_S: Final = 5.0
_LEAST_REQUESTS: Final = 3 * CONCURRENCY
_TRIAL_BATCH: Final = 8
_TRIAL_S: Final = 1.0
"""Of the models alone, to know how many requests take about a window: a window that is too short for the slowest measures nothing."""
_TIMEOUT_S: Final = 900.0
"""For one load of the slowest model on a busy machine."""
_SEED: Final = 7
_RATE: Final = "Inferences/Second"
_LAST_CHARACTERS: Final = 800


@dataclass(frozen=True)
class PerfAnalyzer:
    """Where the program is."""

    path: Path

    @classmethod
    def found(cls, given: Path | None) -> PerfAnalyzer | None:
        """Return the given one, or that on the PATH, or that of `make perf-analyzer`; None where there is none.

        Raises:
            BenchError: the given one is not there.
        """
        if given is not None:
            if not given.is_file():
                raise BenchError(f"expected {NAME} at {given}; `make perf-analyzer` fetches it")
            return cls(given)
        beside = Path(sys.prefix) / "perf" / NAME
        on_path = shutil.which(NAME)
        if on_path is None and not beside.is_file():
            return None
        return cls(Path(on_path) if on_path else beside)

    def run(self, address: str, model: str, batch: int, request_count: int, data: Path) -> float:
        """Send a model so many requests, and return inferences a second. Raises BenchError."""
        folder = data.parent
        output = folder / "perf.csv"
        command = [
            str(self.path), "-m", model, "-u", address, "-i", "grpc", "--async", "-b", str(batch),
            "--concurrency-range", str(CONCURRENCY), "--request-count", str(request_count), "-s", "999",
            "--input-data", str(data), "--percentile", "99", "-f", str(output),
        ]  # fmt: skip
        environment = {**os.environ, "LD_LIBRARY_PATH": str(_libraries(folder))}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"{self.path} could not be run: {error}") from error
        if done.returncode or not output.is_file():
            raise BenchError(
                f"{self.path} ended with code {done.returncode}: {(done.stdout + done.stderr)[-_LAST_CHARACTERS:]}"
            )
        with output.open(encoding="utf-8", newline="") as file:
            return float(next(csv.DictReader(file))[_RATE])


def triton_alone(
    perf_analyzer: PerfAnalyzer,
    triton: BenchTriton,
    alone: CeilingModels,
    requested: Mapping[str, int],
    pixels: Mapping[str, Path],
    console: Console,
) -> dict[str, Any]:
    """Return by model what Triton answers alone, and what share that is of ONNX Runtime in process; turn by turn.

    Args:
        perf_analyzer: the program.
        triton: what it loads.
        alone: the models in process.
        requested: items of a request to each model.
        pixels: inputs of each model, .npy.
        console: is told what goes on.
    """
    figures = {}
    with tempfile.TemporaryDirectory(prefix="shitu-bench-") as folder:
        for model, batch in requested.items():
            data = _input_data(pixels[model], Path(folder) / f"{model}.json")
            with console.status(f"Triton alone with {model}"):
                count = _request_count(alone, model, batch)
                turns = [_turn(perf_analyzer, triton, alone, (model, batch, count), data) for _ in range(_ROUNDS)]
            names = ("rate_per_s", "ceiling_per_s", "ratio", "mean_batch")
            figures[model] = {
                "request_batch": batch,
                **{name: spread_of([one[name] for one in turns]) for name in names},
            }
    return {"concurrency": CONCURRENCY, "models": figures}


def _request_count(alone: CeilingModels, model: str, batch: int) -> int:
    outcome = alone.run(Slice((Batch(model, _TRIAL_BATCH),), _TRIAL_S, 1))
    rate_per_s = pictures_per_s(outcome.done, {model: 1.0}, 1)
    return max(_LEAST_REQUESTS, round(_WINDOW_S * rate_per_s / batch))


def _turn(
    perf_analyzer: PerfAnalyzer,
    triton: BenchTriton,
    alone: CeilingModels,
    requests: tuple[str, int, int],
    data: Path,
) -> dict[str, float]:
    """Measure Triton, then the model alone; `requests` are of a model, with so many items, so many."""
    model, batch, count = requests
    before = triton.executions(model)[model]
    rate_per_s = perf_analyzer.run(triton.address, model, batch, count, data)
    executed = triton.executions(model)[model].since(before)
    outcome = alone.run(Slice(sequence({model: executed}, _SEED), _WINDOW_S, 1))
    ceiling_per_s = pictures_per_s(outcome.done, {model: 1.0}, 1)
    return {
        "rate_per_s": rate_per_s,
        "ceiling_per_s": ceiling_per_s,
        "ratio": rate_per_s / ceiling_per_s,
        "mean_batch": executed.mean_size,
    }


def _input_data(pixels: Path, target: Path) -> Path:
    rows = np.load(pixels)
    entries = [{PIXELS: {"b64": base64.b64encode(row.tobytes()).decode("ascii")}} for row in rows]
    target.write_text(json.dumps({"data": entries}), encoding="utf-8")
    return target


def _libraries(folder: Path) -> Path:
    """Make a folder with the libraries under the names that are wanted. Raises BenchError where they are missing."""
    target = folder / "libraries"
    target.mkdir(exist_ok=True)
    there = [Path(str(file.locate())) for file in files("nvidia-pytriton") or []]
    for name, pattern in _LIBRARIES.items():
        found = [path for path in there if path.match(pattern)]
        if not found:
            raise BenchError(f"nvidia-pytriton has no {pattern}, which {NAME} needs as {name}")
        if not (target / name).exists():
            (target / name).symlink_to(found[0])
    return target
