"""A gallery as one file, and back.

The file is `MAGIC`, then blocks: length and CRC-32 of a protobuf message (each uint32, little-endian), then the message, a
`SnapshotBlock`. The first block is the header, then come blocks of items, the last one is the end, with the number of items and the
SHA-256 of all bytes before it. No pickle, no SQL.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
import zlib
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf import message

from shitu.v1 import snapshot_pb2 as pb
from shitu_server.errors import InvalidArgumentError, NotFoundError, StorageError
from shitu_server.filters import FieldType
from shitu_server.gallery.checks import CheckedItem, checked_item, shown
from shitu_server.gallery.generations import RestoredItem
from shitu_server.gallery.item_rows import UNIT_TOLERANCE, item_checksum
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.store import damaged
from shitu_server.types import GalleryInfo, GalleryOptions, IndexKind, Metadata, Metric, NewItem

MAGIC: Final = b"SHITU-GALLERY-1\n"
BLOCK_ITEMS: Final = 64
BLOCK_BYTES: Final = 64 * 1024 * 1024
"""64 items with all that they may hold are 18 MB."""
MOST_SEQUENCE: Final = 1 << 53
"""A billion writes a second for a hundred days: SQLite's numbers end at 1 << 63, and a state only grows."""
MOST_TIME_S: Final = 2.0**37
"""The year 6325; a Timestamp ends with the year 9999."""
_LENGTHS: Final = struct.Struct("<II")
_FIELD: Final = "data"


@dataclass(frozen=True)
class SnapshotHeader:
    """The gallery that a file holds."""

    name: str
    """Of the gallery that it was made of."""
    encoder_fingerprint: str
    dimension: int
    options: GalleryOptions
    sequence: int
    create_time_s: float


