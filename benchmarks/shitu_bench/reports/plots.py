"""Makes the plots in the docs from the results that are committed: `python -m shitu_bench.reports.plots [--results DIR] [--images DIR]`.

The same results give the same bytes, with the same matplotlib.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from shitu_bench.records import RESULTS_DIR, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

IMAGES_DIR: Final = Path(__file__).resolve().parents[3] / "docs" / "images"
_QUANTILE_COLOURS: Final = {"p50": "#0072b2", "p90": "#009e73", "p99": "#e69f00", "p999": "#d55e00"}
"""Okabe and Ito's: told apart by people who see fewer colours, too."""
_QUANTILE_NAMES: Final = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9"}
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
_GREY: Final = "#888888"
_PERCENTILES: Final = (0.0, 0.5, 0.9, 0.99, 0.999)
_LAST_SHARE: Final = 0.999
_MIB: Final = 1 << 20
_STYLE: Final[Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _GREY,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "shitu",
}

Draw = Callable[["Figure", Mapping[str, Any]], None]


def draw_load_latency(figure: Figure, results: Mapping[str, Any]) -> None:
    """Latency by the rate at which requests come."""
    axes = figure.subplots()
    runs = _open_runs(results)
    rates = [run["offered_rate_per_s"] for run in runs]
    for name, colour in _QUANTILE_COLOURS.items():
        values = [run["latency_ms"].get(name, float("nan")) for run in runs]
        axes.plot(rates, values, "o-", color=colour, label=_QUANTILE_NAMES[name])
    axes.set_yscale("log")
    _plain_numbers(axes)
    axes.set_xlim(left=0)
    axes.set_xlabel("Poisson arrivals, requests/s")
    axes.set_ylabel("latency from the due time, ms")
    axes.legend(*_reversed_legend(axes), loc="upper left")
    axes.set_title("Latency by load")


def draw_load_distribution(figure: Figure, results: Mapping[str, Any]) -> None:
    """All of the latencies at each rate, the few slow ones as visible as the many fast ones."""
    axes = figure.subplots()
    runs = [run for run in _open_runs(results) if run["latency_curve_ms"]]
    colours = _shades(len(runs))
    for run, colour in zip(runs, colours, strict=True):
        curve = run["latency_curve_ms"]
        points = [
            (share, ms)
            for share, ms in zip(curve["shares"], curve["latencies_ms"], strict=True)
            if share <= _LAST_SHARE
        ]
        places = [_place(share) for share, _ in points]
        axes.plot(places, [ms for _, ms in points], color=colour, label=f"{run['offered_rate_per_s']:.0f}/s")
    axes.set_yscale("log")
    _plain_numbers(axes)
    axes.set_xticks([_place(share) for share in _PERCENTILES], ["fastest", "50 %", "90 %", "99 %", "99.9 %"])
    axes.set_xlim(0, _place(_LAST_SHARE))
    axes.set_xlabel("share of requests that are faster")
    axes.set_ylabel("latency from the due time, ms")
    axes.legend(*_reversed_legend(axes), loc="center left", bbox_to_anchor=(1.0, 0.5), title="arrivals")
    axes.set_title("Distribution of latency")


def draw_overload(figure: Figure, results: Mapping[str, Any]) -> None:
    """Goodput and latency by how much is asked of the server."""
    left, right = figure.subplots(1, 2)
    summary = results["summary"]
    levels, peak = summary["levels"], summary["peak"]["goodput_per_s"]["median"]
    factors = [level["factor"] for level in levels]
    left.plot([0, 1, factors[-1]], [0, peak, peak], "--", color=_GREY, linewidth=1.2, label="the peak, no more")
    scaled = [share * peak for share in _medians(levels, "adjusted_goodput_of_peak")]
    left.plot(factors, scaled, "o:", color=_COLOURS[5], label="answered, had load and refusals cost nothing")
    left.plot(factors, _medians(levels, "goodput_per_s"), "o-", color=_COLOURS[0], label="answered")
    left.set_ylim(bottom=0)
    left.set_ylabel("OK answers/s")
    left.set_title("Goodput")
    left.legend(loc="lower right")
    _latency_lines(right, factors, levels)
    for axes in (left, right):
        axes.set_xlim(left=0)
        axes.set_xlabel("arrivals, multiples of the peak")


