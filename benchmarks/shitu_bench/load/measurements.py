"""One run of load with what it cost the server: the figures of a row in a table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from shitu_bench.errors import BenchError
from shitu_bench.load.engine import run_load
from shitu_bench.load.plans import LoadOutcome, LoadPlan, LoadRequest, Progress
from shitu_bench.load.tallies import OK
from shitu_bench.serving.batches import Executions, added
from shitu_bench.serving.processes import ServerProcesses, spent
from shitu_bench.serving.triton import BenchTriton
from shitu_bench.summaries import quantiles

_CURVE_SHARES: Final = (*(step / 100 for step in range(100)), 0.995, 0.999, 1.0)
"""Where the distribution of latencies is kept for plots."""


@dataclass(frozen=True)
class Target:
    """A server and what it is sent."""

    address: str
    requests: Sequence[LoadRequest]
    processes: ServerProcesses | None = None
    """None where the server runs on another host."""
    triton_address: str = ""
    """Empty where its statistics cannot be had."""

    def executions(self) -> dict[str, Executions]:
        """Return what Triton ran until now, by model; nothing where that cannot be had. Raises BenchError."""
        if not self.triton_address:
            return {}
        with BenchTriton(self.triton_address) as triton:
            return triton.executions()


@dataclass(frozen=True)
class Measurement:
    """A plan, what came of it, and what it cost."""

    plan: LoadPlan
    outcome: LoadOutcome
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    """Of the server by part, from the begin to the end of what counts."""
    models: Mapping[str, Executions] = field(default_factory=dict)
    """What Triton ran in that time."""
    memory_bytes: int = 0
    """Of the whole server when what counts ended, with requests in flight (PSS: shared pages count once); 0 where it is not seen."""

    @property
    def ok_count(self) -> int:
        """Requests that were answered as they should."""
        return self.outcome.codes.get(OK, 0)

    @property
    def refused_count(self) -> int:
        """Requests that the server had no room for."""
        return self.outcome.codes.get("RESOURCE_EXHAUSTED", 0)

    @property
    def answer_count(self) -> int:
        """Answers of all kinds."""
        return sum(self.outcome.codes.values())

    @property
    def gateway_cpu_s(self) -> float:
        """CPU time of all gateways."""
        return sum(value for part, value in self.cpu_s.items() if part.startswith("gateway"))

    @property
    def client_cpu_share(self) -> float:
        """CPU time of the generator, of all that the machine had."""
        return self.outcome.client_cpu_s / (available_cores() * self.plan.duration_s)

    def latency_ms(self, name: str) -> float:
        """Return a quantile of the latencies of OK answers; not a number where there are none."""
        return quantiles(self.outcome.latencies_ms).get(name, float("nan"))

    def described(self) -> dict[str, Any]:
        """Return the figures as they are kept in results."""
        outcome = self.outcome
        return {
            **_planned(self.plan),
            "due_count": outcome.due_count,
            "unsent_count": outcome.unsent_count,
            "codes": dict(sorted(outcome.codes.items())),
            "goodput_per_s": round(outcome.rate_per_s, 3),
            "latency_ms": rounded(quantiles(outcome.latencies_ms)),
            "latency_curve_ms": _curve(outcome.latencies_ms),
            "late_ms": rounded(outcome.late_ms),
            "refusal_latency_ms": rounded(quantiles(outcome.refusal_latencies_ms)),
            "retry_after_ms": rounded(quantiles(outcome.retry_after_ms)),
            "stages_us": {stage: rounded(quantiles(values), 1) for stage, values in outcome.stages_us.items()},
            "objects_per_answer": round(outcome.object_count / max(self.ok_count, 1), 3),
            "client_cpu_ms_per_request": round(1000 * outcome.client_cpu_s / max(self.answer_count, 1), 4),
            "client_cpu_share": round(self.client_cpu_share, 4),
            "cpu_ms_per_answer": self.cpu_ms_per_answer(),
            "memory_bytes": self.memory_bytes,
            "models": {name: model.described() for name, model in self.models.items()},
        }

    def cpu_ms_per_answer(self) -> dict[str, float]:
        """Return the server's CPU time for each OK answer, by part."""
        return {part: round(1000 * value / max(self.ok_count, 1), 3) for part, value in self.cpu_s.items()}


def measured(target: Target, plan: LoadPlan, progress: Progress | None = None) -> Measurement:
    """Run a plan, and measure what it costs the server where that can be seen. Raises as `run_load`."""
    costs = _Costs(target)
    outcome = run_load(target.address, target.requests, plan, progress, costs)
    return Measurement(plan, outcome, costs.cpu_s, costs.models, costs.memory_bytes)


def answered(measurement: Measurement, when: str) -> Measurement:
    """Return a measurement that others are held against.

    Raises:
        BenchError: nothing was answered; `when` is a part of the message.
    """
    if not measurement.ok_count:
        raise BenchError(f"no request was answered {when}: {dict(measurement.outcome.codes)}")
    return measurement


class _Costs:
    """Reads the server's clocks when what counts begins and ends."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.cpu_s: dict[str, float] = {}
        self.models: dict[str, Executions] = {}
        self.memory_bytes = 0

    def begin(self) -> None:
        """Note what was used before."""
        target = self._target
        self._models_before = target.executions()
        if target.processes is not None:
            self._cpu_before_s = target.processes.cpu_s()

    def end(self) -> None:
        """Note what was used since."""
        target = self._target
        if target.processes is not None:
            self.cpu_s = spent(self._cpu_before_s, target.processes.cpu_s())
        self.models = added(self._models_before, target.executions())
        if target.processes is not None:
            self.memory_bytes = sum(use.pss_bytes for use in target.processes.use().values())


def available_cores() -> int:
    """Return the processors that this process, and a server that it starts, may use."""
    return len(os.sched_getaffinity(0))


def rounded(values: Mapping[str, float], digits: int = 3) -> dict[str, float]:
    """Return values without digits that mean nothing."""
    return {name: round(value, digits) for name, value in values.items()}


def _planned(plan: LoadPlan) -> dict[str, Any]:
    sent = {"offered_rate_per_s": round(plan.rate_per_s, 3)} if plan.rate_per_s else {"concurrency": plan.concurrency}
    return {
        **sent,
        "duration_s": plan.duration_s,
        "deadline_s": round(plan.deadline_s, 4),
        "processes": plan.processes,
        "connections": plan.connections * plan.processes,
    }


def _curve(latencies_ms: Sequence[float]) -> dict[str, list[float]]:
    """Return the distribution as points: shares, and the latencies that they are below."""
    if not len(latencies_ms):
        return {}
    values = np.quantile(np.asarray(latencies_ms), _CURVE_SHARES)
    return {"shares": list(_CURVE_SHARES), "latencies_ms": [round(float(value), 3) for value in values]}
