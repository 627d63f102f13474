"""Makes the tables in the docs from the results that are committed: `python -m benchmarks.docs_tables`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "model_latency.json"
DOCS: Final = ROOT / "docs" / "models.md"
START, END = "<!-- model_latency: generated, begin -->", "<!-- model_latency: generated, end -->"
BATCHES: Final = (1, 8)
_FEW_DIGITS_FROM_MS: Final = 10


def table(results: dict[str, Any]) -> str:
    """The table of the docs, in Markdown."""
    machine, versions = results["machine"], results["versions"]
    conditions = (
        f"ONNX Runtime {versions['onnxruntime']}, FP32, {results['threads']} threads of {machine['processor']} "
        f"({machine['cores']} cores), milliseconds for the whole batch: median of interleaved rounds (quartiles). Random weights, "
        f"seed {results['seed']}; commit {results['commit'][:10]}{'+' * results['commit'].endswith('+')}."
    )
    lines = [
        conditions,
        "",
        "| model | batch | unoptimised + normalisation in numpy | converted, `--graph plain` | converted, `--graph fused` |",
        "|---|---|---|---|---|",
    ]
    for name, figures in results["models"].items():
        for batch in BATCHES:
            row = figures[f"batch_{batch}"]
            apart = f"{_ms(row['unoptimised'])} + {row['normalisation']['median_ms']:.2f}"
            lines.append(f"| {name} | {batch} | {apart} | {_ms(row['plain'])} | {_ms(row['fused'])} |")
    return "\n".join(lines)


def _ms(figure: dict[str, Any]) -> str:
    low, high = figure["quartiles_ms"]
    digits = 1 if figure["median_ms"] >= _FEW_DIGITS_FROM_MS else 2
    return f"{figure['median_ms']:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def rendered(text: str, results: dict[str, Any]) -> str:
    """The document with its table made anew."""
    head, rest = text.split(START)
    _, tail = rest.split(END)
    return f"{head}{START}\n\n{table(results)}\n\n{END}{tail}"


def main() -> None:
    """Render the docs."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    DOCS.write_text(rendered(DOCS.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
