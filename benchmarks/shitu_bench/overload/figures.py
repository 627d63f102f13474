"""What the measurements of an overload say: arithmetic alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np

from shitu_bench.load.measurements import Measurement, available_cores, rounded
from shitu_bench.overload.queueing import most_arrivals_per_s, predicted
from shitu_bench.summaries import range_of

QUEUE_FACTOR: Final = 0.8
"""Of the peak: the load that is compared with queueing theory."""
_HINT_SHARES: Final = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
_PEAK_SUMMARY: Final = {"goodput_per_s": ("goodput_per_s",), "p99_ms": ("latency_ms", "p99")}
_LEVEL_SUMMARY: Final = {
    **_PEAK_SUMMARY,
    "p50_ms": ("latency_ms", "p50"),
    "p99_by_that_at_1x": ("p99_by_that_at_1x",),
    "goodput_of_peak": ("goodput_of_peak",),
    "adjusted_goodput_of_peak": ("adjusted_goodput_of_peak",),
    "refused_share": ("refused_share",),
    "refusal_p50_ms": ("refusal_latency_ms", "p50"),
    "refusal_p99_ms": ("refusal_latency_ms", "p99"),
    "hint_p10_ms": ("retry_hints_ms", "p10"),
    "hint_p90_ms": ("retry_hints_ms", "p90"),
    "client_cpu_share": ("client_cpu_share",),
}
_QUEUE_SUMMARY: Final = {
    name: tuple(name.split("."))
    for name in (
        "measured_ms.p50",
        "measured_ms.p99",
        *(
            f"{service}.{figure}"
            for service in ("of_the_peak", "of_the_level")
            for figure in ("service_ms", "predicted_ms.p50", "predicted_ms.p99", "p99_by_predicted")
        ),
    )
}
"""Where what is summed up over rounds lies in the figures of each."""


@dataclass(frozen=True)
class Level:
    """Load at a multiple of the peak."""

    factor: float
    measurement: Measurement


@dataclass(frozen=True)
class Round:
    """The peak, and loads that are multiples of it, in the order of these."""

    peak: Measurement
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Expiry:
    """A run with a deadline that many requests cannot meet."""

    measurement: Measurement
    detector_items: int
    """Pictures that the detector ran from before the run until all was over."""
    encoder_items: int
    """Crops that the encoder ran."""


def gateway_cpu_per_refusal_s(unloaded: Measurement, refusing: Measurement) -> float:
    """Return what a refusal costs the gateways.

    Args:
        unloaded: a run of one caller, for what an answer costs them that shares no call with another.
        refusing: of a server that admits one picture at a time, so that nearly all is refused.
    """
    answers_s = refusing.ok_count * unloaded.gateway_cpu_s / max(unloaded.ok_count, 1)
    return max(0.0, refusing.gateway_cpu_s - answers_s) / max(refusing.refused_count, 1)


def round_figures(one: Round, unloaded: Measurement, refusal_s: float, servers: int, seed: int) -> dict[str, Any]:
    """Return the figures of a round: `servers` as `servers_of` says."""
    return {
        "peak": _run_figures(one.peak),
        "levels": _compared_with_peak_load([level_figures(level, one.peak, refusal_s) for level in one.levels]),
        "queue": [
            queue_figures(level, unloaded, one.peak, servers, seed)
            for level in one.levels
            if level.factor == QUEUE_FACTOR
        ],
    }


def summary_figures(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what rounds say together: of each figure the median, and the least and the largest as noise."""
    return {
        "peak": _summary([one["peak"] for one in rounds], _PEAK_SUMMARY),
        "levels": _summaries([one["levels"] for one in rounds], _LEVEL_SUMMARY),
        "queue": _summaries([one["queue"] for one in rounds], _QUEUE_SUMMARY),
    }


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
        **_run_figures(measurement),
    }


def servers_of(unloaded: Measurement, peaks: Sequence[Measurement]) -> int:
    """Return as how many servers of queueing theory a server counts: of as many pictures as are worked on at a time.

    That is peak * S, with the unloaded latency S.
    """
    unloaded_s = 1 / unloaded.outcome.rate_per_s
    return max(1, round(median(peak.outcome.rate_per_s for peak in peaks) * unloaded_s))


