"""`shitu bench peers`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Optional

import typer
from rich.console import Console
from rich.table import Table

from shitu_bench.errors import BenchError
from shitu_bench.load import command_options as options
from shitu_bench.summaries import shown
from shitu_models.specs import PP_SHITUV2_REC, PP_SHITUV2_REC_CLIP_VIT_BASE

_PEER_PYTHON: Final = Path(__file__).resolve().parents[3] / ".venv-peer" / "bin" / "python"
_ENCODERS: Final = (PP_SHITUV2_REC.name, PP_SHITUV2_REC_CLIP_VIT_BASE.name)
_GALLERY_SIZES: Final = (100, 100_000)
_COLUMNS: Final = ("per s", "p50, s", "p99, s", "CPU s", "faster by", "p99 by")


def peers(
    *,
    encoder: Annotated[
        Optional[list[str]], typer.Option(help="An official encoder; may be given again. PP-ShiTuV2_rec and CLIP base.")
    ] = None,
    gallery_size: Annotated[
        Optional[list[int]], typer.Option(min=8, max=1_000_000, help="May be given again. 100 and 100,000 by default.")
    ] = None,
    clients: Annotated[int, typer.Option(min=1, max=256, help="Each with one request in flight.")] = 16,
    pairs: Annotated[int, typer.Option(min=2, help="Of slices, at most.")] = 5,
    slice_s: Annotated[
        float, typer.Option("--slice", min=1, help="Seconds; four times as long for servers that answer less than 30.")
    ] = 15.0,
    trial_s: Annotated[
        float, typer.Option("--trial", min=1, help="Seconds in which each configuration of PaddleX is tried.")
    ] = 8.0,
    budget_s: Annotated[
        float, typer.Option("--budget", min=0, help="Seconds after which no further pair begins.")
    ] = 3600.0,
    peer_python: Annotated[
        Path, typer.Option(help="PaddleX's interpreter; `make peer` makes this one.")
    ] = _PEER_PYTHON,
    workers: options.Workers = 1,
    instances: options.Instances = 1,
    threads: options.Threads = 0,
    environment: options.Environment = None,
    seed: options.Seed = 5,
    cache: Annotated[Optional[Path], typer.Option(help="Keeps the models; the user's cache where unset.")] = None,
    out: options.Out = None,
) -> None:
    """Measure PaddleX's basic serving and shitu in turns: same weights, pictures, galleries, clients and machine."""
    from shitu_bench.peers.contest import Course  # noqa: PLC0415
    from shitu_bench.peers.run import PeersPlan, faults_of, measured_peers  # noqa: PLC0415
    from shitu_bench.peers.slices import SlicePlan  # noqa: PLC0415
    from shitu_bench.serving.server import ServerOptions  # noqa: PLC0415

    server = ServerOptions(workers, instances, threads, environment=options.environment_of(environment))
    plan = PeersPlan(
        peer_python=peer_python,
        encoders=tuple(encoder or _ENCODERS),
        gallery_sizes=tuple(gallery_size or _GALLERY_SIZES),
        course=Course(SlicePlan(slice_s, concurrency=clients), pairs, trial_s),
        budget_s=budget_s,
        server=server,
        seed=seed,
        cache=cache,
    )
    console = Console(stderr=True)
    with options.ending_in_order(console):
        results = measured_peers(plan, console, lambda so_far: options.keep(so_far, out))
        for name, figures in results["encoders"].items():
            Console().print(_table(name, figures))
        if faults := faults_of(results):
            raise BenchError("the servers did not do the same work:\n" + "\n".join(faults))


def _table(encoder: str, figures: Mapping[str, Any]) -> Table:
    table = Table(title=f"Detector and {encoder}", caption=f"PaddleX with {figures['paddlex']['configuration']}")
    table.add_column("gallery", justify="right", no_wrap=True)
    table.add_column("server", overflow="fold", min_width=12)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for size, gallery in figures["galleries"].items():
        for name, rival in gallery["rivals"].items():
            table.add_row(size, name, *_cells(rival), *_factor_cells(gallery["factors"].get(name)))
    return table


def _cells(rival: Mapping[str, Any]) -> tuple[str, ...]:
    latency = rival["latency_ms"] or {"p50": float("nan"), "p99": float("nan")}
    return (
        f"{rival['rate_per_s']['median']:.2f}",
        f"{latency['p50'] / 1000:.2f}",
        f"{latency['p99'] / 1000:.2f}",
        f"{rival['cpu_s_per_picture']:.3f}",
    )


def _factor_cells(factors: Mapping[str, Mapping[str, float]] | None) -> tuple[str, ...]:
    """Of a rival: how many times as fast we are, with quartiles, and how many times as low our p99 is."""
    if not factors:
        return ("", "")
    return (
        shown(factors["throughput"], 2),
        f"{factors['p99']['median']:.2f}",
    )