def _latency_lines(axes: Axes, factors: Sequence[float], levels: Sequence[Mapping[str, Any]]) -> None:
    lines = (
        ("p99 of answers", "p99_ms", _QUANTILE_COLOURS["p99"]),
        ("p50 of answers", "p50_ms", _QUANTILE_COLOURS["p50"]),
        ("p50 of refusals", "refusal_p50_ms", _COLOURS[3]),
    )
    for label, name, colour in lines:
        axes.plot(factors, _medians(levels, name), "o-", color=colour, label=label)
    axes.set_yscale("log")
    _plain_numbers(axes)
    axes.set_ylabel("latency, ms")
    axes.set_title("Latency")
    axes.legend(loc="best")


def _medians(levels: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [level[name]["median"] if level[name] else float("nan") for level in levels]


def draw_soak(figure: Figure, results: Mapping[str, Any]) -> None:
    """Memory of each part over time."""
    axes = figure.subplots()
    samples = results["samples"]
    minutes = [sample["elapsed_s"] / 60 for sample in samples]
    total = [sum(use["pss_bytes"] for use in sample["parts"].values()) / _MIB for sample in samples]
    axes.plot(minutes, total, color="black", label="all")
    final = {part: use["pss_bytes"] for part, use in samples[-1]["parts"].items()}
    for part, colour in zip(sorted(final, key=lambda one: -final[one]), _cycled(len(final)), strict=True):
        values = [sample["parts"].get(part, {}).get("pss_bytes", 0) / _MIB for sample in samples]
        axes.plot(minutes, values, color=colour, label=part)
    axes.set_ylim(0, 1.1 * max(total))
    axes.set_xlim(minutes[0], minutes[-1])
    axes.set_xlabel("minutes")
    axes.set_ylabel("memory (PSS), MiB")
    grown = results["verdict"]["memory_growth_percent"]
    axes.set_title(
        f"Memory at {100 * results['load_of_peak']:.0f} % of the peak: {grown:+.2f} % from the first to the last quarter"
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


PLOTS: Final[Mapping[str, tuple[str, Draw, tuple[float, float]]]] = {
    "load_latency": ("load", draw_load_latency, (6.4, 4.0)),
    "load_distribution": ("load", draw_load_distribution, (6.4, 4.0)),
    "overload": ("overload", draw_overload, (8.4, 3.8)),
    "soak_memory": ("soak", draw_soak, (7.4, 4.0)),
}
"""By the name of the image: name of the results, what draws it, width and height in inches."""


def rendered(name: str, results: Mapping[str, Any], path: Path) -> None:
    """Draw a plot into a file, as SVG or PNG by its suffix."""
    import matplotlib as mpl  # noqa: PLC0415  of the extra bench, and slow to import
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    _, draw, size = PLOTS[name]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, results)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=110, metadata=metadata)


def _open_runs(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    runs = [run for run in results["runs"] if "offered_rate_per_s" in run]
    return sorted(runs, key=lambda run: float(run["offered_rate_per_s"]))


def _place(share: float) -> float:
    """Return where a share stands on an axis on which each further nine is as wide as the one before."""
    return -math.log10(1 - share)


def _plain_numbers(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator  # noqa: PLC0415

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _reversed_legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """Return handles and labels from the upmost line down."""
    handles, labels = axes.get_legend_handles_labels()
    return handles[::-1], labels[::-1]


def _shades(count: int) -> list[Any]:
    """Return colours from light to dark: the rates are an order."""
    import matplotlib as mpl  # noqa: PLC0415

    shades = mpl.colormaps["viridis_r"]
    return [shades(0.15 + 0.8 * number / max(count - 1, 1)) for number in range(count)]


def _cycled(count: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]


def main() -> None:
    """Draw what there are results for."""
    parser = argparse.ArgumentParser(prog="python -m shitu_bench.reports.plots", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS_DIR)
    parser.add_argument("--images", type=Path, default=IMAGES_DIR)
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    given = parser.parse_args()
    for name, (source, *_) in PLOTS.items():
        path = given.results / f"{source}.json"
        if path.exists():
            image = given.images / f"{name}.{given.format}"
            rendered(name, read(path), image)
            Console().print(f"{image}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
