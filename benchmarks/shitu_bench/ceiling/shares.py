"""What share of ONNX Runtime in process a whole server reaches, in pairs of slices that take turns.

In one slice clients load a real `shitu serve` in a closed loop; in the other its models run alone in a process of their own, warm, with
the threads and session options that Triton has, on the same pictures, in batches of the very sizes that Triton made of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

from shitu_bench.ceiling.models import CeilingModel, CeilingModels, Slice
from shitu_bench.ceiling.pixels import write_pixels
from shitu_bench.ceiling.slices import LoadedServer, ServerSlice
from shitu_bench.ceiling.triton_load import PerfAnalyzer, triton_alone
from shitu_bench.load.plans import LoadPlan
from shitu_bench.serving.batches import pictures_per_s, sequence
from shitu_bench.serving.server import BenchServer, ServerOptions
from shitu_bench.serving.triton import BenchTriton
from shitu_bench.serving.workload import WorkloadOptions, prepared
from shitu_bench.summaries import quantiles, spread_of
from shitu_models.repository import find_repository, placed_any, weights_path
from shitu_models.specs import ModelSpec
from shitu_server.processors import processor_count

SEED: Final = 5
_CALLERS: Final = (1, 2)
"""Models one after another, and two batches side by side, as Triton runs detector and encoder: the ceiling is the faster."""
_VECTORS: Final = 1000
"""In the gallery that is searched."""


@dataclass(frozen=True)
class CeilingPlan:
    """How a pair of models is measured."""

    server: ServerOptions
    pairs: int
    slice_s: float
    """Of the server, and of the models alone; longer where fewer pictures than `least_pictures` would be recognised in it."""
    least_pictures: int
    concurrency: int
    pictures: int = 32
    """Different ones."""


def measured_ceiling(plan: CeilingPlan, perf_analyzer: PerfAnalyzer | None, console: Console) -> dict[str, Any]:
    """Measure, and return the figures. Raises BenchError."""
    repository = find_repository(plan.server.model_repository)
    specs = [placed_any(repository, name).spec for name in (plan.server.detector, plan.server.encoder)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shitu-bench-")))
        with console.status(f"starting a server with {plan.server.detector} and {plan.server.encoder}"):
            server = stack.enter_context(BenchServer(plan.server))
        with console.status("drawing pictures, filling a gallery"):
            options = WorkloadOptions(picture_count=plan.pictures, vector_count=_VECTORS, seed=SEED)
            requests = prepared(server.address, options)
            pixels = write_pixels(server.address, requests, specs[0], specs[1], folder)
        triton = stack.enter_context(BenchTriton(server.processes.triton_address()))
        alone = stack.enter_context(CeilingModels(_models(repository, specs, triton, pixels)))
        loaded = LoadedServer(server, requests, triton, (specs[0].name, specs[1].name))
        figures = _Pairs(plan, loaded, alone, console).measured()
        if perf_analyzer is not None:
            figures["triton_alone"] = triton_alone(
                perf_analyzer, triton, alone, _requested(specs, figures), pixels, console
            )
    return {"server": plan.server.described(), "concurrency": plan.concurrency, **figures}


def _models(
    repository: Path, specs: Sequence[ModelSpec], triton: BenchTriton, pixels: Mapping[str, Path]
) -> list[CeilingModel]:
    return [
        CeilingModel(spec.name, weights_path(repository, spec), triton.session_plan(spec.name), pixels[spec.name])
        for spec in specs
    ]


def _requested(specs: Sequence[ModelSpec], figures: Mapping[str, Any]) -> dict[str, int]:
    """Return how many items a request to each model has, as the gateway sends them."""
    return {specs[0].name: 1, specs[1].name: max(1, round(figures["objects_per_picture"]))}


class _Pairs:
    """The slices of one server, one after the other."""

    def __init__(self, plan: CeilingPlan, server: LoadedServer, alone: CeilingModels, console: Console) -> None:
        self._plan = plan
        self._server = server
        self._alone = alone
        self._console = console
        self._load = LoadPlan(
            duration_s=plan.slice_s, warm_up_s=0.0, concurrency=plan.concurrency, deadline_s=120.0, seed=SEED
        )

    def measured(self) -> dict[str, Any]:
        """Warm up, check that the work is the same, then measure the pairs."""
        pairs = []
        with Progress(console=self._console, transient=True) as progress:
            task = progress.add_task("warming up", total=self._plan.pairs + 1)
            last = self._server.counted(self._load)
            self._load = self._longer(last)
            for number in range(self._plan.pairs):
                progress.update(task, advance=1, description="slices of server and models in turn")
                # Now the server first, now the models: a machine that slows down does not always harm the same one.
                ceiling = self._ceilings(last) if number % 2 else {}
                last = self._server.measured(self._load)
                pairs.append(_pair(last, ceiling or self._ceilings(last)))
        return _summary(pairs)

    def _longer(self, warm: ServerSlice) -> LoadPlan:
        """Return the plan of the slices: long enough, and begun when the first answers are there."""
        rate_per_s = warm.rate_per_s
        duration_s = max(self._plan.slice_s, self._plan.least_pictures / rate_per_s)
        return replace(self._load, duration_s=duration_s, warm_up_s=max(1.0, 2 * self._plan.concurrency / rate_per_s))

    def _ceilings(self, last: ServerSlice) -> dict[int, tuple[float, float]]:
        """Return by number of callers how many pictures a second the models alone do, and the CPU time of a second."""
        batches = sequence(last.executed, SEED)
        items = dict(zip(last.executed, (1.0, last.objects_per_picture), strict=True))
        found = {}
        for callers in _CALLERS:
            outcome = self._alone.run(Slice(batches, self._load.duration_s / len(_CALLERS), callers))
            found[callers] = (pictures_per_s(outcome.done, items, callers), outcome.cpu_s / outcome.duration_s)
        return found


def _pair(server: ServerSlice, ceilings: Mapping[int, tuple[float, float]]) -> dict[str, Any]:
    outcome = server.outcome
    ceiling_per_s = max(rate for rate, _ in ceilings.values())
    generator_share = outcome.client_cpu_s / (outcome.duration_s * processor_count())
    ratio = server.rate_per_s / ceiling_per_s
    return {
        "rate_per_s": server.rate_per_s,
        "answers_per_s": outcome.rate_per_s,
        "ceiling_per_s": ceiling_per_s,
        "ceiling_per_s_by_callers": {str(callers): rate for callers, (rate, _) in ceilings.items()},
        "ceiling_cpu_s_per_s_by_callers": {str(callers): cpu_s for callers, (_, cpu_s) in ceilings.items()},
        "ratio": ratio,
        "generator_cpu_share": generator_share,
        "ratio_without_generator": ratio / (1 - generator_share),
        "objects_per_picture": server.objects_per_picture,
        "mean_batch": {name: one.mean_size for name, one in server.executed.items()},
        "latency_ms": quantiles(outcome.latencies_ms),
        "cpu_s": {**server.cpu_s, "generator": outcome.client_cpu_s},
        "cpu_ms_per_picture": {
            part: 1000 * seconds / sum(outcome.codes.values())
            for part, seconds in {**server.cpu_s, "generator": outcome.client_cpu_s}.items()
        },
        "duration_s": outcome.duration_s,
    }


def _summary(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = ("ratio", "ratio_without_generator", "rate_per_s", "ceiling_per_s", "generator_cpu_share")
    return {
        **{name: spread_of([pair[name] for pair in pairs]) for name in names},
        "objects_per_picture": pairs[-1]["objects_per_picture"],
        "work_was_equal": True,  # checked in each slice, and nothing is returned where it was not
        "pairs": list(pairs),
    }
