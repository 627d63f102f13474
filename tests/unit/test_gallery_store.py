from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from shitu_server.errors import ConfigurationError, StorageError
from shitu_server.gallery.checks import CheckedItem
from shitu_server.gallery.directory import DataDirectory
from shitu_server.gallery.ledger import Ledger
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.reader import StoreReader
from shitu_server.gallery.store import FILE_NAME, PAGE_SIZE_BYTES, GalleryRow, GalleryStore


@pytest.fixture
def store(tmp_path: Path):
    opened = GalleryStore(tmp_path)
    yield opened
    opened.close()


def make_gallery(store: GalleryStore, name: str = "g", dimension: int = 4) -> GalleryRow:
    with store.transaction():
        return store.insert_gallery(name, "encoder", dimension, 1.0)


def put(store: GalleryStore, gallery: GalleryRow, ids: list[str], thumbnail: bytes = b"") -> list[int]:
    vector = np.eye(1, gallery.dimension, dtype=np.float32)[0]
    with store.transaction():
        items = [CheckedItem(item_id, "label", vector, "{}", thumbnail) for item_id in ids]
        upserted = store.upsert(gallery.generation, items, 2.0)
        store.advance(gallery.generation, sum(not item.replaced for item in upserted))
    return [item.row_id for item in upserted]


def loaded_ids(store: GalleryStore, name: str = "g") -> list[str]:
    gallery = store.find(name)
    assert gallery is not None
    return [item_id for rows in store.vectors(gallery) for item_id in rows.item_ids]


def test_database_is_durable_and_has_large_pages(store: GalleryStore):
    settings = {
        name: store._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
    }
    assert settings == {"journal_mode": "wal", "synchronous": 2}
    assert store._connection.execute("PRAGMA page_size").fetchone()[0] == 16384


def test_row_ids_are_never_used_again(store: GalleryStore):
    gallery = make_gallery(store)
    first = put(store, gallery, ["a", "b"])
    with store.transaction():
        store.remove(gallery.generation, ["a", "b"])
        store.advance(gallery.generation, -2)
    assert min(put(store, gallery, ["a", "c"])) > max(first)
    assert put(store, gallery, ["a"]) == put(store, gallery, ["a"])  # but a replaced item keeps its own


def test_exception_rolls_back(store: GalleryStore):
    gallery = make_gallery(store)
    with contextlib.suppress(ZeroDivisionError), store.transaction():
        store.upsert(gallery.generation, [CheckedItem("a", "l", np.ones(4, np.float32) / 2, "{}", b"")], 1.0)
        raise ZeroDivisionError
    assert loaded_ids(store) == []


def test_full_disk_is_a_storage_error_and_nothing_is_half_written(store: GalleryStore):
    gallery = make_gallery(store)
    put(store, gallery, ["a"])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(StorageError, match="full"):
        put(store, gallery, [f"b{i}" for i in range(100)], b"x" * 16384)
    assert loaded_ids(store) == ["a"]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 4000}")
    put(store, gallery, ["c"])
    assert loaded_ids(store) == ["a", "c"]


def test_deleted_galleries_are_purged_bit_by_bit(store: GalleryStore):
    gallery = make_gallery(store)
    put(store, gallery, [f"i{i}" for i in range(25)], b"jpeg")
    with store.transaction():
        store.hide_gallery(gallery.generation)
    other = make_gallery(store)
    assert other.generation > gallery.generation
    put(store, other, ["i1"])
    steps = 0
    more = True
    while more:
        with store.transaction():
            more = store.purge(10)
        steps += 1
    assert steps == 4  # 10, 10, 5 and none
    assert store._connection.execute("SELECT (SELECT COUNT(*) FROM items), COUNT(*) FROM thumbnails").fetchone() == (
        1,
        0,
    )
    assert [row.generation for row in store.galleries()] == [other.generation]


def test_reader_sees_what_is_committed(store: GalleryStore):
    gallery = make_gallery(store)
    reader = StoreReader(store.path)
    put(store, gallery, ["a"], b"jpeg")
    item = reader.item(gallery.generation, "a")
    assert item is not None
    assert item.thumbnail == b"jpeg"
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM items")
    reader.close()


