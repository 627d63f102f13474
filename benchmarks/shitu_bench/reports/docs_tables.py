"""Makes the tables in the docs from the results that are committed: `python -m shitu_bench.reports.docs_tables`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shitu_bench.reports.model_tables import ceiling_table, commit_of, latency_table, quality_table
from shitu_bench.reports.serving_tables import load_table, overload_table, peers_table, scaling_table, soak_table
from shitu_bench.summaries import shown

ROOT: Final = Path(__file__).resolve().parents[3]
BATCHES: Final = (1, 8)
_FEW_DIGITS_FROM_MS: Final = 10


@dataclass(frozen=True)
class GeneratedTable:
    """A part of a document that is made of results."""

    name: str
    """Of the file of results, without its suffix."""
    document: Path
    make: Callable[[dict[str, Any]], str]

    @property
    def results(self) -> Path:
        """The file of results."""
        return ROOT / "benchmarks" / "results" / f"{self.name}.json"

    def rendered(self, text: str, results: dict[str, Any]) -> str:
        """Return the document with its table made anew."""
        start, end = (f"<!-- {self.name}: generated, {mark} -->" for mark in ("begin", "end"))
        head, rest = text.split(start)
        _, tail = rest.split(end)
        return f"{head}{start}\n\n{self.make(results)}\n\n{end}{tail}"


def model_latency_table(results: dict[str, Any]) -> str:
    """Return the table of docs/models.md, in Markdown."""
    machine, versions = results["machine"], results["versions"]
    conditions = (
        f"ONNX Runtime {versions['onnxruntime']}, FP32, {results['threads']} threads of {machine['processor']} "
        f"({machine['cores']} cores), milliseconds for the whole batch: median of interleaved rounds (quartiles). Random weights, "
        f"seed {results['seed']}; commit {commit_of(results)}."
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


def gallery_search_table(results: dict[str, Any]) -> str:
    """Return the tables of docs/galleries.md, in Markdown."""
    kinds = [(int(size), kind, figures) for size, of in results["sizes"].items() for kind, figures in of.items()]
    first = kinds[0][2]
    machine = first["machine"]
    commits = ", ".join(sorted({commit_of(figures) for _, _, figures in kinds}))
    lines = [
        (
            f"512 numbers, `top_k` 10, one search thread of {machine['processor']} ({machine['cores']} cores), FAISS "
            f"{first['versions'].get('faiss-cpu', '')}; synthetic products, seed {first['seed']}; commit {commits}. Queries a second, "
            "median of 7 turns (quartiles of the ratios). *4 at once*: as many callers with batches of 64 each; *64 callers* send one query each, which the batcher puts together."
        ),
        "",
        (
            "| items | index | recall@1 / @10 | batches of 64 | beside FAISS | 4 at once | beside FAISS | 64 callers | beside FAISS | FAISS "
            "| numpy sgemm | one by one | FAISS | build | restart to ready | memory |"
        ),
        "|---" * 16 + "|",
    ]
    lines += [_search_row(*one) for one in kinds]
    shares = [row["share"] for row in first["filtered"]]
    heads = " | ".join(f"{100 * share:g} %" for share in shares)
    lines += [
        "",
        "With a filter that allows a share of the items: recall@10, and queries a second in batches of 64 (one by one).",
        "",
        f"| items | index | {heads} |",
        "|---|---|" + "---|" * len(shares),
    ]
    for size, kind, figures in kinds:
        cells = (f"{row['at_10']:.4f}, {_qps(row['batch_64'])} ({_qps(row['batch_1'])})" for row in figures["filtered"])
        lines.append(f"| {size:,} | {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _search_row(size: int, kind: str, figures: dict[str, Any]) -> str:
    many, one = figures["batch_64"], figures["batch_1"]
    cells = (
        f"{size:,}",
        kind,
        f"{figures['recall']['at_1']:.4f} / {figures['recall']['at_10']:.4f}",
        _qps(many["ours"]["median"]),
        shown(many["ours_by_faiss"], 2),
        _qps(many["side_by_side"]["median"]),
        shown(many["side_by_side_by_faiss"], 2),
        _qps(many["callers"]["median"]),
        shown(many["callers_by_faiss"], 2),
        _qps(many["faiss"]["median"]),
        _qps(many["numpy"]["median"]),
        _qps(one["ours"]["median"]),
        _qps(one["faiss"]["median"]),
        f"{figures['build_s']:.0f} s" if figures["build_s"] else "-",
        f"{figures['restart_s']:.1f} s",
        f"{figures['memory_bytes'] / 1e9:.2f} GB",
    )
    return f"| {' | '.join(cells)} |"


def _qps(rate: float) -> str:
    return f"{rate:,.0f}"


def _ms(figure: dict[str, Any]) -> str:
    low, high = figure["quartiles_ms"]
    digits = 1 if figure["median_ms"] >= _FEW_DIGITS_FROM_MS else 2
    return f"{figure['median_ms']:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


TABLES: Final = (
    GeneratedTable("model_latency", ROOT / "docs" / "models.md", model_latency_table),
    GeneratedTable("gallery_search", ROOT / "docs" / "galleries.md", gallery_search_table),
    GeneratedTable("latency", ROOT / "docs" / "performance.md", latency_table),
    GeneratedTable("ceiling", ROOT / "docs" / "performance.md", ceiling_table),
    GeneratedTable("ceiling_zen4", ROOT / "docs" / "performance.md", ceiling_table),
    GeneratedTable("load", ROOT / "docs" / "performance.md", load_table),
    GeneratedTable("overload", ROOT / "docs" / "performance.md", overload_table),
    GeneratedTable("overload_lcnet", ROOT / "docs" / "performance.md", overload_table),
    GeneratedTable("scaling", ROOT / "docs" / "performance.md", scaling_table),
    GeneratedTable("soak", ROOT / "docs" / "performance.md", soak_table),
    GeneratedTable("peers", ROOT / "docs" / "performance.md", peers_table),
    GeneratedTable("peers_tuned", ROOT / "docs" / "performance.md", peers_table),
    GeneratedTable("quality", ROOT / "docs" / "performance.md", quality_table),
)


def main() -> None:
    """Render the docs."""
    for table in TABLES:
        results = json.loads(table.results.read_text(encoding="utf-8"))
        text = table.document.read_text(encoding="utf-8")
        table.document.write_text(table.rendered(text, results), encoding="utf-8")


if __name__ == "__main__":
    main()
