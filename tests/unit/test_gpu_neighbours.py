"""Rows on a GPU. Without one, FAISS' flat index of the CPU stands in its memory's place: it has the same methods."""

from __future__ import annotations

import threading

import faiss
import numpy as np
import pytest

from shitu_server.filters import Eq, FieldType, Range
from shitu_server.gallery import gpu_neighbours
from shitu_server.gallery.gpu_neighbours import MOST_REACH, gpu_count
from shitu_server.gallery.index import BuildCancelledError, Entry, GalleryIndex
from shitu_server.gallery.limits import IndexOptions
from shitu_server.types import GalleryOptions, IndexKind, Metric

DIMENSION = 32
FLAT = {Metric.INNER_PRODUCT: faiss.IndexFlatIP, Metric.L2: faiss.IndexFlatL2}


class Device:
    """Notes which threads search it, and fails when told to."""

    def __init__(self, metric: Metric) -> None:
        self.index = FLAT[metric](DIMENSION)
        self.searches = 0
        self.fails = False

    def add(self, rows: np.ndarray) -> None:
        self.index.add(rows)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if self.fails:
            raise RuntimeError("CUDA error 700")
        assert k <= MOST_REACH
        self.searches += 1
        return self.index.search(queries, k)


@pytest.fixture(params=[pytest.param("stand-in"), pytest.param("gpu", marks=pytest.mark.gpu)])
def devices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    made: list[Device] = []
    if request.param == "gpu":
        if not gpu_count():
            pytest.skip("FAISS finds no GPU here")
        return made

    def new(origin: gpu_neighbours.Origin) -> Device:
        made.append(Device(origin.metric))
        return made[-1]

    monkeypatch.setattr(gpu_neighbours, "device_index", new)
    return made


def rows(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def entries(begin: int, count: int) -> list[Entry]:
    return [Entry(i + 1, f"i{i}", f"label {i % 5}", f'{{"n":{i}}}') for i in range(begin, begin + count)]


def filled(metric: Metric, count: int = 3000) -> GalleryIndex:
    """Return an index whose rows are on the GPU."""
    options = GalleryOptions(metric, IndexKind.FLAT, {"n": FieldType.NUMBER})
    index = GalleryIndex(DIMENSION, options, IndexOptions(least_delta_rows=500, on_gpu=True))
    index.put(entries(0, count), rows(count))
    job = index.wish()
    assert job is not None
    assert index.status.building
    index.adopt(job.run())
    assert (index.status.kind, index.status.indexed_count) == (IndexKind.FLAT, count)
    return index


def ids_of(index: GalleryIndex, queries: np.ndarray, k: int, where=None, per_label: int = 0) -> list[list[str]]:
    found = index.snapshot().search(queries, k, where, per_label)
    return [[one.entry.item_id for one in row] for row in found]


def same_as_on_the_cpu(index: GalleryIndex, metric: Metric, living: dict[str, np.ndarray], where=None) -> None:
    options = GalleryOptions(metric, IndexKind.FLAT, {"n": FieldType.NUMBER})
    exact = GalleryIndex(DIMENSION, options)
    numbers = [int(item_id[1:]) for item_id in living]
    exact.put([entries(n, 1)[0] for n in numbers], np.stack(list(living.values())))
    queries = rows(20, 9)
    for k in (1, 10, 300):
        assert ids_of(index, queries, k, where) == ids_of(exact, queries, k, where)
    assert ids_of(index, queries, 3, where, 2) == ids_of(exact, queries, 3, where, 2)


@pytest.mark.parametrize("metric", Metric)
def test_found_is_what_the_cpu_finds(devices: list[Device], metric: Metric):
    index = filled(metric)
    living = {f"i{i}": row for i, row in enumerate(rows(3000))}
    same_as_on_the_cpu(index, metric, living)
    same_as_on_the_cpu(index, metric, living, Eq("label", "label 2"))
    same_as_on_the_cpu(index, metric, living, Range("n", below=3))
    if devices:
        assert devices[-1].searches > 0


def test_newer_rows_and_removed_ones_are_seen_at_once(devices: list[Device]):
    del devices
    index = filled(Metric.INNER_PRODUCT)
    living = {f"i{i}": row for i, row in enumerate(rows(3000))}
    index.put(entries(3000, 100), rows(100, 5))
    living |= {f"i{3000 + i}": row for i, row in enumerate(rows(100, 5))}
    gone = [f"i{i}" for i in range(0, 900, 3)]
    index.remove(gone)
    for item_id in gone:
        del living[item_id]
    assert index.status.indexed_count == 2700
    same_as_on_the_cpu(index, Metric.INNER_PRODUCT, living)


def test_more_rows_are_copied_anew(devices: list[Device]):
    index = filled(Metric.INNER_PRODUCT)
    index.put(entries(3000, 600), rows(600, 5))
    job = index.wish()
    assert job is not None
    index.adopt(job.run())
    assert index.status.indexed_count == 3600
    assert len(devices) in (0, 2)


def test_a_gpu_that_fails_is_left_for_the_cpu(devices: list[Device], caplog: pytest.LogCaptureFixture):
    if not devices and gpu_count():
        pytest.skip("a real GPU does not fail to order")
    index = filled(Metric.INNER_PRODUCT)
    before = ids_of(index, rows(5, 9), 10)
    devices[-1].fails = True
    for _ in range(3):
        assert ids_of(index, rows(5, 9), 10) == before
    assert caplog.text.count("the GPU fails") == 1


def test_a_copy_that_fails_is_not_tried_again_at_once(devices: list[Device], monkeypatch: pytest.MonkeyPatch):
    del devices

    def no_room(_: object) -> None:
        raise RuntimeError("out of memory")

    index = filled(Metric.INNER_PRODUCT)
    index.put(entries(3000, 600), rows(600, 5))
    job = index.wish()
    assert job is not None
    monkeypatch.setattr(gpu_neighbours, "device_index", no_room)
    with pytest.raises(RuntimeError, match="out of memory"):
        job.run()
    index.abandon()
    assert index.wish() is None
    index.put(entries(3600, 600), rows(600, 6))
    assert index.wish() is not None


def test_copying_can_be_cancelled(devices: list[Device]):
    del devices
    index = filled(Metric.INNER_PRODUCT)
    index.put(entries(3000, 600), rows(600, 5))
    job = index.wish()
    assert job is not None
    job.cancel()
    with pytest.raises(BuildCancelledError):
        job.run()


def test_two_threads_search_one_after_the_other(devices: list[Device]):
    index = filled(Metric.INNER_PRODUCT)
    inside, most = [0], [0]
    if devices:
        search = devices[-1].search

        def counted(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            found = search(queries, k)
            inside[0] -= 1
            return found

        devices[-1].search = counted  # type: ignore[method-assign]
    wanted = ids_of(index, rows(8, 9), 10)
    outcomes: list[list[list[str]]] = []
    threads = [threading.Thread(target=lambda: outcomes.append(ids_of(index, rows(8, 9), 10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [wanted] * 8
    assert most[0] <= 1
