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
from shitu_server.gallery.gallery_rows import GalleryRow
from shitu_server.gallery.item_rows import DamagedGalleryError
from shitu_server.gallery.ledger import Ledger
from shitu_server.gallery.limits import GalleryLimits, IndexOptions
from shitu_server.gallery.reader import StoreReader
from shitu_server.gallery.schema import FORMAT_VERSION, PAGE_SIZE_BYTES
from shitu_server.gallery.store import FILE_NAME, GalleryStore
from shitu_server.types import GalleryOptions


@pytest.fixture
def store(tmp_path: Path):
    opened = GalleryStore(tmp_path)
    yield opened
    opened.close()


def make_gallery(store: GalleryStore, name: str = "g", dimension: int = 4) -> GalleryRow:
    with store.transaction():
        return store.galleries.insert(name, "encoder", dimension, GalleryOptions(), 1.0)


def put(store: GalleryStore, gallery: GalleryRow, ids: list[str], thumbnail: bytes = b"") -> list[int]:
    vector = np.eye(1, gallery.dimension, dtype=np.float32)[0]
    with store.transaction():
        items = [CheckedItem(item_id, "label", vector, "{}", thumbnail) for item_id in ids]
        upserted = [store.items.upsert(gallery.generation, item, 2, 2.0) for item in items]
        store.galleries.advance(gallery.generation, sum(not item.replaced for item in upserted))
    return [item.row_id for item in upserted]


def loaded_ids(store: GalleryStore, name: str = "g") -> list[str]:
    gallery = store.galleries.find(name)
    assert gallery is not None
    return [item_id for rows in store.items.vectors(gallery) for item_id in rows.item_ids]


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
        store.items.remove(gallery.generation, ["a", "b"])
        store.galleries.advance(gallery.generation, -2)
    assert min(put(store, gallery, ["a", "c"])) > max(first)
    assert put(store, gallery, ["a"]) == put(store, gallery, ["a"])  # but a replaced item keeps its own


def test_exception_rolls_back(store: GalleryStore):
    gallery = make_gallery(store)
    with contextlib.suppress(ZeroDivisionError), store.transaction():
        store.items.upsert(gallery.generation, CheckedItem("a", "l", np.ones(4, np.float32) / 2, "{}", b""), 2, 1.0)
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
        store.galleries.hide(gallery.generation)
    other = make_gallery(store)
    assert other.generation > gallery.generation
    put(store, other, ["i1"])
    steps = 0
    purged: int | None = 0
    while purged is not None:
        with store.transaction():
            purged = store.purge(10)
        steps += 1
    assert steps == 4  # 10, 10, 5 and none
    assert store._connection.execute("SELECT (SELECT COUNT(*) FROM items), COUNT(*) FROM thumbnails").fetchone() == (
        1,
        0,
    )
    assert [row.generation for row in store.galleries.live()] == [other.generation]


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
        (b"\0" * 16, "length 0.0"),
        (np.array([np.nan, 0, 0, 0], "<f4").tobytes(), "length nan"),
        (np.array([2, 0, 0, 0], "<f4").tobytes(), "length 4.0"),
    ],
)
def test_broken_vector_is_named(store: GalleryStore, vector: bytes, problem: str):
    gallery = make_gallery(store)
    put(store, gallery, ["a", "b", "c"])
    store._connection.execute("UPDATE items SET vector = ? WHERE item_id = 'b'", (vector,))
    with pytest.raises(DamagedGalleryError, match=f'item "b" has .*{problem}'):
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
    with pytest.raises(DamagedGalleryError, match='item "b" has 0 bytes'):
        loaded_ids(damaged)
    damaged.close()


def test_metadata_that_is_no_json_is_told(store: GalleryStore):
    gallery = make_gallery(store)
    put(store, gallery, ["a"])
    store._connection.execute("UPDATE items SET metadata = '{', checksum = NULL")
    reader = StoreReader(store.path)
    for read in (lambda: reader.item(gallery.generation, "a"), lambda: reader.page(gallery.generation, 0, 10, "")):
        with pytest.raises(StorageError, match='metadata of item "a" is broken'):
            read()
    reader.close()


def test_missing_rows_are_noticed(store: GalleryStore):
    put(store, make_gallery(store), ["a", "b", "c"])
    store._connection.execute("DELETE FROM items WHERE item_id = 'b'")
    with pytest.raises(DamagedGalleryError, match="should hold 3 items, 2 are there"):
        loaded_ids(store)


def test_database_of_a_later_version_is_refused(tmp_path: Path):
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    connection.close()
    with pytest.raises(ConfigurationError, match=f"format {FORMAT_VERSION + 1}, this program knows {FORMAT_VERSION}"):
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