@pytest.mark.parametrize(
    ("vector", "problem"),
    [
        (b"\0" * 12, "12 bytes, expected 16"),
        (b"\0" * 16, "squared length 0.0"),
        (np.array([np.nan, 0, 0, 0], "<f4").tobytes(), "squared length nan"),
        (np.array([2, 0, 0, 0], "<f4").tobytes(), "squared length 4.0"),
    ],
)
def test_broken_vector_is_named(store: GalleryStore, vector: bytes, problem: str):
    gallery = make_gallery(store)
    put(store, gallery, ["a", "b", "c"])
    store._connection.execute("UPDATE items SET vector = ? WHERE item_id = 'b'", (vector,))
    with pytest.raises(ConfigurationError, match=f'item "b" in gallery "g" is broken .{problem}'):
        loaded_ids(store)


def test_row_whose_vector_became_nothing(store: GalleryStore):
    gallery = make_gallery(store)
    put(store, gallery, ["a", "b"])
    for statement in (
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = replace(sql, 'vector BLOB NOT NULL', 'vector BLOB')",
    ):
        store._connection.execute(statement)
    store.close()
    damaged = GalleryStore(store.path.parent)
    damaged._connection.execute("UPDATE items SET vector = NULL WHERE item_id = 'b'")
    with pytest.raises(ConfigurationError, match='item "b" in gallery "g" is broken'):
        loaded_ids(damaged)
    damaged.close()


def test_metadata_that_is_no_json_is_told(store: GalleryStore):
    gallery = make_gallery(store)
    put(store, gallery, ["a"])
    store._connection.execute("UPDATE items SET metadata = '{'")
    reader = StoreReader(store.path)
    for read in (lambda: reader.item(gallery.generation, "a"), lambda: reader.page(gallery.generation, 0, 10, "")):
        with pytest.raises(StorageError, match='metadata of item "a" is broken'):
            read()
    reader.close()


def test_missing_rows_are_noticed(store: GalleryStore):
    put(store, make_gallery(store), ["a", "b", "c"])
    store._connection.execute("DELETE FROM items WHERE item_id = 'b'")
    with pytest.raises(ConfigurationError, match="should hold 3 items, 2 are there"):
        loaded_ids(store)


def test_database_of_a_later_version_is_refused(tmp_path: Path):
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(ConfigurationError, match="format 2, this program knows 1"):
        GalleryStore(tmp_path)


def test_file_that_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 1000)
    with pytest.raises(ConfigurationError, match="not a database"):
        GalleryStore(tmp_path)


FLIPPED = bytes(255 - byte for byte in range(256))


def damage(path: Path, page: int, how: str) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE_SIZE_BYTES)
        content = file.read(PAGE_SIZE_BYTES)
        file.seek(page * PAGE_SIZE_BYTES)
        file.write(bytes(PAGE_SIZE_BYTES) if how == "zeroed" else content.translate(FLIPPED))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed database of some 30 pages: items, their indexes and thumbnails."""
    folder = tmp_path_factory.mktemp("whole")
    store = GalleryStore(folder)
    gallery = make_gallery(store, dimension=256)
    put(store, gallery, [f"item {i}" for i in range(300)], b"jpeg" * 100)
    store.close()
    return folder / FILE_NAME


@pytest.mark.parametrize("how", ["zeroed", "flipped"])
def test_damaged_page_is_told_with_what_to_do(database: Path, tmp_path: Path, how: str):
    """Whichever page it is: the load or, of what the load does not read, the reader says so; nothing else is raised."""
    pages = database.stat().st_size // PAGE_SIZE_BYTES
    assert pages > 25
    refused = unreadable = 0
    for page in range(1, pages):
        path = shutil.copy(database, tmp_path / FILE_NAME)
        damage(path, page, how)
        store = GalleryStore(tmp_path)
        try:
            Ledger(store, GalleryLimits())
        except ConfigurationError as error:
            refused += 1
            assert str(path) in error.message
            assert "estore" in error.message
        reader = StoreReader(path)
        try:
            for i in range(0, 300, 10):
                reader.item(1, f"item {i}")
        except StorageError as error:
            unreadable += 1
            assert f"{path} cannot be read" in error.message
            assert "Restore" in error.message
        reader.close()
        store.close()
    assert refused > pages // 2
    assert unreadable > refused  # thumbnails too


def test_directory_belongs_to_one_at_a_time(tmp_path: Path):
    first = DataDirectory(tmp_path / "new" / "data")
    with pytest.raises(ConfigurationError, match="in use by process"):
        DataDirectory(tmp_path / "new" / "data")
    first.release()
    DataDirectory(tmp_path / "new" / "data").release()


def test_directory_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        DataDirectory(tmp_path / "file" / "data")
