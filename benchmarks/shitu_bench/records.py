"""Results as they are kept: figures with all that is needed to judge them and to measure them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from shitu_bench.machine import described, versions_of
from shitu_train.records import source_commit

RESULTS_DIR: Final = Path(__file__).resolve().parents[1] / "results"
"""Of a checkout: what the documents are made from."""


def record(figures: dict[str, Any], *, seed: int, packages: tuple[str, ...]) -> dict[str, Any]:
    """Return figures with machine, versions, commit and seed beside them.

    Args:
        figures: what was measured, in JSON's types; units stand in the names (`latency_ms`, `rate_per_s`).
        seed: of all that is random.
        packages: distributions whose versions matter.
    """
    return {
        "machine": described(),
        "versions": versions_of(*packages),
        "commit": source_commit(),
        "seed": seed,
        **figures,
    }


def write(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON, for people to read too; the folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """Return what was written."""
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results
