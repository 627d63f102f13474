"""The figures of an offered load as people read them, in a terminal and in documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shitu_bench.summaries import shown


def level_cells(level: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of a row by their columns' titles, from a level of the results' summary."""
    first, last = level["hint_p10_ms"], level["hint_p90_ms"]
    return {
        "offered": f"{level['factor']:g} x",
        "goodput of the peak": shown(level["goodput_of_peak"], 3),
        "adjusted": shown(level["adjusted_goodput_of_peak"], 3),
        "refused": f"{level['refused_share']['median']:.1%}",
        "p50, ms": shown(level["p50_ms"], 0),
        "p99, ms": shown(level["p99_ms"], 0),
        "p99 by that at 1x": shown(level["p99_by_that_at_1x"], 2),
        "refusals p50, ms": shown(level["refusal_p50_ms"], 1),
        "refusals p99, ms": shown(level["refusal_p99_ms"], 1),
        "retry hints, ms": f"{first['median']:.0f} to {last['median']:.0f}" if first else "-",
        "generator's CPU": f"{level['client_cpu_share']['median']:.1%}",
    }
