from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from shitu_server.gallery.index import BuildCancelledError, Entry, GalleryIndex, Neighbours, prepare_faiss
from shitu_server.gallery.index_files import read_files, remove_files, write_files
from shitu_server.gallery.limits import IndexOptions
from shitu_server.gallery.neighbours import GONE, KINDS, ListNeighbours, Origin, scale_for
from shitu_server.types import GalleryOptions, IndexKind, IndexStatus, Metric

INDEXED = [IndexKind.HNSW, IndexKind.IVF]
TUNING = IndexOptions(least_delta_rows=32)
STAMP = {"sequence": 7, "of": "here"}
DIMENSION = 16


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    prepare_faiss(1)


def some_rows(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSION), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def entries(row_ids) -> list[Entry]:
    return [Entry(i, f"item {i}", "", "{}") for i in row_ids]


def empty_index(kind: IndexKind, metric: Metric = Metric.INNER_PRODUCT, **options: int) -> GalleryIndex:
    tuning = IndexOptions(**{"least_delta_rows": 32, **options})
    return GalleryIndex(DIMENSION, GalleryOptions(metric, kind), tuning, chunk_rows=150, prefer_indexed=True)


def built(index: GalleryIndex) -> Neighbours:
    job = index.wish()
    assert job is not None
    neighbours = job.run()
    index.adopt(neighbours)
    return neighbours


def saved(kind: IndexKind, rows: np.ndarray, folder: Path, metric: Metric = Metric.INNER_PRODUCT) -> Neighbours:
    index = empty_index(kind, metric)
    index.put(entries(range(len(rows))), rows)
    neighbours = built(index)
    neighbours.save(folder, "3", STAMP)
    return neighbours


def loaded(folder: Path) -> Neighbours:
    found = Neighbours.load(folder, "3")
    assert found is not None
    assert found[1] == STAMP
    return found[0]


def first_rows(index: GalleryIndex, queries: np.ndarray) -> list[int]:
    return [hits[0].entry.row_id for hits in index.snapshot().search(queries, 1)]


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("kind", INDEXED)
def test_what_is_loaded_finds_what_was_saved(kind: IndexKind, metric: Metric, tmp_path: Path):
    rows = some_rows(500) * (1 if metric is Metric.INNER_PRODUCT else 1e6)
    before = saved(kind, rows, tmp_path, metric)
    after = loaded(tmp_path)
    assert type(after) is type(before)
    assert after.kind is kind
    assert after.origin.row_ids.tolist() == list(range(500))
    assert (after.origin.scale, after.origin.widths) == (before.origin.scale, before.origin.widths)
    for one, other in zip(before.find(rows[:50], 5), after.find(rows[:50], 5), strict=True):
        assert one.tolist() == other.tolist()
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".faiss", ".json", ".rows"]


def test_saving_again_replaces(tmp_path: Path):
    saved(IndexKind.HNSW, some_rows(100), tmp_path)
    saved(IndexKind.IVF, some_rows(120), tmp_path)
    after = loaded(tmp_path)
    assert (after.kind, after.count) == (IndexKind.IVF, 120)
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_there_is_nothing_to_warn_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert Neighbours.load(tmp_path, "3") is None
    assert not caplog.records