def _compared_with_peak_load(levels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures of levels, each with its p99 by that of the level at the peak itself."""
    at_peak = next((level["latency_ms"].get("p99") for level in levels if level["factor"] == 1), None)
    p99s_ms = [level["latency_ms"].get("p99") for level in levels]
    return [
        {**level, "p99_by_that_at_1x": round(p99_ms / at_peak, 3) if p99_ms and at_peak else None}
        for level, p99_ms in zip(levels, p99s_ms, strict=True)
    ]


def queue_figures(level: Level, unloaded: Measurement, peak: Measurement, servers: int, seed: int) -> dict[str, Any]:
    """Return what M/D/c predicts for a level below the peak, and what was measured.

    D, so that c servers are busy at the peak, is c / peak. That is the time of a picture when many share a call; fewer do below the
    peak, and each takes more CPU time, the generator's included. D of the level is longer in that ratio. Where more arrives than can be
    predicted, the prediction is of the most that can: the measured times are then held against too short ones.
    """
    measurement = level.measurement
    arrivals_per_s = measurement.outcome.due_count / measurement.plan.duration_s
    service_s = servers / peak.outcome.rate_per_s
    dearer = _cpu_s_per_answer(measurement) / _cpu_s_per_answer(peak)
    p50_ms, p99_ms = measurement.latency_ms("p50"), measurement.latency_ms("p99")

    def compared(service_s: float) -> dict[str, Any]:
        most_per_s = most_arrivals_per_s(service_s, servers)
        queue = predicted(min(arrivals_per_s, most_per_s), service_s, servers, seed)
        return {
            "is_of_fewer_arrivals": arrivals_per_s > most_per_s,
            "service_ms": round(1000 * service_s, 3),
            "utilisation": round(queue.utilisation, 4),
            "predicted_ms": rounded(
                {"mean": 1000 * queue.mean_s, "p50": 1000 * queue.p50_s, "p99": 1000 * queue.p99_s}
            ),
            "p99_by_predicted": round(p99_ms / 1000 / queue.p99_s, 4),
        }

    return {
        "factor": level.factor,
        "servers": servers,
        "arrivals_per_s": round(arrivals_per_s, 3),
        "unloaded_latency_ms": round(1000 / unloaded.outcome.rate_per_s, 3),
        "measured_ms": rounded({"p50": p50_ms, "p99": p99_ms}),
        "of_the_peak": compared(service_s),
        "of_the_level": compared(service_s * dearer),
    }


def _cpu_s_per_answer(measurement: Measurement) -> float:
    return (sum(measurement.cpu_s.values()) + measurement.outcome.client_cpu_s) / max(measurement.ok_count, 1)


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


def _run_figures(measurement: Measurement) -> dict[str, Any]:
    return {name: value for name, value in measurement.described().items() if name != "latency_curve_ms"}


def _summaries(
    rounds: Sequence[Sequence[Mapping[str, Any]]], places: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    return [{"factor": of_one[0]["factor"], **_summary(of_one, places)} for of_one in zip(*rounds, strict=True)]


def _summary(rounds: Sequence[Mapping[str, Any]], places: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the spread of each figure over the rounds that have it, None where none has."""
    found = {name: [_at(figures, place) for figures in rounds] for name, place in places.items()}
    there = {name: [value for value in values if value is not None] for name, values in found.items()}
    return {name: rounded(range_of(values), 4) if values else None for name, values in there.items()}


def _at(figures: Mapping[str, Any], place: Sequence[str]) -> float | None:
    value: Any = figures
    for name in place:
        value = value.get(name) if value is not None else None
    return None if value is None else float(value)


def _hints(measurement: Measurement) -> dict[str, float]:
    hints_ms = np.asarray(measurement.outcome.retry_after_ms)
    if not len(hints_ms):
        return {}
    found = {name: float(np.quantile(hints_ms, share)) for name, share in _HINT_SHARES.items()}
    ends = {"min": float(hints_ms.min()), "max": float(hints_ms.max())}
    return {**rounded({**ends, **found}), "different_count": len(np.unique(hints_ms))}