def told_by_loading(folder: Path) -> str:
    """Return what is said of a damage, empty where it goes unnoticed."""
    try:
        store = GalleryStore(folder)
    except ConfigurationError as error:
        return error.message
    try:
        return Ledger(store, GalleryLimits(), IndexOptions(), lambda: None).catalogue.galleries["g"].damage
    except ConfigurationError as error:
        return error.message
    finally:
        store.close()


@pytest.mark.parametrize("how", ["zeroed", "flipped"])
def test_damaged_page_is_told_with_what_to_do(database: Path, tmp_path: Path, how: str):
    """Whichever page it is: the load or, of what the load does not read, the reader says so; nothing else is raised."""
    pages = database.stat().st_size // PAGE_SIZE_BYTES
    assert pages > 25
    refused = unreadable = 0
    for page in range(1, pages):
        path = shutil.copy(database, tmp_path / FILE_NAME)
        damage(path, page, how)
        told = told_by_loading(tmp_path)
        if told:
            refused += 1
            assert str(path) in told
            assert "estore" in told
        reader = StoreReader(path)
        try:
            for i in range(0, 300, 10):
                reader.item(1, f"item {i}")
        except StorageError as error:
            unreadable += 1
            assert f"gallery database {path} " in error.message
            assert "estore" in error.message
        reader.close()
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


def test_flipped_bits_of_items_and_pictures_are_named(store: GalleryStore):
    """One bit, wherever in an item: SQLite itself hands it out without a word."""
    gallery = make_gallery(store)
    put(store, gallery, ["a", "b"], b"jpeg")
    flips = {
        "vector": "UPDATE items SET vector = x'0000803f000000000000000001000000' WHERE item_id = 'b'",
        "label": "UPDATE items SET label = 'labem' WHERE item_id = 'b'",
        "metadata": "UPDATE items SET metadata = '{ }' WHERE item_id = 'b'",
    }
    for flip in flips.values():
        with contextlib.suppress(ZeroDivisionError), store.transaction():
            store._connection.execute(flip)
            with pytest.raises(DamagedGalleryError, match='item "b" is not as it was written'):
                loaded_ids(store)
            raise ZeroDivisionError
    assert loaded_ids(store) == ["a", "b"]
    store._connection.execute("UPDATE thumbnails SET image = x'00'")
    reader = StoreReader(store.path)
    with pytest.raises(StorageError, match='item "b" is not as it was written'):
        reader.item(gallery.generation, "b")
    reader.close()


VERSION_1 = """
CREATE TABLE galleries (generation INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, encoder_fingerprint TEXT NOT NULL,
    dimension INTEGER NOT NULL, sequence INTEGER NOT NULL, item_count INTEGER NOT NULL, create_time_s REAL NOT NULL) STRICT;
CREATE TABLE items (row_id INTEGER PRIMARY KEY AUTOINCREMENT, generation INTEGER NOT NULL REFERENCES galleries,
    item_id TEXT NOT NULL, label TEXT NOT NULL, metadata TEXT NOT NULL, update_time_s REAL NOT NULL, vector BLOB NOT NULL,
    UNIQUE (generation, item_id)) STRICT;
CREATE INDEX items_by_age ON items (generation, row_id);
CREATE INDEX items_by_label ON items (generation, label, row_id);
CREATE TABLE thumbnails (row_id INTEGER PRIMARY KEY REFERENCES items ON DELETE CASCADE, image BLOB NOT NULL) STRICT;
INSERT INTO galleries VALUES (3, 'old', 'encoder', 4, 7, 2, 1.0);
INSERT INTO items VALUES (1, 3, 'a', 'l', '{}', 1.0, x'0000803f000000000000000000000000');
INSERT INTO items VALUES (2, 3, 'b', 'l', '{}', 1.0, x'000000000000803f0000000000000000');
INSERT INTO thumbnails VALUES (2, x'ff');
PRAGMA user_version = 1;
"""


def test_database_of_version_1_becomes_one_of_this(tmp_path: Path):
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.executescript(VERSION_1)
    connection.close()
    for _ in range(2):  # the second time it is one already
        store = GalleryStore(tmp_path)
        assert loaded_ids(store, "old") == ["a", "b"]
        row = store.galleries.find("old")
        assert row is not None
        assert (row.generation, row.sequence, row.options) == (3, 7, GalleryOptions())
        store.close()
    store = GalleryStore(tmp_path)
    assert put(store, row, ["a", "c"]) == [1, 3]
    reader = StoreReader(store.path)
    item = reader.item(3, "b")
    assert item is not None
    assert item.thumbnail == b"\xff"
    reader.close()
    store.close()
