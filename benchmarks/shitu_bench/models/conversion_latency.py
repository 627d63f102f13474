"""ONNX Runtime latency of each converted model beside that of an unoptimised conversion.

`python -m shitu_bench.models.conversion_latency` in the checkout, with the dev extra, writes results/model_latency.json (about 15 minutes on two
cores); `python -m shitu_bench.reports.docs_tables` makes the table in docs/models.md from it.

The weights are random (`spread_weights`): time does not depend on their values, but for the suppression of a detector, which has
about as many boxes to look at as there are candidates. Unoptimised is what paddle2onnx makes of the layer as it is trained (branches
not fused, batch normalisation apart): float32 planes in, and no suppression; its normalisation by numpy is timed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console

from shitu_bench.machine import described
from shitu_bench.models.official_layers import spread_layer
from shitu_bench.models.sessions import SessionPlan, opened
from shitu_models.specs import DEMO_SPECS, OFFICIAL_SPECS, SPECS, ModelSpec
from shitu_train.architectures.catalogue import ARCHITECTURES
from shitu_train.conversion.export import exported_graph
from shitu_train.conversion.fusion import fuse
from shitu_train.conversion.paddle2onnx_process import export_layer
from shitu_train.records import source_commit, tool_versions

RESULTS: Final = Path(__file__).resolve().parents[2] / "results" / "model_latency.json"
BATCHES: Final = (1, 8)
_SEED: Final = 1
_LEAST_ROUNDS, _MOST_ROUNDS = 5, 60
_BUDGET_S: Final = 40.0
"""For each model and batch, all variants together; at least _LEAST_ROUNDS are run."""

Run = Callable[[], Any]


def measure(names: list[str], threads: int) -> dict[str, Any]:
    """Measure the models one after the other; rounds go from variant to variant, so that all see the same machine."""
    models = {}
    for name in names:
        models[name] = _measured(name, threads)
        Console(stderr=True).print(f"measured {name}")
    return {
        "machine": described(),
        "threads": threads,
        "versions": tool_versions(),
        "commit": source_commit(),
        "seed": _SEED,
        "models": models,
    }


def _measured(name: str, threads: int) -> dict[str, Any]:
    spec, graphs = SPECS[name], _graphs(name)
    sessions = {variant: opened(graphs[variant], SessionPlan(threads)) for variant in ("unoptimised", "plain", "fused")}
    figures: dict[str, Any] = {"bytes": {variant: len(content) for variant, content in graphs.items()}}
    rng = np.random.default_rng(_SEED)
    for batch in BATCHES:
        pixels = rng.integers(0, 256, (batch, spec.input_size, spec.input_size, 3), np.uint8)
        runs = _runs(sessions, pixels, spec)
        outputs = [runs[variant]()[-1] for variant in ("plain", "fused")]
        figures[f"batch_{batch}"] = {
            **_timed(runs),
            "fused_difference": float(np.abs(outputs[0] - outputs[1]).max()),
        }
    return figures


def _runs(
    sessions: Mapping[str, onnxruntime.InferenceSession], pixels: NDArray[np.uint8], spec: ModelSpec
) -> dict[str, Run]:
    planes = _normalised(pixels, spec)
    return {
        "unoptimised": lambda: sessions["unoptimised"].run(None, {"image": planes}),
        "normalisation": lambda: _normalised(pixels, spec),
        "plain": lambda: sessions["plain"].run(None, {"pixels": pixels}),
        "fused": lambda: sessions["fused"].run(None, {"pixels": pixels}),
    }


def _graphs(name: str) -> dict[str, bytes]:
    spec, layer = SPECS[name], spread_layer(name, _SEED)
    unoptimised = export_layer(layer, spec.input_size).SerializeToString()
    served = exported_graph(ARCHITECTURES[name].served(layer), spec)
    plain = served.SerializeToString()
    fuse(served)
    return {"unoptimised": unoptimised, "plain": plain, "fused": served.SerializeToString()}


def _normalised(pixels: NDArray[np.uint8], spec: ModelSpec) -> NDArray[np.float32]:
    mean, std = (np.asarray(values, np.float32) * 255 for values in (spec.mean, spec.std))
    return np.ascontiguousarray(((pixels.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2))


def _timed(runs: dict[str, Run]) -> dict[str, Any]:
    """Milliseconds of each variant: median, and the quartiles, over interleaved rounds; the first round warms up."""
    times: dict[str, list[float]] = {variant: [] for variant in runs}
    end_s = time.perf_counter() + _BUDGET_S
    for number in range(_MOST_ROUNDS + 1):
        if number > _LEAST_ROUNDS and time.perf_counter() > end_s:
            break
        for variant, run in runs.items():
            start_s = time.perf_counter()
            run()
            if number:
                times[variant].append((time.perf_counter() - start_s) * 1000)
    return {
        variant: {
            "median_ms": round(statistics.median(values), 3),
            "quartiles_ms": [round(q, 3) for q in statistics.quantiles(values, n=4)[::2]],
            "rounds": len(values),
        }
        for variant, values in times.items()
    }


def main() -> None:
    """Measure, and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m shitu_bench.models.conversion_latency", description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--models", nargs="+", default=[spec.name for spec in (*DEMO_SPECS, *OFFICIAL_SPECS)])
    given = parser.parse_args()
    results = measure(given.models, given.threads)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
