"""Search of a gallery beside FAISS called directly and beside numpy, for each index kind and size.

`python -m shitu_bench.gallery_search` in the checkout, with the dev extra, writes results/gallery_search.json; with a million items it
takes most of an hour on two cores, nearly all of it building HNSW, and 8 GB. `python -m shitu_bench.docs_tables` makes the table in
docs/galleries.md from it. Results of sizes and kinds that are not asked for stay as they are.

The galleries are real: rows in SQLite, a real gallery process that builds the index and is started again. Vectors are synthetic, 512
numbers, seeded: views around products around categories on the unit sphere; queries are further views. Each rate is measured in turns with FAISS itself (the same
index file with the same widths, one thread) and with numpy, so that all see the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shitu_server.gallery.environment import search_environment

os.environ.update(search_environment(1))  # before numpy and FAISS are loaded

import faiss
import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console

from shitu_bench.machine import described, versions_of
from shitu_server.filters import FieldType, Filter, Range
from shitu_server.gallery.checks import CheckedItem
from shitu_server.gallery.client import GalleryClient
from shitu_server.gallery.embedded import EmbeddedGallery
from shitu_server.gallery.index import Neighbours, prepare_faiss
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.nearest import reach_for
from shitu_server.gallery.neighbours import FaissNeighbours
from shitu_server.gallery.store import GalleryStore
from shitu_server.types import GalleryOptions, IndexKind, SearchOptions, Vectors
from shitu_train.records import source_commit

RESULTS: Final = Path(__file__).resolve().parents[1] / "results" / "gallery_search.json"
DIMENSION: Final = 512
TOP_K: Final = 10
BATCH: Final = 64
PAIRS: Final = 7
SLICE_S: Final = 1.0
"""Of each of the rivals, in each of the pairs."""
QUERIES: Final = 640
SHARES: Final = (1.0, 0.1, 0.01, 0.001)
"""Of the items that a filter allows."""
CALLERS: Final = 64
BATCHES_AT_ONCE: Final = 4
"""Of several callers: while one batch is searched, hits of the one before it are made."""
ENCODER: Final = "benchmark"
NAME: Final = "gallery"
_SEED: Final = 20
_CATEGORIES: Final = 500
_ROWS_PER_PRODUCT: Final = 50
_PRODUCT_SPREAD: Final = 1.0
"""Of products around their category, beside 1: two of one category have a cosine about .5."""
_VIEW_SPREAD: Final = 0.6
"""Of views around their product, beside 1: two of one product have a cosine about .7."""
_BUILD_TIMEOUT_S: Final = 3600

_console = Console(stderr=True)


@dataclass(frozen=True)
class Data:
    """Rows, and queries with what is exactly nearest to them."""

    rows: Vectors
    queries: Vectors
    nearest: NDArray[np.int64]
    """int64 [queries, TOP_K]."""


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(prog="python -m shitu_bench.gallery_search", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["flat", "ivf", "hnsw"], choices=["flat", "ivf", "hnsw"])
    parser.add_argument("--folder", type=Path, help="for the galleries; a temporary one by default")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="shitu-benchmark-"))
    try:
        for size in arguments.sizes:
            data = _data(size)
            for kind in arguments.kinds:
                keep(size, kind, asyncio.run(measured(data, IndexKind(kind), folder / f"{kind}-{size}")))
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)


def keep(size: int, kind: str, figures: dict[str, Any]) -> None:
    """Put figures into the results, with what they were measured on."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"sizes": {}}
    figures |= {
        "machine": described(),
        "versions": versions_of("faiss-cpu", "numpy", "shitu"),
        "commit": source_commit(),
        "seed": _SEED,
    }
    results["sizes"].setdefault(str(size), {})[kind] = figures
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    _console.print(f"measured {kind} of {size}")


