"""Search of a gallery beside FAISS called directly and beside numpy, for one index kind and size.

The galleries are real: rows in SQLite, a real gallery process that builds the index and is started again. Each rate is measured in turns
with FAISS itself (the same index file with the same widths, one thread) and with numpy. `shitu bench search` runs this in a process of its
own for each kind and size.
"""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import faiss as untyped_faiss
import numpy as np

from shitu_bench.galleries.gallery_process import ENCODER, NAME, process_figures, write_rows
from shitu_bench.galleries.search_rivals import in_turns, rate_of
from shitu_bench.galleries.synthetic_vectors import DIMENSION, TOP_K, Data, exactly_nearest, recalls, synthetic_data
from shitu_server.filters import Filter, Range
from shitu_server.gallery.embedded import EmbeddedGallery
from shitu_server.gallery.index import Neighbours, prepare_faiss
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.nearest import reach_for
from shitu_server.gallery.neighbours import FaissNeighbours
from shitu_server.types import IndexKind, SearchOptions, Vectors

faiss: Any = untyped_faiss  # its types do not name all of its classes

BATCH: Final = 64
SHARES: Final = (1.0, 0.1, 0.01, 0.001)
"""Of the items that a filter allows."""
CALLERS: Final = 64
BATCHES_AT_ONCE: Final = 4
"""Of several callers: while one batch is searched, hits of the one before it are made."""


async def measured(data: Data, kind: IndexKind, folder: Path) -> dict[str, Any]:
    """Fill a gallery, let a process build its index, start it again, and search it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    figures: dict[str, Any] = {"write_s": await asyncio.to_thread(write_rows, data, kind, folder)}
    figures |= await process_figures(folder, len(data.rows), kind)
    figures["disk_bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    prepare_faiss(1)
    gallery = await EmbeddedGallery.open(folder, GalleryLimits(search_queue_queries=4096))
    gc.freeze()  # as the gallery process does
    try:
        figures["recall"] = await _recall(gallery, data)
        figures |= await _rates(gallery, data, _direct_search(data, kind, folder))
        figures["filtered"] = [await _filtered(gallery, data, share) for share in SHARES]
    finally:
        await gallery.close()
        gc.unfreeze()
    shutil.rmtree(folder)
    return figures


async def _recall(gallery: EmbeddedGallery, data: Data) -> dict[str, float]:
    found = await _found(gallery, data.queries, None)
    return recalls(found, data.nearest)


async def _found(gallery: EmbeddedGallery, queries: Vectors, where: Filter | None) -> list[list[int]]:
    found: list[list[int]] = []
    for begin in range(0, len(queries), BATCH):
        result = await gallery.search(NAME, queries[begin : begin + BATCH], ENCODER, SearchOptions(TOP_K, where=where))
        found += [[int(hit.item_id.removeprefix("item-")) for hit in hits] for hits in result.hits]
    return found


Search = Callable[[Vectors], Any]


def _direct_search(data: Data, kind: IndexKind, folder: Path) -> Search:
    """Return FAISS itself on the same vectors: for HNSW and IVF the very index of the gallery, with the same widths."""
    if kind is IndexKind.FLAT:
        flat = faiss.IndexFlatIP(DIMENSION)
        flat.add(data.rows)
        return lambda queries: flat.search(queries, TOP_K)
    loaded = Neighbours.load(folder / "indexes", "1")
    assert loaded is not None
    neighbours = loaded[0]
    assert isinstance(neighbours, FaissNeighbours)
    width = neighbours.width(reach_for(TOP_K, 1.0))
    index = faiss.read_index(str(next((folder / "indexes").glob("1.*.faiss"))))
    if kind is IndexKind.HNSW:
        parameters = faiss.SearchParametersHNSW(efSearch=width)
    else:
        parameters = faiss.SearchParametersIVF(nprobe=width)
    return lambda queries: index.search(queries, TOP_K, params=parameters)


async def _rates(gallery: EmbeddedGallery, data: Data, direct: Search) -> dict[str, Any]:
    """Measure queries a second, ours and the others' in turns."""

    def numpy_search(queries: Vectors) -> None:
        exactly_nearest(data.rows, queries, TOP_K)

    async def ours(queries: Vectors) -> int:
        await gallery.search(NAME, queries, ENCODER, SearchOptions(TOP_K))
        return len(queries)

    async def side_by_side(queries: Vectors) -> int:
        return sum(await asyncio.gather(*(ours(queries) for _ in range(BATCHES_AT_ONCE))))

    async def callers(queries: Vectors) -> int:
        return sum(await asyncio.gather(*(ours(queries[i : i + 1]) for i in range(CALLERS))))

    async def faiss_search(queries: Vectors) -> int:
        direct(queries)
        return len(queries)

    async def by_numpy(queries: Vectors) -> int:
        numpy_search(queries)
        return len(queries)

    batch = {
        "ours": ours,
        "side_by_side": side_by_side,
        "callers": callers,
        "faiss": faiss_search,
        "numpy": by_numpy,
    }
    single = {"ours": ours, "faiss": faiss_search, "numpy": by_numpy}
    return {
        "batch_64": await in_turns(batch, data.queries, BATCH),
        "batch_1": await in_turns(single, data.queries, 1),
    }


async def _filtered(gallery: EmbeddedGallery, data: Data, share: float) -> dict[str, float]:
    """Measure a search in a share of the items."""
    below = round(1000 * share)
    where = Range("permille", below=below)
    allowed = np.flatnonzero(np.arange(len(data.rows)) * 7919 % 1000 < below)
    nearest = allowed[exactly_nearest(data.rows[allowed], data.queries, min(TOP_K, len(allowed)))]
    found = recalls(await _found(gallery, data.queries, where), nearest)

    async def search(queries: Vectors) -> int:
        await gallery.search(NAME, queries, ENCODER, SearchOptions(TOP_K, where=where))
        return len(queries)

    rates = {
        batch: statistics.median([await rate_of(search, data.queries, batch, i) for i in range(3)])
        for batch in (1, BATCH)
    }
    return {"share": share, **found, "batch_1": rates[1], "batch_64": rates[BATCH]}


def main() -> None:
    """Arguments: size, kind and folder as JSON, and where the figures go."""
    plan = json.loads(sys.argv[1])
    kind = IndexKind(plan["kind"])
    figures = asyncio.run(measured(synthetic_data(plan["size"]), kind, Path(plan["folder"]) / kind.value))
    Path(sys.argv[2]).write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
