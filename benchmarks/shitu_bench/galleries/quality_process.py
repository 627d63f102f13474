"""The process that measures recall beside speed: a gallery's index kinds, looked through more and less widely, in turns.

Run by `shitu bench quality` in the environment of a gallery process with one search thread.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress

from shitu_bench.galleries.search_rivals import Rival, rate_of
from shitu_bench.galleries.synthetic_vectors import DIMENSION, TOP_K, Data, recalls, synthetic_data
from shitu_bench.summaries import spread_of
from shitu_server.gallery.index import Entry, GalleryIndex, prepare_faiss
from shitu_server.gallery.neighbours import FaissNeighbours
from shitu_server.gallery.snapshot import IndexSnapshot
from shitu_server.types import GalleryOptions, IndexKind, Vectors

WIDTH_FACTORS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the width that the server measured for its recall of 0.99; 1 is what it looks with."""
_BATCH: Final = 64
_PUT_ROWS: Final = 5000


@dataclass(frozen=True)
class Point:
    """A way to search: a point of the curve."""

    kind: IndexKind
    factor: float
    width: int
    """Rows that are kept in view (HNSW, efSearch), or lists that are looked through (IVF, nprobe); 0 where all rows are compared."""
    snapshot: IndexSnapshot


def measured(data: Data, rounds: int, console: Console) -> list[dict[str, Any]]:
    """Return recall and queries a second of each point."""
    prepare_faiss(1)
    with console.status(f"building the indexes of {len(data.rows)} rows"):
        points = [*_flat(data), *_points(IndexKind.IVF, data), *_points(IndexKind.HNSW, data)]
    rates: list[list[float]] = [[] for _ in points]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("searching", total=rounds * len(points))
        for number in range(rounds):
            for point, own in zip(points, rates, strict=True):
                own.append(asyncio.run(rate_of(_search(point), data.queries, _BATCH, number)))
                progress.advance(task)
    return [_figures(point, own, data) for point, own in zip(points, rates, strict=True)]


def _index(kind: IndexKind, data: Data) -> GalleryIndex:
    index = GalleryIndex(DIMENSION, GalleryOptions(index_kind=kind), prefer_indexed=True)
    for begin in range(0, len(data.rows), _PUT_ROWS):
        rows = data.rows[begin : begin + _PUT_ROWS]
        entries = [Entry(number, str(number), str(number), "{}") for number in range(begin, begin + len(rows))]
        index.put(entries, rows)
    return index


def _flat(data: Data) -> list[Point]:
    return [Point(IndexKind.FLAT, 1.0, 0, _index(IndexKind.FLAT, data).snapshot())]


def _points(kind: IndexKind, data: Data) -> list[Point]:
    """Return the points of graph or lists; none where the rows are too few to be worth one."""
    index = _index(kind, data)
    job = index.wish()
    if job is None:
        return []
    built = job.run()
    assert isinstance(built, FaissNeighbours)
    index.adopt(built)
    points = []
    for factor in WIDTH_FACTORS:
        widths = {reach: _scaled(width, factor, built) for reach, width in built.origin.widths.items()}
        index.attach(built.with_widths(widths), ())
        points.append(Point(kind, factor, widths[min(widths)], index.snapshot()))
    return points


def _scaled(width: int, factor: float, built: FaissNeighbours) -> int:
    return max(1, min(built.most_width, round(factor * width)))


def _search(point: Point) -> Rival:
    async def search(queries: Vectors) -> int:
        point.snapshot.search(queries, TOP_K)
        return len(queries)

    return search


def _figures(point: Point, rates: list[float], data: Data) -> dict[str, Any]:
    found = [[int(hit.entry.item_id) for hit in hits] for hits in point.snapshot.search(data.queries, TOP_K)]
    return {
        "kind": point.kind.value,
        "width_factor": point.factor,
        "width": point.width,
        "recall": recalls(found, data.nearest),
        "queries_per_s": spread_of(rates),
    }


def main() -> None:
    """Arguments: the plan as JSON, and where the figures go."""
    plan: Mapping[str, Any] = json.loads(sys.argv[1])
    figures = {
        "items": plan["size"],
        "points": measured(synthetic_data(plan["size"]), plan["rounds"], Console(stderr=True)),
    }
    Path(sys.argv[2]).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