async def measured(data: Data, kind: IndexKind, folder: Path) -> dict[str, Any]:
    """Fill a gallery, let a process build its index, start it again, and search it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    figures: dict[str, Any] = {"write_s": await asyncio.to_thread(_write, data, kind, folder)}
    figures |= await _process_figures(folder, len(data.rows), kind)
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


def _data(size: int) -> Data:
    rng = np.random.default_rng(_SEED)
    categories = _units(rng.standard_normal((_CATEGORIES, DIMENSION), dtype=np.float32))
    product_count = max(1, size // _ROWS_PER_PRODUCT)
    products = _beside(categories[rng.integers(_CATEGORIES, size=product_count)], _PRODUCT_SPREAD, rng)
    rows = np.empty((size, DIMENSION), dtype=np.float32)
    for begin in range(0, size, 10_000):
        end = min(size, begin + 10_000)
        rows[begin:end] = _beside(products[rng.integers(product_count, size=end - begin)], _VIEW_SPREAD, rng)
    queries = _beside(products[rng.integers(product_count, size=QUERIES)], _VIEW_SPREAD, rng)
    return Data(rows, queries, _exactly_nearest(rows, queries, TOP_K))


def _beside(vectors: Vectors, spread: float, rng: np.random.Generator) -> Vectors:
    noise = _units(rng.standard_normal(vectors.shape, dtype=np.float32))
    return _units(vectors + np.float32(spread) * noise)


def _units(vectors: Vectors) -> Vectors:
    units: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def _exactly_nearest(rows: Vectors, queries: Vectors, k: int) -> NDArray[np.int64]:
    scores = np.concatenate([queries @ rows[begin : begin + 50_000].T for begin in range(0, len(rows), 50_000)], axis=1)
    best = (
        np.argpartition(-scores, k, axis=1)[:, :k]
        if k < len(rows)
        else np.tile(np.arange(len(rows)), (len(queries), 1))
    )
    order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
    return np.take_along_axis(best, order, 1)


def _write(data: Data, kind: IndexKind, folder: Path) -> float:
    """Store the rows as the gallery process does, many in a transaction; returns seconds."""
    begin_s = time.monotonic()
    store = GalleryStore(folder)
    with store.transaction():
        options = GalleryOptions(index_kind=kind, fields={"permille": FieldType.NUMBER})
        generation = store.galleries.insert(NAME, ENCODER, DIMENSION, options, 0.0).generation
    for begin in range(0, len(data.rows), 5000):
        with store.transaction():
            rows = data.rows[begin : begin + 5000]
            for number, row in enumerate(rows, begin):
                metadata = f'{{"permille":{_permille(number)}}}'
                item = CheckedItem(f"item-{number}", f"label-{number // 10}", row, metadata, b"")
                store.items.upsert(generation, item, 2, 0.0)
            store.galleries.advance(generation, len(rows))
    store.close()
    return time.monotonic() - begin_s


def _permille(number: int) -> int:
    """Return the declared field of an item: 0 to 999, each as often as the others, in no order that the rows have."""
    return number * 7919 % 1000


async def _process_figures(folder: Path, size: int, kind: IndexKind) -> dict[str, Any]:
    """Build the index in a real process; start it again."""
    figures: dict[str, Any] = {}
    async with _Process(folder) as process:
        figures["first_start_s"] = process.start_s
        begin_s = time.monotonic()
        while kind is not IndexKind.FLAT:
            index = (await process.client.get(NAME)).index
            if index.indexed_count == size and not index.building and _kept(folder):
                break
            if time.monotonic() - begin_s > _BUILD_TIMEOUT_S:
                raise TimeoutError(f"{kind.value} of {size} was not built in {_BUILD_TIMEOUT_S} s")
            await asyncio.sleep(0.5)
        figures["build_s"] = time.monotonic() - begin_s if kind is not IndexKind.FLAT else 0.0
    async with _Process(folder) as process:
        index = (await process.client.get(NAME)).index
        assert kind is IndexKind.FLAT or (index.kind, index.indexed_count) == (kind, size), index
        figures["restart_s"] = process.start_s
        figures["memory_bytes"] = psutil.Process(process.pid).memory_info().rss
    return figures


def _kept(folder: Path) -> bool:
    """Return whether the index was saved."""
    return any((folder / "indexes").glob("*.json"))


class _Process:
    """A gallery process on a folder, ready when entered."""

    def __init__(self, folder: Path) -> None:
        self._address = f"unix:{folder}/socket"
        self._environment = {**os.environ, "SHITU_GALLERY_ADDRESS": self._address, "SHITU_DATA_DIR": str(folder)}
        self._environment |= search_environment(1)
        self.start_s = 0.0

    async def __aenter__(self) -> _Process:
        begin_s = time.monotonic()
        self._process = subprocess.Popen([sys.executable, "-m", "shitu_server", "gallery"], env=self._environment)
        self.pid = self._process.pid
        self.client = GalleryClient(self._address)
        while True:
            try:
                await self.client.check()
                break
            except Exception:  # noqa: BLE001  # not ready yet
                if self._process.poll() is not None:
                    raise RuntimeError("the gallery process ended") from None
                await asyncio.sleep(0.05)
        self.start_s = time.monotonic() - begin_s
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        self._process.terminate()
        self._process.wait(60)


async def _recall(gallery: EmbeddedGallery, data: Data) -> dict[str, float]:
    found = await _found(gallery, data.queries, None)
    return _recalls(found, data.nearest)


def _recalls(found: list[list[int]], nearest: NDArray[np.int64]) -> dict[str, float]:
    wanted = nearest.tolist()
    first = sum(bool(hits) and hits[0] == row[0] for hits, row in zip(found, wanted, strict=True))
    among = sum(len(set(hits) & set(row)) for hits, row in zip(found, wanted, strict=True))
    return {"at_1": first / len(wanted), "at_10": among / sum(map(len, wanted))}


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
        _exactly_nearest(data.rows, queries, TOP_K)

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
        "batch_64": await _in_turns(batch, data.queries, BATCH),
        "batch_1": await _in_turns(single, data.queries, 1),
    }


Rival = Callable[[Vectors], Awaitable[int]]
"""Returns how many queries it answered."""


async def _in_turns(rivals: dict[str, Rival], queries: Vectors, batch: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for search in rivals.values():
        await search(queries[:batch])
    for pair in range(PAIRS):
        names = list(rivals) if pair % 2 else list(reversed(rivals))
        for name in names:
            rates[name].append(await _rate(rivals[name], queries, batch, pair))
    figures: dict[str, Any] = {name: _summary(values) for name, values in rates.items()}
    for name in rivals:
        if name in ("ours", "side_by_side", "callers"):
            ratios = [one / other for one, other in zip(rates[name], rates["faiss"], strict=True)]
            figures[f"{name}_by_faiss"] = _summary(ratios)
    return figures


async def _rate(search: Rival, queries: Vectors, batch: int, offset: int) -> float:
    count, begin_s = 0, time.perf_counter()
    place = offset * batch % (len(queries) - batch)
    while (elapsed_s := time.perf_counter() - begin_s) < SLICE_S or not count:
        count += await search(queries[place : place + batch])
        place = (place + batch) % (len(queries) - batch)
    return count / elapsed_s if elapsed_s else 0.0


def _summary(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "low": low, "high": high}


async def _filtered(gallery: EmbeddedGallery, data: Data, share: float) -> dict[str, float]:
    """Measure a search in a share of the items."""
    below = round(1000 * share)
    where = Range("permille", below=below)
    allowed = np.flatnonzero(np.arange(len(data.rows)) * 7919 % 1000 < below)
    nearest = allowed[_exactly_nearest(data.rows[allowed], data.queries, min(TOP_K, len(allowed)))]
    recalls = _recalls(await _found(gallery, data.queries, where), nearest)

    async def search(queries: Vectors) -> int:
        await gallery.search(NAME, queries, ENCODER, SearchOptions(TOP_K, where=where))
        return len(queries)

    rates = {
        batch: statistics.median([await _rate(search, data.queries, batch, i) for i in range(3)])
        for batch in (1, BATCH)
    }
    return {"share": share, **recalls, "batch_1": rates[1], "batch_64": rates[BATCH]}


if __name__ == "__main__":
    main()
