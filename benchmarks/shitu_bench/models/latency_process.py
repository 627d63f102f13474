"""The process that measures latencies: models and large matrix products take turns, so that a machine that slows down slows all.

Run by `shitu bench latency`, in an environment that holds numpy's and CUDA's settings.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

from shitu_bench.models.devices import Device
from shitu_bench.models.flops import flops_of
from shitu_bench.models.latency import SEED, LatencyPlan
from shitu_bench.models.peak import flops_of_product, peak_runners
from shitu_bench.models.sessions import Runner, SessionPlan, device_name, opened, random_pixels, runner
from shitu_bench.refusals import refusals_in_plain_words
from shitu_bench.summaries import spread_of
from shitu_models.repository import placed_any, weights_path
from shitu_models.specs import PIXELS

_TURN_S: Final = 0.1
"""What of a model or product is run in a row: a small model between large ones would be measured with cold caches."""
_MOST_CALLS: Final = 32
"""In a turn."""
_LEAST_ROUNDS: Final = 2
"""For a spread."""


@dataclass(frozen=True)
class Subject:
    """Something that is measured: a model at a batch size, or a matrix product."""

    name: str
    batch: int
    """0 of a matrix product."""
    run: Runner


def measured(plan: LatencyPlan, console: Console) -> dict[str, Any]:
    """Measure, and return the figures."""
    device = Device(plan.device)
    session_plan = SessionPlan(plan.threads, device)
    with console.status("loading the models"):
        peaks = [Subject(name, 0, run) for name, run in peak_runners(session_plan).items()]
        subjects = [subject for name in plan.repositories for subject in _subjects(name, plan, session_plan)]
        flops = {name: flops_of(_weights(name, plan)) for name in plan.repositories}
    turns = _turns([*peaks, *subjects], plan, console)
    peak = _peaks(peaks, turns, flops_of_product(device))
    figures: dict[str, Any] = {name: {"flops": count, "batches": {}} for name, count in flops.items()}
    for subject in subjects:
        model = figures[subject.name]
        model["batches"][str(subject.batch)] = _row(turns[subject.name, subject.batch], subject, model["flops"], peak)
    return {
        "device": device.value,
        "device_name": device_name(device),
        "threads": plan.threads,
        "tf32": False,
        "rounds": len(peak),
        "peak_flops": spread_of(peak),
        "peak_by": {one.name: spread_of(_rates(turns[one.name, 0], flops_of_product(device))) for one in peaks},
        "models": figures,
    }


def _weights(name: str, plan: LatencyPlan) -> Path:
    repository = Path(plan.repositories[name])
    return weights_path(repository, placed_any(repository, name).spec)


def _subjects(name: str, plan: LatencyPlan, session_plan: SessionPlan) -> list[Subject]:
    spec = placed_any(Path(plan.repositories[name]), name).spec
    session = opened(_weights(name, plan), session_plan)
    subjects = []
    for batch in plan.batches:
        pixels = random_pixels((batch, *spec.inputs[0].shape), SEED)
        subjects.append(Subject(name, batch, runner(session, {PIXELS: pixels}, session_plan.device)))
    return subjects


Turns = Mapping[tuple[str, int], Sequence[float]]
"""Of each subject, by name and batch: seconds of a call in each round, the median of the turn."""


def _turns(subjects: Sequence[Subject], plan: LatencyPlan, console: Console) -> Turns:
    turns: dict[tuple[str, int], list[float]] = {(subject.name, subject.batch): [] for subject in subjects}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("warming up", total=len(subjects) * (plan.rounds + 1))
        end_s = float("inf")
        for number in range(plan.rounds + 1):
            if number > _LEAST_ROUNDS and time.perf_counter() > end_s:
                break
            for subject in subjects:
                seconds = _turn(subject.run)
                if number:  # the first round warms up
                    turns[subject.name, subject.batch].append(seconds)
                progress.advance(task)
            if not number:
                end_s = time.perf_counter() + plan.budget_s
                progress.update(task, description="measuring")
    return turns


def _turn(run: Runner) -> float:
    """Return the median seconds of some calls in a row, after one that brings the weights back into the caches."""
    run()
    begin_s = time.perf_counter()
    times: list[float] = []
    while not times or (time.perf_counter() - begin_s < _TURN_S and len(times) < _MOST_CALLS):
        call_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - call_s)
    return statistics.median(times)


def _rates(seconds: Sequence[float], flops: float) -> list[float]:
    return [flops / one for one in seconds]


def _peaks(peaks: Sequence[Subject], turns: Turns, flops: int) -> list[float]:
    """Return the most operations a second of each round, by whichever library was faster in it."""
    by_library = [_rates(turns[one.name, 0], flops) for one in peaks]
    return [max(rates) for rates in zip(*by_library, strict=True)]


def _row(seconds: Sequence[float], subject: Subject, flops: int, peak: Sequence[float]) -> dict[str, Any]:
    rates = _rates(seconds, subject.batch * flops)
    return {
        "latency_ms": spread_of([1000 * one for one in seconds]),
        "rate_per_s": spread_of([subject.batch / one for one in seconds]),
        "fraction_of_peak": spread_of([rate / most for rate, most in zip(rates, peak, strict=True)]),
    }


def main() -> None:
    """Arguments: the plan as JSON, and where the figures go."""
    console = Console(stderr=True)
    with refusals_in_plain_words(console):
        figures = measured(LatencyPlan(**json.loads(sys.argv[1])), console)
        Path(sys.argv[2]).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