@pytest.mark.parametrize("kind", INDEXED)
def test_damaged_files_are_not_used(kind: IndexKind, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Any byte that flipped, any end that is missing, any file that is gone."""
    saved(kind, some_rows(100), tmp_path)
    rng = np.random.default_rng(0)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for place in {0, len(content) - 2, *rng.integers(0, len(content), 20).tolist()}:
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(rng.integers(0, 8))
            assert_not_used(path, bytes(flipped), caplog)
        for length in (0, 1, len(content) // 2, len(content) - 3):
            assert_not_used(path, content[:length], caplog)
        path.unlink()
        assert Neighbours.load(tmp_path, "3") is None
        path.write_bytes(content)
        loaded(tmp_path)


def assert_not_used(path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    path.write_bytes(content)
    found = Neighbours.load(path.parent, "3")
    # White space of the manifest is no content.
    if found is not None:
        assert path.suffix == ".json"
        assert found[1] == STAMP
    else:
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "is built anew" in caplog.text


def test_another_format_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shitu_server.gallery.index_files.FORMAT_VERSION", 2)
    saved(IndexKind.IVF, some_rows(100), tmp_path)
    loaded(tmp_path)
    monkeypatch.undo()
    assert Neighbours.load(tmp_path, "3") is None


def test_whole_files_of_something_else_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The sums are right, but not what is in the files."""
    content = {"kind": "hnsw", "metric": "l2", "dimension": 4, "count": 1, "scale": 1.0, "trained_count": 1}
    writers = {"faiss": lambda path: path.write_bytes(b"no index"), "rows": lambda path: path.write_bytes(bytes(8))}
    write_files(tmp_path, "3", {**content, "widths": {}, "stamp": STAMP}, writers)
    assert Neighbours.load(tmp_path, "3") is None
    write_files(tmp_path, "3", {"stamp": STAMP}, writers)
    assert Neighbours.load(tmp_path, "3") is None
    assert len(caplog.records) == 2


def test_a_save_that_fails_leaves_what_was_there(tmp_path: Path):
    saved(IndexKind.HNSW, some_rows(100), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_files(tmp_path, "3", {}, {"rows": lambda path: path.write_bytes(b""), "faiss": fail})
    assert {path.name for path in tmp_path.iterdir()} == names
    loaded(tmp_path)


def test_files_of_a_save_that_was_broken_off_are_deleted_by_the_next(tmp_path: Path):
    (tmp_path / "3.0123456789ab.faiss").write_bytes(b"torn")
    (tmp_path / "3.0123456789ab.json.part").write_bytes(b"torn")
    (tmp_path / "33.0123456789ab.faiss").write_bytes(b"of another")
    saved(IndexKind.HNSW, some_rows(100), tmp_path)
    assert len(list(tmp_path.glob("3.*"))) == 3
    remove_files(tmp_path, "3")
    assert [path.name for path in tmp_path.iterdir()] == ["33.0123456789ab.faiss"]
    assert read_files(tmp_path, "3") is None


@pytest.mark.parametrize("kind", INDEXED)
def test_changed_and_removed_rows_are_not_covered(kind: IndexKind, tmp_path: Path):
    rows = some_rows(500)
    saved(kind, rows, tmp_path)
    rows = np.concatenate([rows, some_rows(40, seed=1)])
    rows[7], rows[300] = rows[8], rows[1]  # while it was away, by the writer or by one who replayed
    there = [i for i in range(540) if i not in (5, 6, 499)]
    index = empty_index(kind)
    for begin in range(0, len(there), 100):
        some = there[begin : begin + 100]
        index.put(entries(some), rows[some])
    index.attach(loaded(tmp_path), {7, 300, 6, 10**6})
    assert index.status == IndexStatus(kind, 495, building=False)
    assert first_rows(index, rows[there]) == [{8: 7, 300: 1}.get(i, i) for i in there]
    index.put(entries([9]), -rows[9:10])
    assert index.status.indexed_count == 494
    assert first_rows(index, -rows[9:10]) == [9]


@pytest.mark.parametrize("kind", INDEXED)
def test_rows_that_died_are_not_saved_as_living(kind: IndexKind, tmp_path: Path):
    """A replaced row keeps its id: what is saved must not name it twice."""
    rows, other = some_rows(300), some_rows(300, seed=1)
    index = empty_index(kind)
    index.put(entries(range(250)), rows[:250])
    built(index)
    index.put(entries(range(50)), other[:50])
    neighbours = built(index)
    assert neighbours.count == 300
    assert neighbours.origin.row_ids.tolist() == [*[GONE] * 50, *range(50, 250), *range(50)]
    neighbours.save(tmp_path, "3", STAMP)
    fresh = empty_index(kind)
    now = np.concatenate([other[:50], rows[50:250]])
    fresh.put(entries(range(250)), now)
    fresh.attach(loaded(tmp_path), ())
    assert fresh.status == IndexStatus(kind, 250, building=False)
    assert first_rows(fresh, now) == list(range(250))


@pytest.mark.parametrize("kind", INDEXED)
def test_what_was_attached_is_extended(kind: IndexKind, tmp_path: Path):
    rows = some_rows(400)
    saved(kind, rows[:300], tmp_path)
    index = empty_index(kind)
    index.put(entries(range(400)), rows)
    index.attach(loaded(tmp_path), {1, 2})
    assert built(index).count == 402
    assert index.status == IndexStatus(kind, 400, building=False)
    assert first_rows(index, rows) == list(range(400))


@pytest.mark.parametrize(
    ("kind", "metric", "dimension"),
    [
        (IndexKind.IVF, Metric.INNER_PRODUCT, DIMENSION),
        (IndexKind.HNSW, Metric.L2, DIMENSION),
        (IndexKind.HNSW, Metric.INNER_PRODUCT, 8),
        (IndexKind.FLAT, Metric.INNER_PRODUCT, DIMENSION),
        (IndexKind.AUTO, Metric.INNER_PRODUCT, DIMENSION),
    ],
)
def test_what_does_not_fit_is_passed_over(kind: IndexKind, metric: Metric, dimension: int, tmp_path: Path):
    saved(IndexKind.HNSW, some_rows(100), tmp_path)
    index = GalleryIndex(dimension, GalleryOptions(metric, kind), TUNING)
    index.put(entries(range(100)), some_rows(100)[:, :dimension])
    index.attach(loaded(tmp_path), ())
    assert index.status == IndexStatus(IndexKind.FLAT, 0, building=False)


def test_attaching_to_nothing_covers_nothing(tmp_path: Path):
    saved(IndexKind.HNSW, some_rows(100), tmp_path)
    index = empty_index(IndexKind.HNSW)
    index.attach(loaded(tmp_path), ())
    assert index.snapshot().search(some_rows(2), 3) == [[], []]
    assert index.wish() is None


@pytest.mark.parametrize("kind", INDEXED)
def test_a_build_can_be_cancelled(kind: IndexKind):
    index = empty_index(kind)
    index.put(entries(range(100)), some_rows(100))
    job = index.wish()
    assert job is not None
    job.cancel()
    with pytest.raises(BuildCancelledError):
        job.run()
    index.abandon()
    index.put(entries(range(100, 140)), some_rows(40, seed=1))
    assert built(index).count == 140


@pytest.mark.parametrize("kind", INDEXED)
@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_few_rows_will_do(kind: IndexKind, count: int):
    rows = some_rows(count)
    index = empty_index(kind, least_delta_rows=0)
    index.put(entries(range(count)), rows)
    assert built(index).count == count
    assert first_rows(index, rows) == list(range(count))


@pytest.mark.parametrize("kind", INDEXED)
def test_equal_rows_are_found_though_a_graph_cannot_tell_them_apart(kind: IndexKind):
    rows = np.repeat(some_rows(20), 30, axis=0)
    index = empty_index(kind)
    index.put(entries(range(600)), rows)
    built(index)
    for k in (1, 20, 100):
        found = index.snapshot().search(rows[::30], k)
        assert [len({f.entry.row_id for f in hits}) for hits in found] == [k] * 20
        if k < 30:
            assert all(f.entry.row_id // 30 == i for i, hits in enumerate(found) for f in hits)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("kind", INDEXED)
def test_vectors_of_any_length_fit_into_16_bits(kind: IndexKind, scale: float):
    rows = some_rows(300) * np.float32(scale)
    index = empty_index(kind, Metric.L2)
    index.put(entries(range(300)), rows)
    built(index)
    assert first_rows(index, rows * np.float32(1.01)) == list(range(300))


def test_a_few_huge_vectors_do_not_spoil_the_others():
    rows = some_rows(300)
    rows[:3] *= 1e7
    index = empty_index(IndexKind.HNSW, Metric.L2)
    index.put(entries(range(300)), rows)
    built(index)
    assert sum(a == b for a, b in zip(first_rows(index, rows), range(300), strict=True)) >= 297


def test_scales_are_powers_of_two():
    assert scale_for(np.zeros((3, 4), dtype=np.float32), Metric.L2) == 1
    assert scale_for(np.full((3, 4), 1000, dtype=np.float32), Metric.L2) == 2.0**-10
    assert scale_for(np.full((3, 4), 1000, dtype=np.float32), Metric.INNER_PRODUCT) == 1


@pytest.mark.parametrize("kind", INDEXED)
def test_widths_are_measured_on_the_rows(kind: IndexKind):
    """Rows in a few heaps need less than rows without any order."""
    spread = some_rows(3000)
    centers = some_rows(20, seed=1)
    heaps = centers[np.arange(3000) % 20] + some_rows(3000) * 0.05
    heaps /= np.linalg.norm(heaps, axis=1, keepdims=True)
    widths = []
    for rows in (heaps, spread):
        index = empty_index(kind)
        index.put(entries(range(3000)), rows.astype(np.float32))
        widths.append(built(index).origin.widths)
    assert widths[0].keys() == widths[1].keys()
    assert len(widths[0]) == 2
    for measured in widths:
        assert sorted(measured.values()) == list(measured.values())
    if kind is IndexKind.IVF:
        assert min(widths[0].values()) < min(widths[1].values())


def test_widths_between_and_beyond_those_measured():
    row_ids = np.arange(100_000)
    origin = Origin(Metric.INNER_PRODUCT, 4, row_ids, 1.0, 100, {10: 16, 100: 64, 1000: 640})
    graph = KINDS[IndexKind.HNSW](origin, None)
    assert [graph.width(reach) for reach in (1, 10, 100, 1000, 2000)] == [16, 16, 64, 640, 1280]
    assert 16 < graph.width(30) < 64
    assert graph.width(10**9) == graph.most_width == 100_000
    assert graph.cost_us(1000) > graph.cost_us(10)


def test_lists_are_fewer_where_rows_are_few():
    assert [ListNeighbours.list_count(count) for count in (1, 16, 1000, 10_000, 1_000_000)] == [1, 2, 63, 200, 2000]


def test_many_threads_may_search_at_once(tmp_path: Path):
    rows = some_rows(2000)
    neighbours = saved(IndexKind.HNSW, rows, tmp_path)
    wrong: list[int] = []

    def search() -> None:
        prepare_faiss(1)
        for reach in range(1, 60):
            _, positions = neighbours.find(rows[:100], reach)
            wrong.extend(np.flatnonzero(positions[:, 0] != np.arange(100)).tolist())

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_manifest_tells_what_it_is(tmp_path: Path):
    saved(IndexKind.IVF, some_rows(100), tmp_path)
    manifest = json.loads((tmp_path / "3.json").read_text())
    content = manifest["content"]
    assert {key: content[key] for key in ("kind", "metric", "dimension", "count", "trained_count", "stamp")} == {
        "kind": "ivf", "metric": "inner_product", "dimension": 16, "count": 100, "trained_count": 100, "stamp": STAMP,
    }  # fmt: skip
    assert set(manifest["files"]) == {"faiss", "rows"}
    assert manifest["files"]["rows"]["bytes"] == 800
