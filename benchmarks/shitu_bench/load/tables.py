"""Measurements as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rich.table import Table

from shitu_bench.load.live import named
from shitu_bench.load.measurements import Measurement
from shitu_bench.load.tallies import OK, STAGES
from shitu_bench.summaries import QUANTILES, quantiles

_COMMON_BATCHES: Final = 4
"""Batch sizes that are named; of the others the mean tells."""


def load_tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Return tables of what came of plans, one column for each."""
    tables = [_outcomes(measurements), _stages(measurements), _costs(measurements), _batches(measurements)]
    return [table for table in tables if table.row_count]


def _table(title: str, measurements: Sequence[Measurement]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for measurement in measurements:
        table.add_column(named(measurement.plan), justify="right")
    return table


def _outcomes(measurements: Sequence[Measurement]) -> Table:
    table = _table("Answers", measurements)
    table.add_row("OK answers/s", *(f"{one.outcome.rate_per_s:.1f}" for one in measurements))
    for name, share in QUANTILES.items():
        table.add_row(f"p{100 * share:g}, ms", *(f"{one.latency_ms(name):.1f}" for one in measurements))
    codes = sorted({code for one in measurements for code in one.outcome.codes} - {OK})
    for code in codes:
        table.add_row(code, *(_share(one, code) for one in measurements))
    if any(one.outcome.unsent_count for one in measurements):
        table.add_row("[red]not sent[/]", *(str(one.outcome.unsent_count) for one in measurements))
    if any(one.plan.is_open for one in measurements):
        table.add_row("sent late, p99, ms", *(f"{one.outcome.late_ms.get('p99', 0):.2f}" for one in measurements))
    return table


def _share(measurement: Measurement, code: str) -> str:
    count = measurement.outcome.codes.get(code, 0)
    return f"{count} ({count / max(measurement.answer_count, 1):.1%})"


def _stages(measurements: Sequence[Measurement]) -> Table:
    table = _table("Stages, median / p99, ms", measurements)
    for stage in STAGES:
        if any(stage in one.outcome.stages_us for one in measurements):
            table.add_row(stage, *(_stage_cell(one, stage) for one in measurements))
    return table


def _stage_cell(measurement: Measurement, stage: str) -> str:
    found = quantiles(measurement.outcome.stages_us.get(stage, ()))
    return f"{found['p50'] / 1000:.1f} / {found['p99'] / 1000:.1f}" if found else "-"


def _costs(measurements: Sequence[Measurement]) -> Table:
    table = _table("CPU time for an OK answer, ms", measurements)
    costs = [one.cpu_ms_per_answer() for one in measurements]
    for part in _in_order(costs):
        table.add_row(part, *(f"{cost.get(part, 0):.2f}" for cost in costs))
    table.add_row("load generator", *(_generator_cell(one) for one in measurements))
    return table


def _generator_cell(measurement: Measurement) -> str:
    cost_ms = 1000 * measurement.outcome.client_cpu_s / max(measurement.ok_count, 1)
    return f"{cost_ms:.2f} ({measurement.client_cpu_share:.1%} of the machine)"


def _batches(measurements: Sequence[Measurement]) -> Table:
    table = _table("Batches in Triton, mean, and the most common sizes", measurements)
    for model in _in_order([one.models for one in measurements]):
        table.add_row(model, *(_batch_cell(one, model) for one in measurements))
    return table


def _batch_cell(measurement: Measurement, model: str) -> str:
    executed = measurement.models.get(model)
    if executed is None:
        return "-"
    common = sorted(executed.counts, key=lambda size: -executed.counts[size])[:_COMMON_BATCHES]
    shares = ", ".join(f"{size}: {executed.counts[size] / executed.batch_count:.0%}" for size in sorted(common))
    return f"{executed.mean_size:.2f} ({shares})"


def _in_order(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))
