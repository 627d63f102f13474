"""How long models take for a picture under the conditions of PaddleX's published figures, beside what the device can do at most.

FP32, warm, one picture at a time, or batches of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from shitu_bench.isolated import run_isolated
from shitu_bench.models.devices import Device, measuring_environment
from shitu_bench.models.official_repository import official_repository
from shitu_bench.models.published import PUBLISHED, t4_projection_ms
from shitu_bench.records import record
from shitu_models.repository import find_repository
from shitu_models.specs import DEMO_SPECS, OFFICIAL_SPECS

SEED: Final = 1
_SLOWEST_MODEL_S: Final = 600.0
"""Loading a model, warming it up, and the round that is going on when the budget is spent, on a slow machine."""
_PACKAGES: Final = ("onnxruntime", "onnx", "numpy", "shitu")


@dataclass(frozen=True)
class LatencyPlan:
    """What is measured, and for how long."""

    repositories: dict[str, str]
    """Of each model, by its name."""
    batches: list[int]
    """1 is among them."""
    device: str
    """A Device."""
    threads: int
    """On the CPU."""
    rounds: int
    """At most; at least two are measured."""
    budget_s: float
    """After which no further round begins."""


def measured_latencies(plan: LatencyPlan) -> dict[str, Any]:
    """Measure in a process of its own, and return the record. Raises BenchError."""
    limit_s = 2 * plan.budget_s + _SLOWEST_MODEL_S * len(plan.repositories)
    environment = measuring_environment(plan.threads)
    figures = run_isolated("shitu_bench.models.latency_process", asdict(plan), environment, limit_s)
    return record(completed(figures), seed=SEED, packages=_PACKAGES)


def repositories_of(names: Sequence[str], given: Path | None, console: Console) -> dict[str, str]:
    """Return where models are: in a given repository, or the demo pack's, or made for measurements. Raises BenchError."""
    if given is not None:
        return {name: str(find_repository(given)) for name in names}
    demo = {spec.name for spec in DEMO_SPECS}
    official = [name for name in names if name not in demo]
    made = official_repository(official, console) if official else None
    return {name: str(find_repository() if name in demo else made) for name in names}


def completed(figures: dict[str, Any]) -> dict[str, Any]:
    """Return measured figures with what is published and projected beside them, and what was not measured."""
    for name, model in figures["models"].items():
        fraction = model["batches"]["1"]["fraction_of_peak"]["median"]
        model["t4_projection_ms"] = t4_projection_ms(model["flops"], fraction)
        model["published"] = PUBLISHED[name].as_json() if name in PUBLISHED else None
    missing = [f"{spec.name} on {figures['device']}" for spec in OFFICIAL_SPECS if spec.name not in figures["models"]]
    if figures["device"] == Device.CPU.value:
        missing.append("any model on a GPU: --device cuda measures it where there is one")
    return {**figures, "not_measured": missing}
