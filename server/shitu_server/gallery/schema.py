"""Tables of the gallery database, and how a database of an older version becomes one of this.

Vectors and pictures stand in separate tables, so that loading the vectors does not read past the pictures.

A row of `galleries` is one generation. The live one of a gallery has its `name`; one that is being filled beside it has `draft_of`;
the one before it, which a rollback would bring back, has `previous_of`. One that has none of these is deleted and waits to be
purged.
"""

from __future__ import annotations

import sqlite3
import uuid
from pathlib import Path
from typing import Final

from shitu_server.errors import ConfigurationError

FORMAT_VERSION: Final = 2
"""In `PRAGMA user_version`."""
PAGE_SIZE_BYTES: Final = 16384
"""100,000 rows of 512 numbers: 239 MB, loaded in 0.12 s; with SQLite's 4096 they take 415 MB and 0.82 s."""
JOURNAL_BYTES: Final = 64 * 1024 * 1024

_VERSION_1: Final = """
CREATE TABLE galleries (
    generation INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT UNIQUE,
    encoder_fingerprint TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    item_count INTEGER NOT NULL,
    create_time_s REAL NOT NULL
) STRICT;
CREATE TABLE items (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT,
    generation INTEGER NOT NULL REFERENCES galleries,
    item_id TEXT NOT NULL,
    label TEXT NOT NULL,
    metadata TEXT NOT NULL,
    update_time_s REAL NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (generation, item_id)
) STRICT;
CREATE INDEX items_by_age ON items (generation, row_id);
CREATE INDEX items_by_label ON items (generation, label, row_id);
CREATE TABLE thumbnails (
    row_id INTEGER PRIMARY KEY REFERENCES items ON DELETE CASCADE,
    image BLOB NOT NULL
) STRICT;
"""

# Columns that are added stand behind `vector`: SQLite then reads past 2 KB to find them, which loading does anyway.
_VERSION_2: Final = """
ALTER TABLE galleries ADD COLUMN metric TEXT NOT NULL DEFAULT 'inner_product';
ALTER TABLE galleries ADD COLUMN index_kind TEXT NOT NULL DEFAULT 'auto';
ALTER TABLE galleries ADD COLUMN fields TEXT NOT NULL DEFAULT '{}';
ALTER TABLE galleries ADD COLUMN draft_of TEXT;
ALTER TABLE galleries ADD COLUMN previous_of TEXT;
ALTER TABLE galleries ADD COLUMN publish_sequence INTEGER NOT NULL DEFAULT 0;
CREATE UNIQUE INDEX galleries_by_draft ON galleries (draft_of) WHERE draft_of IS NOT NULL;
CREATE UNIQUE INDEX galleries_by_previous ON galleries (previous_of) WHERE previous_of IS NOT NULL;
ALTER TABLE items ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;
ALTER TABLE items ADD COLUMN checksum INTEGER;
ALTER TABLE items ADD COLUMN image_digest BLOB;
CREATE INDEX items_by_sequence ON items (generation, sequence);
CREATE INDEX items_by_digest ON items (generation, image_digest) WHERE image_digest IS NOT NULL;
ALTER TABLE thumbnails ADD COLUMN checksum INTEGER;
CREATE TABLE aliases (
    alias TEXT PRIMARY KEY,
    name TEXT NOT NULL
) STRICT;
CREATE TABLE identity (
    id TEXT NOT NULL
) STRICT;
"""

_STEPS: Final = (_VERSION_1, _VERSION_2)
"""What makes each version of the one before it."""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Set the connection up; make the tables, or bring those of an older version up to date.

    Raises:
        ConfigurationError: a later version wrote the database.
        sqlite3.Error: it cannot be read.
    """
    execute = connection.execute
    execute(f"PRAGMA page_size = {PAGE_SIZE_BYTES}")
    execute("PRAGMA journal_mode = WAL")
    execute("PRAGMA synchronous = FULL")
    execute("PRAGMA foreign_keys = ON")
    execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
    version = int(execute("PRAGMA user_version").fetchone()[0])
    if version > FORMAT_VERSION:
        raise ConfigurationError(
            f"{path} has format {version}, this program knows {FORMAT_VERSION}: it was written by a later version; run that one"
        )
    if version == FORMAT_VERSION:
        return
    steps = "".join(_STEPS[version:])
    identity = f"INSERT INTO identity VALUES ('{uuid.uuid4().hex}');"  # noqa: S608  # our own digits
    connection.executescript(f"BEGIN;{steps}{identity}PRAGMA user_version = {FORMAT_VERSION};COMMIT;")
