"""PaddleX's basic serving and shitu side by side: the same weights, pictures, galleries, clients and machine, in turns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from shitu_bench.official_repository import SEED as WEIGHTS_SEED
from shitu_bench.peers_board import PeersBoard
from shitu_bench.peers_contest import Contest, Course
from shitu_bench.peers_environment import PeerEnvironment, PeerModels
from shitu_bench.peers_models import shared_models
from shitu_bench.peers_pictures import HEIGHT, WIDTH, Pictures, chosen_pictures, product_pictures
from shitu_bench.records import record
from shitu_bench.server import BenchServer, ServerOptions
from shitu_models.specs import PP_SHITUV2_DET

_PACKAGES: Final = ("shitu", "numpy", "opencv-python-headless", "onnxruntime", "faiss-cpu", "nvidia-pytriton", "grpcio")
_NOTES: Final = (
    "Basic serving answers with one event loop, which decodes pictures and unpacks indexes, and one thread that runs the models.",
    "Its command line cannot set the threads of a model; where others than its 10 are taken, its own functions are called by a script.",
    "Its answers hold no drawn pictures here (Serving.visualize off), which it makes by default.",
    "Its detector doubles feature maps by repeating them: with the operator of the official export oneDNN fails in Paddle 3.3.1.",
    "The server that is not under load stays up, idle.",
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


def measured_peers(plan: PeersPlan, console: Console) -> dict[str, Any]:
    """Measure, and return the results.

    Raises:
        BenchError: PaddleX or Paddle is missing, or a server does not do what it should.
    """
    environment = PeerEnvironment(plan.peer_python)
    facts = environment.facts()
    end_s = time.monotonic() + plan.budget_s
    names = [PP_SHITUV2_DET.name, *plan.encoders]
    shared = shared_models(names, console, seed=WEIGHTS_SEED, cache=plan.cache)
    with console.status("choosing pictures with about three objects"):
        pictures = chosen_pictures(shared.repository, PP_SHITUV2_DET.name, plan.seed)
        products = product_pictures(plan.seed)
    encoders = {}
    with PeersBoard(console) as board:
        for number, encoder in enumerate(plan.encoders):
            models = PeerModels(encoder, shared.directories, pictures.threshold)
            share_s = (end_s - time.monotonic()) / (len(plan.encoders) - number)
            with tempfile.TemporaryDirectory(prefix="shitu-peers-") as folder:
                contest = Contest(environment, models, pictures, products, plan.course, board, Path(folder), plan.seed)
                options = _options(plan, shared.repository, encoder)
                encoders[encoder] = _encoder_figures(contest, options, plan.gallery_sizes, share_s)
    figures = {
        "clients": plan.course.slices.concurrency,
        "pictures": _described(pictures),
        "paddlex": {**facts, "notes": list(_NOTES)},
        "shitu": {**_options(plan, shared.repository, plan.encoders[0]).described(), "encoder": "as measured"},
        "weights_seed": WEIGHTS_SEED,
        "encoders": encoders,
    }
    return record(figures, seed=plan.seed, packages=_PACKAGES)


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


def _encoder_figures(contest: Contest, options: ServerOptions, sizes: Sequence[int], budget_s: float) -> dict[str, Any]:
    end_s = time.monotonic() + budget_s
    figures: dict[str, Any] = {"paddlex": contest.find_configuration(), "galleries": {}}
    with BenchServer(options) as ours:
        for number, size in enumerate(sizes):
            now_s = time.monotonic()
            share_s = (end_s - now_s) / (len(sizes) - number)
            figures["galleries"][str(size)] = contest.measured(ours, size, now_s + share_s)
    return figures


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
