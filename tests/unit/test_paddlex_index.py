"""PaddleX's index files: what is written reads back, what cannot be read is said; and PaddleX itself reads and writes the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from tests.peer.interpreter import peer_python, run_peer

from shitu_client.errors import InputError
from shitu_client.paddlex_index import LABELS_FILE, VECTORS_FILE, read_index, write_index

LABELS = ["cola", "Coca Cola", "可乐", "null", "42", "yes", ": - #", "a\tb", "x" * 300, *["other"] * 31]


@pytest.fixture
def vectors() -> np.ndarray:
    drawn = np.random.default_rng(3).normal(size=(40, 16)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("metric", ["IP", "L2"])
@pytest.mark.parametrize("kind", ["Flat", "HNSW32", "IVF"])
def test_round_trip(tmp_path, vectors, metric, kind):
    write_index(tmp_path / "index", LABELS, vectors, metric, kind)
    index = read_index(tmp_path / "index")
    assert index.ids == tuple(range(40))
    assert index.labels == tuple(LABELS)
    np.testing.assert_array_equal(index.vectors, vectors)
    assert (index.metric, index.index_type) == (metric, kind)
    assert {path.name for path in tmp_path.iterdir()} == {"index"}


def test_an_empty_folder_may_be_there_but_nothing_else(tmp_path, vectors):
    write_index(tmp_path, LABELS, vectors, "IP", "Flat")
    with pytest.raises(InputError, match="expected a folder that is empty or not there yet"):
        write_index(tmp_path, LABELS, vectors, "IP", "Flat")
    with pytest.raises(InputError, match="expected at least one item"):
        write_index(tmp_path / "a", [], np.empty((0, 16), np.float32), "IP", "Flat")
    with pytest.raises(InputError, match="expected at least 8 items for an IVF index, got 7"):
        write_index(tmp_path / "a", LABELS[:7], vectors[:7], "IP", "IVF")
    assert not (tmp_path / "a").exists()


def test_what_cannot_be_read_is_said(tmp_path, vectors):
    folder = tmp_path / "index"
    with pytest.raises(InputError, match=r"vector\.index is missing"):
        read_index(folder)
    write_index(folder, LABELS, vectors, "IP", "Flat")
    whole = (folder / LABELS_FILE).read_text()

    def refused(text: str, match: str) -> None:
        (folder / LABELS_FILE).write_text(text)
        with pytest.raises(InputError, match=match):
            read_index(folder)

    refused("just text", "expected a mapping with id_map, metric_type, index_type")
    refused("id_map: []\nmetric_type: IP\nindex_type: Flat", "expected a mapping with")
    refused("id_map: {a: b}\nmetric_type: IP\nindex_type: Flat", "expected whole numbers as keys")
    refused(whole.replace("metric_type: IP", "metric_type: hamming"), "binary codes cannot be turned back")
    refused(whole.replace("  0: cola\n", ""), "expected one label for each vector, got 39 in id_map.yaml and 40")
    refused(whole.replace("  0: cola\n", "  99: cola\n"), "expected one label for each vector")
    refused("id_map: {0: !!python/object/apply:os.system [echo]}", "expected YAML with plain values only")
    refused("{", "expected YAML")
    (folder / LABELS_FILE).write_text(whole)
    (folder / VECTORS_FILE).write_bytes((folder / VECTORS_FILE).read_bytes()[:200])
    with pytest.raises(InputError, match="expected an index of FAISS"):
        read_index(folder)
    (folder / LABELS_FILE).rename(folder / "id_map.pkl")
    with pytest.raises(InputError, match="it is a pickle, which could run any program"):
        read_index(folder)


def test_codes_of_bits_are_refused(tmp_path):
    faiss.write_index_binary(faiss.IndexBinaryFlat(16), str(tmp_path / VECTORS_FILE))
    (tmp_path / LABELS_FILE).write_text("id_map: {}\nmetric_type: hamming\nindex_type: Flat\n")
    with pytest.raises(InputError, match="expected the metric IP or L2, got hamming"):
        read_index(tmp_path)


def test_an_index_without_ids_of_its_own(tmp_path, vectors):
    write_index(tmp_path / "index", LABELS, vectors, "IP", "Flat")
    plain = faiss.IndexFlatIP(16)
    plain.add(vectors)
    faiss.write_index(plain, str(tmp_path / "index" / VECTORS_FILE))
    np.testing.assert_array_equal(read_index(tmp_path / "index").vectors, vectors)


def test_without_the_extra_it_is_named():
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from pathlib import Path; from shitu_client.paddlex_index import read_index\n"
        "read_index(Path('x'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "PaddleX's index files need faiss: pip install 'shitu[paddlex]'" in done.stderr


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["Flat", "HNSW32", "IVF"])
def test_paddlex_reads_what_we_write(tmp_path, vectors, kind):
    python = peer_python("paddlex", "faiss")
    write_index(tmp_path / "index", LABELS, vectors, "IP", kind)
    np.save(tmp_path / "queries.npy", vectors)
    run_peer(
        python,
        "paddlex_index.py",
        *("search", tmp_path / "index", tmp_path / "queries.npy", "0.5", "3", tmp_path / "out.json"),
    )
    found = json.loads((tmp_path / "out.json").read_text())
    assert [one["label"][0] for one in found] == LABELS
    np.testing.assert_allclose([one["score"][0] for one in found], 1, atol=1e-5)
    best = np.sort(vectors @ vectors.T, axis=1)[:, ::-1][:, :3]
    if kind == "Flat":
        np.testing.assert_allclose([one["score"] for one in found], best, atol=1e-5)


@pytest.mark.peer
@pytest.mark.parametrize("metric", ["IP", "L2"])
@pytest.mark.parametrize("kind", ["Flat", "HNSW32", "IVF"])
def test_we_read_what_paddlex_writes(tmp_path, vectors, metric, kind):
    index = read_index(built_by_paddlex(tmp_path, vectors, metric, kind))
    assert index.labels == tuple(LABELS)
    np.testing.assert_array_equal(index.vectors, vectors)
    assert (index.metric, index.index_type) == (metric, kind)


@pytest.mark.peer
def test_what_paddlex_removed_is_gone(tmp_path, vectors):
    folder = built_by_paddlex(tmp_path, vectors, "IP", "Flat")
    run_peer(peer_python("paddlex", "faiss"), "paddlex_index.py", "remove", folder, "0", "7")
    index = read_index(folder)
    kept = [n for n in range(40) if n not in (0, 7)]
    assert index.ids == tuple(kept)
    assert index.labels == tuple(LABELS[n] for n in kept)
    np.testing.assert_array_equal(index.vectors, vectors[kept])


@pytest.mark.peer
def test_an_index_that_removing_has_broken_is_refused(tmp_path, vectors):
    folder = built_by_paddlex(tmp_path, vectors, "IP", "IVF")
    run_peer(peer_python("paddlex", "faiss"), "paddlex_index.py", "remove", folder, "0", "7")
    with pytest.raises(InputError, match="build it anew in PaddleX"):
        read_index(folder)


def built_by_paddlex(tmp_path: Path, vectors: np.ndarray, metric: str, kind: str) -> Path:
    np.save(tmp_path / "vectors.npy", vectors)
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    python = peer_python("paddlex", "faiss")
    arguments = ("build", tmp_path / "index", tmp_path / "vectors.npy", tmp_path / "labels.json", metric, kind)
    run_peer(python, "paddlex_index.py", *arguments)
    return tmp_path / "index"
