from __future__ import annotations

import threading

import numpy as np
import pytest

from shitu_server.errors import ConfigurationError
from shitu_server.gallery.index import CHUNK_ROWS, Entry, ExactIndex, check_faiss_packages, prepare_faiss


def unit_rows(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def entries(begin: int, end: int) -> list[Entry]:
    return [Entry(i, str(i), f"label {i}", "{}") for i in range(begin, end)]


def test_search_goes_over_all_chunks():
    count = 2 * CHUNK_ROWS + 100
    rows = unit_rows(count, 8)
    index = ExactIndex(8)
    for begin in range(0, count, 1000):
        end = min(count, begin + 1000)
        index.put(entries(begin, end), rows[begin:end])
    queries = unit_rows(20, 8, seed=1)
    found = index.snapshot().search(queries, 10)
    wanted = np.argsort(-(queries.astype(np.float64) @ rows.T.astype(np.float64)), axis=1)[:, :10]
    assert [[f.entry.row_id for f in hits] for hits in found] == wanted.tolist()


def test_scores_do_not_depend_on_the_batch():
    rows = unit_rows(3000, 64)
    index = ExactIndex(64)
    index.put(entries(0, 3000), rows)
    queries = unit_rows(64, 64, seed=1)
    prepare_faiss(1)
    snapshot = index.snapshot()
    together = snapshot.search(queries, 20)
    assert together == [snapshot.search(query[np.newaxis], 20)[0] for query in queries]


def test_many_equal_rows_are_ordered_by_age():
    row = unit_rows(1, 16)
    index = ExactIndex(16, chunk_rows=300)
    index.put(entries(0, 1000)[::-1], np.repeat(row, 1000, axis=0))
    assert [f.entry.row_id for f in index.snapshot().search(row, 50)[0]] == list(range(50))


def test_replacing_a_row_again_and_again_does_not_grow_the_index():
    rows = unit_rows(100, 4)
    index = ExactIndex(4, chunk_rows=64, least_dead=8)
    index.put(entries(0, 100), rows)
    for _ in range(300):
        index.put(entries(5, 10), rows[5:10])
    assert sum(len(chunk.vectors) for chunk in index.snapshot()._chunks) < 200
    assert [f[0].entry.row_id for f in index.snapshot().search(rows, 1)] == list(range(100))


def test_search_looks_past_dead_rows():
    query = unit_rows(1, 8)
    near = query + np.linspace(0.01, 0.5, 60, dtype=np.float32)[:, np.newaxis] * unit_rows(1, 8, seed=1)
    index = ExactIndex(8)
    index.put(entries(0, 60), near / np.linalg.norm(near, axis=1, keepdims=True))
    index.remove([str(i) for i in range(50)])
    assert index.snapshot()._chunks[0].dead_count == 50
    assert [f.entry.row_id for f in index.snapshot().search(query, 5)[0]] == list(range(50, 55))


def test_empty_index_finds_nothing():
    index = ExactIndex(4)
    assert index.snapshot().search(unit_rows(2, 4), 3) == [[], []]
    index.put(entries(0, 2), unit_rows(2, 4))
    index.remove(["0", "1", "unknown"])
    assert index.snapshot().search(unit_rows(2, 4), 3) == [[], []]


def test_rows_may_be_added_while_others_search():
    """FAISS' own indexes segfault here."""
    rows = unit_rows(20_000, 32)
    index = ExactIndex(32, chunk_rows=4096)
    shared = [index.snapshot()]
    writing = threading.Event()
    writing.set()
    failures: list[str] = []

    def read() -> None:
        prepare_faiss(1)
        while writing.is_set():
            snapshot = shared[0]
            if snapshot.count:
                newest = snapshot.count - 1
                hit = snapshot.search(rows[newest : newest + 1], 1)[0][0]
                if hit.entry.row_id != newest:
                    failures.append(f"row {newest} of {snapshot.count} not found, but {hit}")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for begin in range(0, 20_000, 50):
        index.put(entries(begin, begin + 50), rows[begin : begin + 50])
        if begin:
            index.put(entries(0, 3), rows[:3])
        shared[0] = index.snapshot()
    writing.clear()
    for reader in readers:
        reader.join()
    assert not failures


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
