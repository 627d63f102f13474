"""What one generator process counted, and all of them together: every single measurement is kept, so that quantiles are exact."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from shitu_bench.load.plans import LoadOutcome
from shitu_bench.summaries import quantiles

STAGES: Final = ("queue", "decode", "detect", "crop", "embed", "search", "total")
"""Of StageTimings, without their `_us`."""
OK: Final = "OK"


def _seconds() -> array[float]:
    return array("d")


@dataclass
class Tally:
    """What a process counted of the requests that count; goes from process to process as it is."""

    due_count: int = 0
    unsent_count: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    late_s: array[float] = field(default_factory=_seconds)
    """Open loop only."""
    latencies_s: array[float] = field(default_factory=_seconds)
    refusal_latencies_s: array[float] = field(default_factory=_seconds)
    retry_after_s: array[float] = field(default_factory=_seconds)
    stages_us: dict[str, array[int]] = field(default_factory=lambda: {stage: array("q") for stage in STAGES})
    object_count: int = 0
    cpu_s: float = 0.0


def merged(tallies: Sequence[Tally], duration_s: float) -> LoadOutcome:
    """Return what all processes counted together."""
    codes: Counter[str] = sum((tally.codes for tally in tallies), Counter())
    stages = {stage: _joined([tally.stages_us[stage] for tally in tallies]) for stage in STAGES}
    return LoadOutcome(
        duration_s=duration_s,
        due_count=sum(tally.due_count for tally in tallies),
        unsent_count=sum(tally.unsent_count for tally in tallies),
        late_ms=quantiles(_milliseconds(tallies, lambda tally: tally.late_s)),
        codes=dict(codes),
        rate_per_s=codes[OK] / duration_s,
        latencies_ms=_milliseconds(tallies, lambda tally: tally.latencies_s),
        refusal_latencies_ms=_milliseconds(tallies, lambda tally: tally.refusal_latencies_s),
        retry_after_ms=_milliseconds(tallies, lambda tally: tally.retry_after_s),
        stages_us={stage: values for stage, values in stages.items() if values},
        object_count=sum(tally.object_count for tally in tallies),
        client_cpu_s=sum(tally.cpu_s for tally in tallies),
    )


def _milliseconds(tallies: Sequence[Tally], of: Callable[[Tally], array[float]]) -> array[float]:
    return array("d", (1000 * value for tally in tallies for value in of(tally)))


def _joined(parts: Sequence[array[int]]) -> array[int]:
    whole = array("q")
    for part in parts:
        whole.extend(part)
    return whole
