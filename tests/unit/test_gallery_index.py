from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from shitu_server.errors import ConfigurationError
from shitu_server.filters import Eq, FieldType, Not, Range
from shitu_server.gallery.index import (
    BuildJob,
    Entry,
    GalleryIndex,
    IndexSnapshot,
    Neighbours,
    check_faiss_packages,
    prepare_faiss,
)
from shitu_server.gallery.limits import IndexOptions
from shitu_server.gallery.rows import CHUNK_ROWS
from shitu_server.types import GalleryOptions, IndexKind, IndexStatus, Metric

INDEXED = [IndexKind.HNSW, IndexKind.IVF]
TUNING = IndexOptions(least_delta_rows=32)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """OpenMP threads that spin for one another take ten times as long."""
    prepare_faiss(1)


def unit_rows(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def entries(begin: int, end: int, label: Callable[[int], str] = "label {}".format) -> list[Entry]:
    return [Entry(i, str(i), label(i), "{}") for i in range(begin, end)]


def flat_index(dimension: int, metric: Metric = Metric.INNER_PRODUCT, **sizes: int) -> GalleryIndex:
    return GalleryIndex(dimension, GalleryOptions(metric, IndexKind.FLAT), **sizes)


def indexed(
    kind: IndexKind, rows: np.ndarray, metric: Metric = Metric.INNER_PRODUCT, tuning: IndexOptions = TUNING
) -> GalleryIndex:
    """Return an index whose graph or lists hold all rows, and are searched however few they are."""
    index = GalleryIndex(rows.shape[1], GalleryOptions(metric, kind), tuning, chunk_rows=500, prefer_indexed=True)
    index.put(entries(0, len(rows), lambda i: f"label {i % 10}"), rows)
    build(index)
    assert index.status == IndexStatus(kind, len(rows), building=False)
    return index


def build(index: GalleryIndex) -> None:
    job = index.wish()
    assert job is not None
    index.adopt(job.run())


def found_rows(snapshot: IndexSnapshot, queries: np.ndarray, k: int, *arguments) -> list[list[int]]:
    return [[f.entry.row_id for f in hits] for hits in snapshot.search(queries, k, *arguments)]


def nearest_rows(rows: np.ndarray, queries: np.ndarray, k: int) -> list[list[int]]:
    distances = np.square(queries[:, np.newaxis].astype(np.float64) - rows).sum(axis=2)
    return np.argsort(distances, axis=1, kind="stable")[:, :k].tolist()


def recall(found: list[list[int]], wanted: list[list[int]]) -> float:
    assert all(len(f) == len(w) == len(set(f)) for f, w in zip(found, wanted, strict=True))
    return sum(len(set(f) & set(w)) for f, w in zip(found, wanted, strict=True)) / sum(map(len, wanted))


def test_search_goes_over_all_chunks():
    count = 2 * CHUNK_ROWS + 100
    rows = unit_rows(count, 8)
    index = flat_index(8)
    for begin in range(0, count, 1000):
        end = min(count, begin + 1000)
        index.put(entries(begin, end), rows[begin:end])
    queries = unit_rows(20, 8, seed=1)
    wanted = np.argsort(-(queries.astype(np.float64) @ rows.T.astype(np.float64)), axis=1)[:, :10]
    assert found_rows(index.snapshot(), queries, 10) == wanted.tolist()


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("kind", [IndexKind.FLAT, *INDEXED])
def test_scores_do_not_depend_on_the_batch(kind: IndexKind, metric: Metric):
    rows = unit_rows(3000, 64)
    index = flat_index(64, metric) if kind is IndexKind.FLAT else indexed(kind, rows, metric)
    index.put(entries(0, 3000), rows)
    queries = unit_rows(64, 64, seed=1)
    prepare_faiss(1)
    snapshot = index.snapshot()
    together = snapshot.search(queries, 20)
    assert together == [snapshot.search(query[np.newaxis], 20)[0] for query in queries]


@pytest.mark.parametrize("metric", Metric)
def test_many_equal_rows_are_ordered_by_age(metric: Metric):
    row = unit_rows(1, 16)
    index = flat_index(16, metric, chunk_rows=300)
    index.put(entries(0, 1000)[::-1], np.repeat(row, 1000, axis=0))
    assert found_rows(index.snapshot(), row, 50) == [list(range(50))]


def test_equal_rows_are_ordered_by_age_where_few_are_allowed():
    row = unit_rows(1, 16)
    index = flat_index(16)
    index.put(entries(0, 1000, lambda i: f"label {i % 3}")[::-1], np.repeat(row, 1000, axis=0))
    assert found_rows(index.snapshot(), row, 5, Eq("label", "label 1")) == [[1, 4, 7, 10, 13]]


@pytest.mark.parametrize("kind", [IndexKind.FLAT, *INDEXED])
def test_a_perfect_match_of_l2_has_the_score_1(kind: IndexKind):
    rows = unit_rows(400, 16) * np.linspace(0.1, 3000, 400, dtype=np.float32)[:, np.newaxis]
    index = flat_index(16, Metric.L2) if kind is IndexKind.FLAT else indexed(kind, rows, Metric.L2)
    index.put(entries(0, 400), rows)
    found = index.snapshot().search(rows, 1)
    assert [(hits[0].entry.row_id, hits[0].score) for hits in found] == [(i, 1.0) for i in range(400)]


def test_scores_of_l2_are_those_of_the_inner_product_for_unit_vectors():
    rows, queries = unit_rows(300, 32), unit_rows(10, 32, seed=1)
    scores = []
    for metric in Metric:
        index = flat_index(32, metric)
        index.put(entries(0, 300), rows)
        scores.append([[f.score for f in hits] for hits in index.snapshot().search(queries, 300)])
    np.testing.assert_allclose(scores[0], scores[1], atol=2e-6)


def test_replacing_a_row_again_and_again_does_not_grow_the_index():
    rows = unit_rows(100, 4)
    index = flat_index(4, chunk_rows=64, least_dead=8)
    index.put(entries(0, 100), rows)
    for _ in range(300):
        index.put(entries(5, 10), rows[5:10])
    assert sum(len(view.vectors) for view in index.snapshot()._rows.views if view is not None) < 200
    assert found_rows(index.snapshot(), rows, 1) == [[i] for i in range(100)]


def test_search_looks_past_dead_rows():
    query = unit_rows(1, 8)
    near = query + np.linspace(0.01, 0.5, 60, dtype=np.float32)[:, np.newaxis] * unit_rows(1, 8, seed=1)
    index = flat_index(8)
    index.put(entries(0, 60), near / np.linalg.norm(near, axis=1, keepdims=True))
    index.remove([str(i) for i in range(50)])
    view = index.snapshot()._rows.views[0]
    assert view is not None
    assert view.alive_count == 10
    assert found_rows(index.snapshot(), query, 5) == [list(range(50, 55))]


def test_empty_index_finds_nothing():
    index = flat_index(4)
    assert index.snapshot().search(unit_rows(2, 4), 3) == [[], []]
    index.put([], np.empty((0, 4), dtype=np.float32))
    index.put(entries(0, 2), unit_rows(2, 4))
    index.remove(["0", "1", "unknown"])
    assert index.snapshot().count == 0
    assert index.snapshot().search(unit_rows(2, 4), 3) == [[], []]
    assert index.snapshot().search(unit_rows(0, 4), 3) == []


@pytest.mark.parametrize("kind", INDEXED)
@pytest.mark.parametrize("metric", Metric)
def test_graph_and_lists_find_the_nearest(kind: IndexKind, metric: Metric):
    rows, queries = unit_rows(4000, 24), unit_rows(100, 24, seed=1)
    snapshot = indexed(kind, rows, metric).snapshot()
    assert recall(found_rows(snapshot, queries, 10), nearest_rows(rows, queries, 10)) > 0.99


@pytest.mark.parametrize("kind", INDEXED)
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_few_allowed_rows_are_found_too(kind: IndexKind, share: float):
    rows, queries = unit_rows(4000, 24), unit_rows(50, 24, seed=1)
    index = GalleryIndex(
        24, GalleryOptions(Metric.INNER_PRODUCT, kind, {"n": FieldType.NUMBER}), TUNING, prefer_indexed=True
    )
    index.put([Entry(i, str(i), "", f'{{"n":{i}}}') for i in range(4000)], rows)
    build(index)
    allowed = round(4000 * share)
    found = found_rows(index.snapshot(), queries, 10, Range("n", below=allowed))
    assert recall(found, nearest_rows(rows[:allowed], queries, 10)) > 0.99


@pytest.mark.parametrize("kind", INDEXED)
def test_rows_that_are_far_away_are_found_where_only_they_are_allowed(kind: IndexKind):
    """None of what the graph walks by is allowed."""
    near, far = unit_rows(3000, 24), unit_rows(1000, 24, seed=1)
    near[:, 0], far[:, 0] = 3, -3
    rows = np.concatenate([near, far])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = indexed(kind, rows)
    index.relabel([Entry(i, str(i), "far", "{}") for i in range(3000, 4000)])
    found = index.snapshot().search(rows[:20], 10, Eq("label", "far"))
    assert (
        recall([[f.entry.row_id - 3000 for f in hits] for hits in found], nearest_rows(rows[3000:], rows[:20], 10))
        > 0.99
    )


@pytest.mark.parametrize("kind", INDEXED)
@pytest.mark.parametrize("k", [300, 999, 1000])
def test_more_may_be_asked_for_than_a_graph_walks_by(kind: IndexKind, k: int):
    rows = unit_rows(1000, 8)
    found = found_rows(indexed(kind, rows).snapshot(), rows[:3], k)
    assert recall(found, nearest_rows(rows, rows[:3], k)) > 0.99


@pytest.mark.parametrize("kind", INDEXED)
def test_new_replaced_and_removed_rows_are_seen_at_once(kind: IndexKind):
    rows = unit_rows(1000, 16)
    index = indexed(kind, rows)
    before = index.snapshot()
    moved = unit_rows(10, 16, seed=1)
    index.put(entries(0, 10), moved)  # replaced
    index.put(entries(1000, 1010), unit_rows(10, 16, seed=2))  # new
    index.remove([str(i) for i in range(10, 20)])
    after = index.snapshot()
    assert index.status == IndexStatus(kind, 980, building=False)
    assert found_rows(after, moved, 1) == [[i] for i in range(10)]
    assert found_rows(after, unit_rows(10, 16, seed=2), 1) == [[i] for i in range(1000, 1010)]
    assert all(row >= 20 for hits in found_rows(after, rows[10:20], 50) for row in hits if row < 1000 and row >= 10)
    assert found_rows(before, rows[:20], 1) == [[i] for i in range(20)]
    assert (after.count, before.count) == (1000, 1000)


@pytest.mark.parametrize("kind", INDEXED)
def test_labels_change_without_leaving_the_graph(kind: IndexKind):
    rows = unit_rows(1000, 16)
    index = indexed(kind, rows)
    before = index.snapshot()
    index.relabel([Entry(7, "7", "changed", '{"a":1}'), Entry(-1, "unknown", "", "{}")])
    assert index.status == IndexStatus(kind, 1000, building=False)
    assert index.wish() is None
    (found,) = index.snapshot().search(rows[7:8], 1)[0]
    assert found.entry == Entry(7, "7", "changed", '{"a":1}')
    assert index.snapshot().search(rows[:1], 5, Eq("label", "changed"))[0][0].entry == found.entry
    assert before.search(rows[7:8], 1)[0][0].entry.label == "label 7"
    assert before.search(rows[:1], 5, Eq("label", "changed")) == [[]]


@pytest.mark.parametrize("kind", INDEXED)
def test_few_new_rows_are_taken_into_what_is_there(kind: IndexKind):
    rows = unit_rows(1100, 16)
    index = indexed(kind, rows[:1000])
    index.put(entries(1000, 1050), rows[1000:1050])
    assert index.wish() is None, "5 % of those inside"
    index.put(entries(1050, 1100), rows[1050:])
    index.remove([str(i) for i in range(50)])
    job = index.wish()
    assert isinstance(job, BuildJob)
    assert index.wish() is None, "one at a time"
    index.remove(["50"])  # meanwhile
    index.put(entries(51, 52), -rows[51:52])
    built = job.run()
    index.adopt(built)
    assert built.count == 1100
    assert index.status == IndexStatus(kind, 1048, building=False)
    found = found_rows(index.snapshot(), rows[51:], 1)
    assert found[1:] == [[i] for i in range(52, 1100)]
    assert found[0] != [51]
    assert found_rows(index.snapshot(), -rows[51:52], 1) == [[51]]


@pytest.mark.parametrize("kind", INDEXED)
def test_many_dead_rows_are_a_reason_to_build_anew(kind: IndexKind):
    index = indexed(kind, unit_rows(1000, 16))
    index.remove([str(i) for i in range(200)])
    assert index.wish() is None
    index.remove([str(i) for i in range(200, 250)])
    job = index.wish()
    assert job is not None
    built = job.run()
    index.adopt(built)
    assert built.count == 750
    assert index.status == IndexStatus(kind, 750, building=False)


def test_lists_are_made_anew_for_twice_as_many_rows():
    rows = unit_rows(2000, 16)
    index = indexed(IndexKind.IVF, rows[:900])
    for end in (1700, 1900):
        index.put(entries(900, end), rows[900:end])
        job = index.wish()
        assert job is not None
        built = job.run()
        index.adopt(built)
        assert built.origin.trained_count == (900 if end == 1700 else 1900)


@pytest.mark.parametrize("kind", INDEXED)
def test_nothing_is_left_where_all_rows_died(kind: IndexKind):
    rows = unit_rows(100, 16)
    index = indexed(kind, rows)
    index.remove([str(i) for i in range(100)])
    assert index.snapshot().search(rows[:2], 3) == [[], []]
    assert index.wish() is None
    assert index.status == IndexStatus(IndexKind.FLAT, 0, building=False)
    index.put(entries(0, 100), rows)
    build(index)
    assert index.status == IndexStatus(kind, 100, building=False)


def test_a_job_that_failed_is_wished_for_again_once_there_is_more():
    rows = unit_rows(140, 8)
    index = GalleryIndex(8, GalleryOptions(index_kind=IndexKind.HNSW), TUNING)
    index.put(entries(0, 100), rows[:100])
    assert index.wish() is not None
    assert index.status == IndexStatus(IndexKind.FLAT, 0, building=True)
    index.abandon()
    assert not index.status.building
    index.put(entries(100, 132), rows[100:132])
    assert index.wish() is None
    index.put(entries(132, 140), rows[132:])
    build(index)
    assert index.status == IndexStatus(IndexKind.HNSW, 140, building=False)
    index.remove([str(i) for i in range(40)])
    assert index.wish() is not None, "it worked since"


def test_auto_is_flat_while_there_are_few():
    index = GalleryIndex(8, GalleryOptions(), IndexOptions(flat_rows=100, least_delta_rows=10))
    index.put(entries(0, 99), unit_rows(99, 8))
    assert index.wish() is None
    index.put(entries(99, 100), unit_rows(1, 8, seed=1))
    build(index)
    assert index.status == IndexStatus(IndexKind.IVF, 100, building=False)
    index.remove([str(i) for i in range(45)])
    job = index.wish()
    assert job is not None, "worn"
    index.adopt(job.run())
    assert index.status == IndexStatus(IndexKind.IVF, 55, building=False)
    index.remove([str(i) for i in range(45, 51)])
    assert index.wish() is None
    assert index.status == IndexStatus(IndexKind.FLAT, 0, building=False)


def test_rows_that_move_while_a_graph_is_built_are_still_found():
    """A chunk number may be used again meanwhile: what stands there then is another row."""
    rows = unit_rows(300, 8)
    options = GalleryOptions(index_kind=IndexKind.HNSW)
    index = GalleryIndex(8, options, TUNING, chunk_rows=50, least_dead=4, prefer_indexed=True)
    index.put(entries(0, 300), rows)
    job = index.wish()
    assert job is not None
    index.put(entries(0, 60), -rows[:60])  # chunk 0 is worn, its number used again
    index.adopt(job.run())
    assert found_rows(index.snapshot(), -rows[:60], 1) == [[i] for i in range(60)]
    assert found_rows(index.snapshot(), rows[60:], 1) == [[i] for i in range(60, 300)]


@pytest.mark.parametrize("kind", [IndexKind.FLAT, *INDEXED])
@pytest.mark.parametrize("where", [None, Not(Eq("label", "big"))])
def test_labels_are_found_by_their_nearest_rows(kind: IndexKind, where):
    """One label holds most of the rows, so the first labels are far down the list, and its own rows are searched apart."""
    rows, queries = unit_rows(3000, 8), unit_rows(30, 8, seed=1)
    labels = ["big" if i % 20 else f"small {i % 3}" for i in range(3000)]
    index = GalleryIndex(8, GalleryOptions(index_kind=kind), TUNING, chunk_rows=700, prefer_indexed=True)
    index.put(entries(0, 3000, labels.__getitem__), rows)
    if kind is not IndexKind.FLAT:
        build(index)
    for k, per_label in ((1, 1), (2, 3), (4, 40)):
        found = found_rows(index.snapshot(), queries, k, where, per_label)
        wanted = []
        for ranked in nearest_rows(rows, queries, 3000):
            allowed = [row for row in ranked if where is None or labels[row] != "big"]
            best = list(dict.fromkeys(labels[row] for row in allowed))[:k]
            of_label = {label: [row for row in allowed if labels[row] == label][:per_label] for label in best}
            wanted.append([row for row in allowed if labels[row] in of_label and row in of_label[labels[row]]])
        assert found == wanted


def test_labels_are_found_though_each_row_has_its_own():
    rows = unit_rows(2000, 8)
    index = flat_index(8)
    index.put(entries(0, 2000), rows)
    assert found_rows(index.snapshot(), rows[:5], 7, None, 2) == nearest_rows(rows, rows[:5], 7)


def test_of_labels_that_are_as_near_the_older_are_found():
    """They lie behind more rows of one label than are looked at one after the other, so all rows are compared."""
    query = unit_rows(1, 8)
    near = query + 0.1 * unit_rows(5000, 8, seed=1)
    rows = np.concatenate([near / np.linalg.norm(near, axis=1, keepdims=True), np.repeat(-query, 6, axis=0)])
    index = flat_index(8, chunk_rows=1000)
    index.put(entries(0, 5006, lambda i: "big" if i < 5000 else f"label {i}")[::-1], rows[::-1])
    found = index.snapshot().search(query, 3, None, 1)[0]
    assert [f.entry.row_id for f in found[1:]] == [5000, 5001]
    assert found[0].entry.label == "big"


def test_texts_that_no_row_has_any_more_are_forgotten():
    """In chunks that changed and in those that did not."""
    rows = unit_rows(20, 4)
    index = flat_index(4, chunk_rows=8)
    index.put(entries(0, 20, "first {}".format), rows)
    index.relabel(entries(0, 20))  # so that all have other numbers later
    first = index.snapshot()
    for turn in range(450):
        index.relabel(entries(8, 20, lambda i, turn=turn: f"{turn} of {i}"))
        assert len(index.snapshot().search(rows[:1], 20, None, 1)[0]) == 20
    assert len(index._schema.labels) < 4200
    assert found_rows(index.snapshot(), rows[:1], 9, Eq("label", "449 of 13")) == [[13]]
    assert found_rows(index.snapshot(), rows[:1], 9, Eq("label", "448 of 13")) == [[]]
    assert found_rows(index.snapshot(), rows[:1], 9, Eq("label", "label 3")) == [[3]]
    assert found_rows(first, rows[:1], 9, Eq("label", "label 13")) == [[13]]


class Worker:
    """Builds what an index wishes for, in a thread."""

    def __init__(self, index: GalleryIndex) -> None:
        self._index = index
        self._job: BuildJob | None = None
        self._thread = threading.Thread()
        self._results: list[Neighbours] = []
        self.build_count = 0

    def step(self) -> None:
        if self._job is None:
            self._job = self._index.wish()
            if self._job is not None:
                job = self._job
                self._thread = threading.Thread(target=lambda: self._results.append(job.run()))
                self._thread.start()
        elif not self._thread.is_alive():
            self._index.adopt(self._results.pop())
            self._job = None
            self.build_count += 1

    def finish(self) -> None:
        while self._job is not None:
            self._thread.join()
            self.step()


@pytest.mark.parametrize("kind", [IndexKind.FLAT, *INDEXED])
def test_rows_may_change_and_builds_end_while_others_search(kind: IndexKind):
    """FAISS' own indexes segfault where one adds to them."""
    rows = unit_rows(8000, 32)
    options = GalleryOptions(Metric.INNER_PRODUCT, kind, {"n": FieldType.NUMBER})
    index = GalleryIndex(32, options, IndexOptions(least_delta_rows=500), chunk_rows=2048, prefer_indexed=True)
    shared = [(index.snapshot(), 0)]
    writing = threading.Event()
    writing.set()
    failures: list[str] = []

    def read(number: int) -> None:
        prepare_faiss(1)
        rng = np.random.default_rng(number)
        while writing.is_set():
            snapshot, count = shared[0]
            if count:
                wanted = np.append(rng.integers(3, count, 4), count - 1).tolist()
                where = None if number else Range("n", at_least=3)
                found = [hits[0] for hits in found_rows(snapshot, rows[wanted], 3, where, number % 2)]
                if found != wanted:
                    failures.append(f"{wanted} of {count} not found, but {found}")

    readers = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for reader in readers:
        reader.start()
    worker = Worker(index)
    for begin in range(0, len(rows), 50):
        end = begin + 50
        index.put([Entry(i, str(i), str(i // 3), f'{{"n":{i}}}') for i in range(begin, end)], rows[begin:end])
        index.put([Entry(i, str(i), "first", f'{{"n":{i}}}') for i in range(3)], -rows[:3])
        index.relabel([Entry(end - 1, str(end - 1), "last", f'{{"n":{end}}}')])
        worker.step()
        shared[0] = index.snapshot(), end
    worker.finish()
    writing.clear()
    for reader in readers:
        reader.join()
    assert not failures
    assert index.status.kind is kind
    assert worker.build_count > 0 or kind is IndexKind.FLAT
    assert found_rows(index.snapshot(), rows[3:500], 1) == [[i] for i in range(3, 500)]


def test_two_faiss_packages_are_refused(tmp_path, monkeypatch):
    check_faiss_packages()
    for name in ("faiss-a", "faiss-b"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "top_level.txt").write_text("faiss\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError, match="faiss-a, faiss-b"):
        check_faiss_packages()