class SnapshotReader:
    """Reads a gallery of one moment from the database, beside the writer, in a thread of its own."""

    def __init__(self, path: Path, info: GalleryInfo) -> None:
        self._path = path
        self._info = info

    def blocks(self) -> Generator[bytes, None, None]:
        """Yield the bytes of the file in parts.

        Raises:
            NotFoundError: the gallery is no more.
            StorageError: the database cannot be read, or an item is not as it was written.
        """
        digest, count, wanted = hashlib.sha256(), 0, 0
        try:
            connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
            try:
                connection.execute("BEGIN")
                sequence, wanted = self._begun(connection)
                for part in self._parts(connection, sequence):
                    count += len(part.items.items)
                    block = _block(part)
                    content = block if count or part.HasField("items") else MAGIC + block
                    digest.update(content)
                    yield content
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StorageError(damaged(self._path, error)) from error
        if count != wanted:
            raise StorageError(
                f'the gallery database {self._path} is damaged: gallery "{self._info.name}" should hold {wanted} items, {count} are '
                "there; restore an older snapshot"
            )
        yield _block(pb.SnapshotBlock(end=pb.SnapshotEnd(item_count=count, sha256=digest.digest())))

    def _begun(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Return state and number of items. A deleted generation is none any more: it may be purged already in part."""
        query = "SELECT sequence, item_count FROM galleries WHERE generation = ? AND (name IS NOT NULL OR previous_of IS NOT NULL)"
        found = connection.execute(query, (self._info.state.generation,)).fetchone()
        if found is None:
            raise NotFoundError("gallery", self._info.name, f'gallery "{self._info.name}" is no more')
        sequence, item_count = found
        return sequence, item_count

    def _parts(self, connection: sqlite3.Connection, sequence: int) -> Iterator[pb.SnapshotBlock]:
        info, generation = self._info, self._info.state.generation
        yield pb.SnapshotBlock(
            header=pb.SnapshotHeader(
                name=info.name,
                encoder_fingerprint=info.encoder_fingerprint,
                dimension=info.dimension,
                metric=info.options.metric.value,
                index_kind=info.options.index_kind.value,
                fields={name: kind.value for name, kind in info.options.fields.items()},
                sequence=sequence,
                create_time_s=info.create_time_s,
            )
        )
        query = (
            "SELECT item_id, label, metadata, CAST(coalesce(vector, '') AS BLOB), items.checksum, CAST(image AS BLOB), "
            "thumbnails.checksum, image_digest, sequence, update_time_s FROM items LEFT JOIN thumbnails USING (row_id) WHERE generation = ? ORDER BY row_id"
        )
        cursor = connection.execute(query, (generation,))
        while rows := cursor.fetchmany(BLOCK_ITEMS):
            yield pb.SnapshotBlock(items=pb.SnapshotItems(items=[self._item(*row) for row in rows]))

    def _item(
        self,
        item_id: str,
        label: str,
        metadata: str,
        vector: bytes,
        checksum: int | None,
        image: bytes | None,
        image_checksum: int | None,
        *rest: Any,
    ) -> pb.SnapshotItem:
        same = checksum in (None, item_checksum(item_id, label, metadata, vector))
        if not same or (image is not None and image_checksum not in (None, zlib.crc32(image))):
            raise StorageError(
                f'the gallery database {self._path} is damaged: item "{item_id}" is not as it was written (its checksum differs); '
                "send the item again, or restore an older snapshot"
            )
        digest, sequence, update_time_s = rest
        return pb.SnapshotItem(
            id=item_id,
            label=label,
            metadata_json=metadata,
            vector=vector,
            thumbnail=image or b"",
            image_digest=digest or b"",
            sequence=sequence,
            update_time_s=update_time_s,
        )


class SnapshotParser:
    """Takes the bytes of a file as they come, in parts of any size, and gives its items; nothing of it is believed unchecked."""

    def __init__(self, content: AsyncIterator[bytes], limits: GalleryLimits) -> None:
        self._content = content
        self._limits = limits
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._count = 0
        self._header: SnapshotHeader | None = None

    async def header(self) -> SnapshotHeader:
        """Return what the gallery is. To be called first. Raises InvalidArgumentError."""
        magic = await self._take(len(MAGIC))
        if magic != MAGIC:
            raise _wrong("this is no snapshot of a gallery, or one of a later version")
        self._digest.update(magic)
        block = await self._block()
        if not block.HasField("header"):
            raise _wrong("the header is missing")
        self._header = _header(block.header)
        return self._header

    async def items(self) -> AsyncIterator[tuple[RestoredItem, ...]]:
        """Yield the items in parts of up to 64, then make sure that nothing is missing. Raises InvalidArgumentError."""
        assert self._header is not None
        while True:
            sha256 = self._digest.digest()
            block = await self._block()
            if block.HasField("end"):
                break
            if not block.HasField("items"):
                raise _wrong("a block holds neither items nor the end")
            self._count += len(block.items.items)
            items = tuple(_restored(item, self._header, self._limits) for item in block.items.items)
            if len({one.item.id for one in items}) < len(items):
                raise _wrong("an item comes twice")
            yield items
        if block.end.sha256 != sha256 or block.end.item_count != self._count:
            raise _wrong(
                f"the checksum of the whole differs, or items are missing: {self._count} of {block.end.item_count}"
            )
        while not self._buffer and (part := await anext(self._content, None)) is not None:
            self._buffer += part
        if self._buffer:
            raise _wrong("there is more behind its end")

    async def _block(self) -> pb.SnapshotBlock:
        lengths = await self._take(_LENGTHS.size)
        size, checksum = _LENGTHS.unpack(lengths)
        if size > BLOCK_BYTES:
            raise _wrong(f"a block says that it has {size} bytes, over {BLOCK_BYTES}")
        content = await self._take(size)
        if zlib.crc32(content) != checksum:
            raise _wrong(f"the checksum of a block behind item {self._count} differs")
        self._digest.update(lengths + content)
        try:
            return pb.SnapshotBlock.FromString(content)
        except message.DecodeError as error:
            raise _wrong("a block cannot be read") from error

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            part = await anext(self._content, None)
            if part is None:
                raise _wrong(f"it ends too early, behind item {self._count}")
            self._buffer += part
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def _block(part: pb.SnapshotBlock) -> bytes:
    content = part.SerializeToString()
    return _LENGTHS.pack(len(content), zlib.crc32(content)) + content


def _header(header: pb.SnapshotHeader) -> SnapshotHeader:
    try:
        fields = {name: FieldType(kind) for name, kind in header.fields.items()}
        options = GalleryOptions(Metric(header.metric), IndexKind(header.index_kind), fields)
    except ValueError as error:
        raise _wrong(f"its header says {error}; a later version wrote it") from error
    if not 1 <= header.sequence <= MOST_SEQUENCE or not 0 <= header.create_time_s <= MOST_TIME_S:
        raise _wrong(f"its header says state {header.sequence} and time {header.create_time_s}")
    return SnapshotHeader(
        header.name, header.encoder_fingerprint, header.dimension, options, header.sequence, header.create_time_s
    )


def _restored(item: pb.SnapshotItem, header: SnapshotHeader, limits: GalleryLimits) -> RestoredItem:
    """Return an item that was found to be one that `types.Gallery.add` would take."""
    if len(item.vector) != 4 * header.dimension:
        raise _wrong(
            f"the vector of item {shown(item.id)} has {len(item.vector)} bytes, expected {4 * header.dimension}"
        )
    vector = np.frombuffer(item.vector, dtype="<f4").astype(np.float32, copy=False)
    metadata = _json_object(item.metadata_json)
    if metadata is None:
        raise _wrong(f"the metadata of item {shown(item.id)} are no JSON object")
    if not 0 <= item.sequence <= header.sequence or not 0 <= item.update_time_s <= MOST_TIME_S:
        raise _wrong(f"item {shown(item.id)} is of state {item.sequence} and time {item.update_time_s}")
    new = NewItem(item.id, item.label, vector, metadata, item.thumbnail, item.image_digest)
    try:
        kept = checked_item(new, "item", header.dimension, header.options, limits).vector
    except InvalidArgumentError as error:
        raise _wrong(f"item {shown(item.id)} is none that a gallery takes ({error.message})") from error
    if np.abs(kept - vector).max() > UNIT_TOLERANCE:
        raise _wrong(f"the vector of item {shown(item.id)} is not L2-normalised")
    checked = CheckedItem(item.id, item.label, vector, item.metadata_json, item.thumbnail, item.image_digest)
    return RestoredItem(checked, item.sequence, item.update_time_s)


def _json_object(text: str) -> Metadata | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _wrong(problem: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        _FIELD, f"expected a snapshot as `shitu gallery snapshot` writes it, but {problem}; nothing was restored"
    )
