"""PaddleX's basic serving and shitu side by side: the same weights, pictures, galleries, clients and machine, in turns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from shitu_bench.models.official_repository import SEED as WEIGHTS_SEED
from shitu_bench.peers.board import PeersBoard
from shitu_bench.peers.contest import Contest, Course
from shitu_bench.peers.environment import PeerEnvironment, PeerModels
from shitu_bench.peers.models import shared_models
from shitu_bench.peers.pictures import HEIGHT, WIDTH, Pictures, chosen_pictures, product_pictures
from shitu_bench.records import record
from shitu_bench.serving.server import BenchServer, ServerOptions
from shitu_models.specs import PP_SHITUV2_DET

_PACKAGES: Final = ("shitu", "numpy", "opencv-python-headless", "onnxruntime", "faiss-cpu", "nvidia-pytriton", "grpcio")
_NOTES: Final = (
    "Basic serving answers with one event loop, which decodes pictures and unpacks indexes, and one thread that runs the models.",
    "Its command line cannot set the threads of a model; where others than its 10 are taken, its own functions are called by a script.",
    "Its answers hold no drawn pictures here (Serving.visualize off), which it makes by default.",
    "Its detector doubles feature maps by repeating them: with the operator of the official export oneDNN fails in Paddle 3.3.1.",
    "The server that is not under load stays up, idle.",
    "shitu serves with the profile paddlex, whose preprocessing is PaddleX's.",
)


@dataclass(frozen=True)
class PeersPlan:
    """What is measured, and how long."""

    peer_python: Path
    encoders: Sequence[str]
    gallery_sizes: Sequence[int]
    course: Course
    budget_s: float
    """After which no further pair of slices begins; shared evenly by what is left to measure."""
    server: ServerOptions
    """Ours; models and profile are set here."""
    seed: int
    cache: Path | None = None


def measured_peers(plan: PeersPlan, console: Console, kept: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure, and return the results.

    Args:
        plan: what is measured.
        console: is told what goes on.
        kept: is given the results so far after each gallery, since all together take most of an hour.

    Raises:
        BenchError: PaddleX or Paddle is missing, or a server does not do what it should.
    """
    environment = PeerEnvironment(plan.peer_python)
    facts, end_s = environment.facts(), time.monotonic() + plan.budget_s
    shared = shared_models([PP_SHITUV2_DET.name, *plan.encoders], console, seed=WEIGHTS_SEED, cache=plan.cache)
    with console.status("choosing pictures with about three objects"):
        pictures = chosen_pictures(shared.repository, PP_SHITUV2_DET.name, plan.seed)
        products = product_pictures(plan.seed)
    results = _without_figures(plan, facts, pictures)
    with PeersBoard(console) as board:
        for number, encoder in enumerate(plan.encoders):

            def keep(figures: dict[str, Any], encoder: str = encoder) -> None:
                results["encoders"][encoder] = figures
                kept(results)

            models = PeerModels(encoder, shared.directories, pictures.threshold)
            share_s = (end_s - time.monotonic()) / (len(plan.encoders) - number)
            with tempfile.TemporaryDirectory(prefix="shitu-peers-") as folder:
                contest = Contest(environment, models, pictures, products, plan.course, board, Path(folder), plan.seed)
                options = _options(plan, shared.repository, encoder)
                _measure_encoder(contest, options, plan.gallery_sizes, share_s, keep)
    return results


def faults_of(results: Mapping[str, Any]) -> list[str]:
    """Return in what the servers did not do the same work, or failed."""
    faults = []
    for encoder, figures in results["encoders"].items():
        for size, gallery in figures["galleries"].items():
            for name, agreement in gallery["agreement"].items():
                faults += [f"{encoder}, {size} items, {name}: {fault}" for fault in agreement["faults"]]
            for name, rival in gallery["rivals"].items():
                wrong = {code: count for code, count in rival["codes"].items() if code not in {"0", "OK"}}
                faults += [f"{encoder}, {size} items, {name}: {count} answers {code}" for code, count in wrong.items()]
    return faults


def _without_figures(plan: PeersPlan, facts: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    """Return what all figures have in common, and a place for them."""
    common = {
        "clients": plan.course.slices.concurrency,
        "pictures": _described(pictures),
        "paddlex": {**facts, "notes": list(_NOTES)},
        "shitu": {**plan.server.described(), "detector": PP_SHITUV2_DET.name, "encoder": "as measured"},
        "weights_seed": WEIGHTS_SEED,
        "encoders": {},
    }
    return record(common, seed=plan.seed, packages=_PACKAGES)


def _measure_encoder(
    contest: Contest,
    options: ServerOptions,
    sizes: Sequence[int],
    budget_s: float,
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Measure each gallery, and keep the figures so far after it."""
    end_s = time.monotonic() + budget_s
    figures: dict[str, Any] = {"paddlex": contest.find_configuration(), "galleries": {}}
    with BenchServer(options) as ours:
        for number, size in enumerate(sizes):
            now_s = time.monotonic()
            share_s = (end_s - now_s) / (len(sizes) - number)
            figures["galleries"][str(size)] = contest.measured(ours, size, now_s + share_s)
            keep(figures)


def _options(plan: PeersPlan, repository: Path, encoder: str) -> ServerOptions:
    environment = {**plan.server.environment, "SHITU_PROFILE": "paddlex"}
    detector = PP_SHITUV2_DET.name
    return replace(
        plan.server, detector=detector, encoder=encoder, model_repository=repository, environment=environment
    )


def _described(pictures: Pictures) -> dict[str, Any]:
    return {
        "count": len(pictures.files),
        "size_px": [WIDTH, HEIGHT],
        "mean_file_bytes": round(float(np.mean([len(file) for file in pictures.files]))),
        "detection_threshold": pictures.threshold,
        "object_counts": list(pictures.object_counts),
    }
