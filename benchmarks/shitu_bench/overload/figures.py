"""What the measurements of an overload say: arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from shitu_bench.load.measurements import Measurement, available_cores, rounded
from shitu_bench.overload.queueing import predicted

_HINT_SHARES: Final = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


@dataclass(frozen=True)
class Level:
    """Load at a multiple of the peak."""

    factor: float
    measurement: Measurement


@dataclass(frozen=True)
class Expiry:
    """A run with a deadline that many requests cannot meet."""

    measurement: Measurement
    detector_items: int
    """Pictures that the detector ran from before the run until all was over."""
    encoder_items: int
    """Crops that the encoder ran."""


def gateway_cpu_per_refusal_s(peak: Measurement, refusing: Measurement) -> float:
    """Return what a refusal costs the gateways.

    Args:
        peak: of a run without refusals, for what an answer costs them.
        refusing: of a server that admits one picture at a time, so that nearly all is refused.
    """
    answers_s = refusing.ok_count * peak.gateway_cpu_s / max(peak.ok_count, 1)
    return max(0.0, refusing.gateway_cpu_s - answers_s) / max(refusing.refused_count, 1)


def level_figures(level: Level, peak: Measurement, refusal_s: float) -> dict[str, Any]:
    """Return the figures of a level.

    The adjusted goodput is what would have been if neither the generator, beyond what it took at the peak, nor refusals had taken
    CPU time from the server: goodput / (1 - that time / (cores * duration)).
    """
    measurement = level.measurement
    duration_s = measurement.plan.duration_s
    generator_s = measurement.outcome.client_cpu_s - peak.outcome.client_cpu_s * duration_s / peak.plan.duration_s
    refusals_s = measurement.refused_count * refusal_s
    taken = max(0.0, generator_s + refusals_s) / (available_cores() * duration_s)
    goodput, most = measurement.outcome.rate_per_s, peak.outcome.rate_per_s
    return {
        "factor": level.factor,
        "goodput_of_peak": round(goodput / most, 4),
        "adjusted_goodput_of_peak": round(goodput / (1 - taken) / most, 4) if taken < 1 else None,
        "refused_share": round(measurement.refused_count / max(measurement.answer_count, 1), 4),
        "refusals_cpu_share": round(refusals_s / (available_cores() * duration_s), 4),
        "generator_extra_cpu_share": round(generator_s / (available_cores() * duration_s), 4),
        "p99_by_p50": round(measurement.latency_ms("p99") / measurement.latency_ms("p50"), 3) if goodput else None,
        "retry_hints_ms": _hints(measurement),
        **measurement.described(),
    }


def compared_with_peak_load(levels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures of levels, each with its p99 by that of the level at the peak itself."""
    at_peak = next((level["latency_ms"].get("p99") for level in levels if level["factor"] == 1), None)
    p99s_ms = [level["latency_ms"].get("p99") for level in levels]
    return [
        {**level, "p99_by_that_at_1x": round(p99_ms / at_peak, 3) if p99_ms and at_peak else None}
        for level, p99_ms in zip(levels, p99s_ms, strict=True)
    ]


def queue_figures(level: Level, unloaded: Measurement, peak: Measurement, seed: int) -> dict[str, Any]:
    """Return what M/D/c predicts for a level below the peak, and what was measured.

    As many servers as requests are worked on at a time, c = peak * S with the unloaded latency S; D, so that they are busy at the
    peak, is c / peak.
    """
    peak_per_s = peak.outcome.rate_per_s
    unloaded_s = 1 / unloaded.outcome.rate_per_s
    servers = max(1, round(peak_per_s * unloaded_s))
    service_s = servers / peak_per_s
    queue = predicted(level.factor * peak_per_s, service_s, servers, seed)
    p50_ms, p99_ms = level.measurement.latency_ms("p50"), level.measurement.latency_ms("p99")
    return {
        "factor": level.factor,
        "servers": servers,
        **rounded({"service_ms": 1000 * service_s, "unloaded_latency_ms": 1000 * unloaded_s}),
        "predicted_ms": rounded({"mean": 1000 * queue.mean_s, "p50": 1000 * queue.p50_s, "p99": 1000 * queue.p99_s}),
        "measured_ms": rounded({"p50": p50_ms, "p99": p99_ms}),
        "p50_by_predicted": round(p50_ms / 1000 / queue.p50_s, 4),
        "p99_by_predicted": round(p99_ms / 1000 / queue.p99_s, 4),
    }


def expiry_figures(expiry: Expiry) -> dict[str, Any]:
    """Return how much of what the models ran was for nothing: of a request that expires while a model runs, or between the two."""
    measurement = expiry.measurement
    expired = measurement.outcome.codes.get("DEADLINE_EXCEEDED", 0)
    pictures = max(0, expiry.detector_items - measurement.ok_count)
    crops = max(0, expiry.encoder_items - measurement.outcome.object_count)
    return {
        **measurement.described(),
        "expired_count": expired,
        "detector_items": expiry.detector_items,
        "encoder_items": expiry.encoder_items,
        "objects_in_ok_answers": measurement.outcome.object_count,
        "detector_items_without_answer": pictures,
        "encoder_items_without_answer": crops,
        "expired_that_were_detected_share": round(pictures / expired, 4) if expired else 0.0,
        "encoder_items_without_answer_share": round(crops / expiry.encoder_items, 4) if expiry.encoder_items else 0.0,
    }


def _hints(measurement: Measurement) -> dict[str, float]:
    hints_ms = np.asarray(measurement.outcome.retry_after_ms)
    if not len(hints_ms):
        return {}
    found = {name: float(np.quantile(hints_ms, share)) for name, share in _HINT_SHARES.items()}
    ends = {"min": float(hints_ms.min()), "max": float(hints_ms.max())}
    return {**rounded({**ends, **found}), "different_count": len(np.unique(hints_ms))}
