"""Recognising many pictures: in flight together, with progress, results saved as they come."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from shitu_client.client import AsyncClient
from shitu_client.deliveries import HOPELESS, all_or_none
from shitu_client.drawing import annotated
from shitu_client.errors import ShituClientError, said_of
from shitu_client.filters import Condition
from shitu_client.progress import progress_bar
from shitu_client.results import Recognition


@dataclass(frozen=True)
class RunOptions:
    """What is asked for each picture."""

    gallery: str
    whole_image: bool = False
    detection_threshold: float | None = None
    match_threshold: float | None = None
    top_k: int | None = None
    concurrency: int = 8
    where: Condition | None = None
    matches_per_label: int = 0


@dataclass
class RunOutcome:
    """What came of a run; `truth` has the label of each picture, empty where it is not known."""

    truth: Mapping[Path, str]
    results: dict[Path, Recognition] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)
    elapsed_s: float = 0.0
    saved_to: Path | None = None

    @property
    def images_per_s(self) -> float:
        """Pictures recognised in a second, over the whole run."""
        return len(self.results) / max(self.elapsed_s, 1e-9)

    @property
    def recall_at_1(self) -> float:
        """Share of all pictures whose best candidate has the true label; a picture that failed counts as missed."""
        hits = sum(
            _best_label(self.results[path]) == label for path, label in self.truth.items() if path in self.results
        )
        return hits / max(len(self.truth), 1)


async def recognize_all(
    client: AsyncClient, truth: Mapping[Path, str], options: RunOptions, out: Path | None, console: Console
) -> RunOutcome:
    """Recognise pictures; one that fails, or whose result cannot be saved, is noted and does not stop the rest.

    Raises:
        ShituClientError: of those that the rest would end with too: no such gallery, its encoder is not served, ...
    """
    outcome = RunOutcome(truth, saved_to=out)
    stems = _result_stems(truth)
    places = asyncio.Semaphore(options.concurrency)
    start_s = time.perf_counter()
    with progress_bar(console, "images") as progress:
        task = progress.add_task("recognising", total=len(truth))

        async def one(path: Path) -> None:
            async with places:
                await _recognize_one(client, path, stems[path], options, outcome)
                progress.advance(task)

        await all_or_none([one(path) for path in truth])
    outcome.elapsed_s = time.perf_counter() - start_s
    return outcome


async def _recognize_one(client: AsyncClient, path: Path, stem: str, options: RunOptions, outcome: RunOutcome) -> None:
    try:
        result = await client.recognize(
            path,
            options.gallery,
            detection_threshold=options.detection_threshold,
            match_threshold=options.match_threshold,
            top_k=options.top_k,
            skip_detection=options.whole_image,
            where=options.where,
            matches_per_label=options.matches_per_label,
        )
        if outcome.saved_to is not None:
            await asyncio.to_thread(_save, path, result, outcome.saved_to / f"{stem}_res")
    except HOPELESS:
        raise
    except (ShituClientError, OSError) as error:
        outcome.failures[path] = said_of(error)
    else:
        outcome.results[path] = result


def _result_stems(paths: Iterable[Path]) -> dict[Path, str]:
    """Return a name for each picture's results: its own, numbered where several pictures share one."""
    seen: Counter[str] = Counter()
    stems: dict[Path, str] = {}
    for path in paths:
        seen[path.stem] += 1
        stems[path] = path.stem if seen[path.stem] == 1 else f"{path.stem}_{seen[path.stem]}"
    return stems


def _save(path: Path, result: Recognition, target: Path) -> None:
    # The names are PaddleX's: {stem}_res.json and {stem}_res.jpg.
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(f"{target.name}.json").write_text(result.to_json(), encoding="utf-8")
    annotated(path, result).save(target.with_name(f"{target.name}.jpg"), quality=92)


def _best_label(result: Recognition) -> str:
    candidates = [found.best_candidate for found in result.objects if found.best_candidate is not None]
    return max(candidates, key=lambda match: match.score).label if candidates else ""
