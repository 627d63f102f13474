"""Tables of docs/performance.md, in Markdown: latencies of models, their share of the server, recall beside speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shitu_bench.models.published import T4_PEAK_FLOPS
from shitu_bench.summaries import shown

_FEW_DIGITS_FROM: Final = 10
_COMMIT_DIGITS: Final = 10


def latency_table(results: Mapping[str, Any]) -> str:
    """Return models beside the peak of the device and what PaddleX publishes."""
    peak = results["peak_flops"]["median"]
    lines = [
        (
            f"ONNX Runtime {results['versions']['onnxruntime']}, FP32, {_device(results)}; {results['rounds']} rounds in turns, median "
            f"(quartiles); random weights, seed {results['seed']}; commit {commit_of(results)}. Measured peak: {peak / 1e9:,.0f} GFLOPS in "
            f"a large matrix product. *T4, projected* is no measurement: a model's FLOPs over {T4_PEAK_FLOPS / 1e12:g} TFLOPS times the "
            "fraction of the peak that was reached here."
        ),
        "",
        (
            "| model | GFLOPs | batch | ms | pictures/s | of the peak | T4, projected, ms | PaddleX's figures, T4 / Xeon, ms: beta "
            "| 3.1 | 3.1, fastest mode |"
        ),
        "|---" * 10 + "|",
    ]
    lines += [_latency_row(name, size, model) for name, model in results["models"].items() for size in model["batches"]]
    return "\n".join([*lines, "", _not_measured(results)])


def _latency_row(name: str, size: str, model: Mapping[str, Any]) -> str:
    row, published = model["batches"][size], model["published"]
    is_single = size == "1"
    theirs = ["-"] * 3
    if published and is_single:
        theirs = [f"{one['t4_ms']:g} / {one['cpu_ms']:g}" for one in published.values()]
    fraction = row["fraction_of_peak"]
    cells = (
        name,
        f"{model['flops'] / 1e9:.2f}",
        size,
        spread(row["latency_ms"]),
        spread(row["rate_per_s"]),
        f"{fraction['median']:.0%} ({fraction['low']:.0%}-{fraction['high']:.0%})",
        number(model["t4_projection_ms"]) if is_single else "-",
        *theirs,
    )
    return f"| {' | '.join(cells)} |"


def ceiling_table(results: Mapping[str, Any]) -> str:
    """Return the whole server beside its models alone."""
    lines = [
        (
            f"{machine_of(results)}; 640x480 JPEG with 3 objects in a closed loop; ONNX Runtime {results['versions']['onnxruntime']} and Triton "
            f"of nvidia-pytriton {results['versions']['nvidia-pytriton']}; pairs of slices in turns, median (quartiles); commit "
            f"{commit_of(results)}. The load generator runs on the same cores: *its CPU* is its share of them, and the last ratio is what "
            "the server reaches of the rest."
        ),
        "",
        "| models | in flight | pairs | server, pictures/s | models alone | **ratio** | its CPU | ratio without it | mean batch |",
        "|---" * 9 + "|",
    ]
    lines += [_ceiling_row(figures) for figures in results["packs"].values()]
    alone = [row for figures in results["packs"].values() if "triton_alone" in figures for row in _alone_rows(figures)]
    if alone:
        lines += [
            "",
            "Triton alone, under perf_analyzer with 16 requests in flight, beside the same model in ONNX Runtime, batches alike:",
            "",
            "| model | items of a request | mean batch | inferences/s | ONNX Runtime | ratio |",
            "|---" * 6 + "|",
            *dict.fromkeys(alone),
        ]
    return "\n".join([*lines, "", _not_measured(results)]).rstrip()


def _ceiling_row(figures: Mapping[str, Any]) -> str:
    server, last = figures["server"], figures["pairs"][-1]
    cells = (
        f"{server['detector']} + {server['encoder']}",
        str(figures["concurrency"]),
        str(figures["ratio"]["count"]),
        spread(figures["rate_per_s"]),
        spread(figures["ceiling_per_s"]),
        shown(figures["ratio"], 3),
        f"{figures['generator_cpu_share']['median']:.1%}",
        f"{figures['ratio_without_generator']['median']:.3f}",
        " / ".join(f"{size:.1f}" for size in last["mean_batch"].values()),
    )
    return f"| {' | '.join(cells)} |"


def _alone_rows(figures: Mapping[str, Any]) -> list[str]:
    rows = []
    for model, one in figures["triton_alone"]["models"].items():
        cells = (
            model,
            str(one["request_batch"]),
            f"{one['mean_batch']['median']:.1f}",
            spread(one["rate_per_s"]),
            spread(one["ceiling_per_s"]),
            shown(one["ratio"], 3),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def quality_table(results: Mapping[str, Any]) -> str:
    """Return recall beside speed."""
    search, found = results["search"], results["recognition"]
    lines = [
        (
            f"{search['items']:,} synthetic products of 512 numbers, batches of 64, one thread of {machine_of(results)}; median (quartiles) of "
            f"turns; commit {commit_of(results)}. *Width*: lists that are looked through (IVF), rows that are kept in view (HNSW); *of its "
            "own* 1 is what the server chose for a recall of 0.99."
        ),
        "",
        "| index | width | of its own | recall@1 | recall@10 | queries/s |",
        "|---" * 6 + "|",
    ]
    for point in search["points"]:
        recall = point["recall"]
        cells = (
            point["kind"],
            str(point["width"] or "all"),
            f"{point['width_factor']:g}",
            f"{recall['at_1']:.4f}",
            f"{recall['at_10']:.4f}",
            spread(point["queries_per_s"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        (
            f"The demo models on {found['scene_count']} drawn shelves with {found['object_count']} products of brands that they were not "
            f"trained on: {found['detection_recall']:.3f} were found (IoU 0.5), of these {found['top1_of_found']:.3f} were named rightly, at "
            f"{found['images_per_s']:.1f} pictures a second, by one client that draws the results too."
        ),
    ]
    return "\n".join(lines)


def _not_measured(results: Mapping[str, Any]) -> str:
    missing: Sequence[str] = results["not_measured"]
    return f"Not measured: {'; '.join(missing)}." if missing else ""


def _device(results: Mapping[str, Any]) -> str:
    return results["device_name"] or f"{results['threads']} threads of {machine_of(results)}"


def machine_of(results: Mapping[str, Any]) -> str:
    """Return processor and cores."""
    machine = results["machine"]
    return f"{machine['processor']} ({machine['cores']} cores)"


def commit_of(results: Mapping[str, Any]) -> str:
    """Return the commit, short; with a + where files differed from it."""
    commit: str = results["commit"]
    return f"{commit[:_COMMIT_DIGITS]}{'+' * commit.endswith('+')}"


def spread(figure: Mapping[str, float]) -> str:
    """Return median and quartiles."""
    return f"{number(figure['median'])} ({number(figure['low'])}-{number(figure['high'])})"


def number(value: float) -> str:
    """Return a figure with about three digits."""
    if value >= _FEW_DIGITS_FROM**2:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= _FEW_DIGITS_FROM else f"{value:.2f}"
