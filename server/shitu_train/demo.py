"""`shitu demo`: the whole way on drawn products: gallery pictures in, shelves recognised, compared with the truth."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from shitu_client import AsyncClient, Recognition, UnavailableError, tables
from shitu_client.builds import build_gallery
from shitu_client.pictures import labelled_pictures
from shitu_client.progress import progress_bar
from shitu_client.runs import RunOptions, recognize_all
from shitu_train.matching import match
from shitu_train.render import DemoSizes, write_demo_dataset

_GALLERY: Final = "demo"
_PARTS: Final = ("pictures", "annotated", "server-data")
_MARKER: Final = ".shitu-demo"
_START_TIMEOUT_S: Final = 120.0
_STOP_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.2


@dataclass(frozen=True)
class DemoFigures:
    """What the server found of what was drawn."""

    scene_count: int
    object_count: int
    detection_recall: float
    """Share of the drawn products that a box answers, at an IoU of 0.5 or more."""
    top1_of_found: float
    """Share of those whose best candidate is the right product."""
    images_per_s: float


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


async def run_demo(folder: Path, sizes: DemoSizes, seed: int, console: Console) -> DemoFigures:
    """Draw products and scenes into `folder`, start a server, build the gallery, recognise, and stop what was started.

    Raises:
        DemoError: the folder holds something else, or the server did not start or stop.
    """
    _claim(folder)
    pictures = folder / "pictures"
    _draw(pictures, sizes, seed, console)
    async with _server(folder, console) as client:
        build = await build_gallery(client, _GALLERY, labelled_pictures(pictures / "gallery.txt"), 4, console)
        tables.print_build(console, await client.get_gallery(_GALLERY), build)
        truth = json.loads((pictures / "test_truth.json").read_text(encoding="utf-8"))
        scenes = {pictures / name: "" for name in truth}
        outcome = await recognize_all(client, scenes, RunOptions(_GALLERY), folder / "annotated", console)
    tables.print_recognitions(console, outcome, labelled=False)
    results = {path.relative_to(pictures).as_posix(): result for path, result in outcome.results.items()}
    figures = compared(truth, results, outcome.images_per_s)
    _print_figures(figures, console)
    return figures


def compared(truth: dict[str, Any], results: dict[str, Recognition], images_per_s: float) -> DemoFigures:
    """Compare recognitions with what was drawn; both by the picture's name. A scene that failed counts as missed."""
    objects = found = right = 0
    for name, scene in truth.items():
        objects += len(scene["boxes"])
        result = results.get(name)
        if result is None:
            continue
        detected = sorted(result.objects, key=lambda o: -o.detection_score)
        boxes = np.array([o.box for o in detected], dtype=np.float32).reshape(-1, 4)
        for true_index, found_index in match(boxes, np.array(scene["boxes"], dtype=np.float32)).items():
            best = detected[found_index].best_candidate
            found += 1
            right += best is not None and best.label == scene["labels"][true_index]
    return DemoFigures(len(truth), objects, found / max(objects, 1), right / max(found, 1), images_per_s)


def _claim(folder: Path) -> None:
    """Make sure that what is deleted in the folder is ours."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / _MARKER
    if not marker.exists():
        strangers = [name for name in _PARTS if (folder / name).exists()]
        if strangers:
            raise DemoError(
                f"{folder} holds {', '.join(strangers)}, which no demo made; choose another folder with --out"
            )
        marker.write_text("made by `shitu demo`, which writes the folders beside this file anew\n", encoding="utf-8")
    for name in _PARTS:
        shutil.rmtree(folder / name, ignore_errors=True)


def _draw(folder: Path, sizes: DemoSizes, seed: int, console: Console) -> None:
    total = sizes.products * sizes.gallery_pictures_per_product + sizes.scenes
    with progress_bar(console) as progress:
        task = progress.add_task("drawing", total=total)
        write_demo_dataset(folder, seed, sizes, advance=lambda: progress.advance(task))
    console.print(
        f"drew {sizes.products} products that no training picture holds, {sizes.gallery_pictures_per_product} pictures of each, "
        f"and {sizes.scenes} scenes: {folder}",
        highlight=False,
    )


@contextlib.asynccontextmanager
async def _server(folder: Path, console: Console) -> AsyncIterator[AsyncClient]:
    data_dir, log_path = folder / "server-data", folder / "server.log"
    port = _free_port()
    command = [sys.executable, "-m", "shitu_client", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    with log_path.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: ASYNC220  starts at once
    try:
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            with console.status("starting the server"):
                await _wait_until_serving(client, process, log_path)
            yield client
    finally:
        await asyncio.to_thread(_stop, process, log_path)


def _stop(process: subprocess.Popen[bytes], log_path: Path) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        process.kill()  # what it started ends with it
        process.wait()
        raise DemoError(
            f"the server did not stop within {_STOP_TIMEOUT_S:.0f} s and was killed; see {log_path}"
        ) from error


async def _wait_until_serving(client: AsyncClient, process: subprocess.Popen[bytes], log_path: Path) -> None:
    end_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end_s:
        if process.poll() is not None:
            log = await asyncio.to_thread(log_path.read_text)
            raise DemoError(f"the server ended with status {process.returncode}:\n{log}")
        with contextlib.suppress(UnavailableError):
            if await client.is_serving():
                return
        await asyncio.sleep(_POLL_S)
    raise DemoError(f"the server was not ready within {_START_TIMEOUT_S:.0f} s; see {log_path}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _print_figures(figures: DemoFigures, console: Console) -> None:
    table = Table("scenes", "products on them", "found (IoU 0.5)", "right of found", "images/s")
    table.add_row(
        str(figures.scene_count),
        str(figures.object_count),
        f"{figures.detection_recall:.3f}",
        f"{figures.top1_of_found:.3f}",
        f"{figures.images_per_s:.1f}",
    )
    console.print(table)
