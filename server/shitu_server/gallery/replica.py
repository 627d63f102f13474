"""Galleries of snapshots, for more reading than one process can do."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from shitu_server.errors import AlreadyExistsError, ConfigurationError, InvalidArgumentError, StorageError
from shitu_server.gallery.directory import DataDirectory
from shitu_server.gallery.embedded import EmbeddedGallery
from shitu_server.gallery.limits import BatchingOptions, GalleryLimits, IndexOptions
from shitu_server.gallery.snapshots import SnapshotParser

READ_BYTES: Final = 1024 * 1024
PREFIX: Final = "replica-"


@contextlib.asynccontextmanager
async def open_replica(
    snapshots: Sequence[Path],
    folder: Path,
    limits: GalleryLimits | None = None,
    batching: BatchingOptions | None = None,
    tuning: IndexOptions | None = None,
) -> AsyncIterator[EmbeddedGallery]:
    """Restore snapshots, each under the name of the gallery that it was made of, for as long as the body runs.

    Args:
        snapshots: files.
        folder: where a directory of this process is made and, at the end, removed; those of processes that died are removed too.
        limits: of reading.
        batching: of searches.
        tuning: of indexes.

    Raises:
        ConfigurationError: a file cannot be read, is damaged, or two are of one gallery; or the folder cannot be written.
    """
    limits = limits or GalleryLimits()
    directory = await asyncio.to_thread(_new_directory, folder)
    try:
        gallery = await EmbeddedGallery.open(directory, limits, batching, tuning)
        try:
            for path in snapshots:
                await _restore(gallery, path, limits)
            yield gallery
        finally:
            await gallery.close()
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


async def _restore(gallery: EmbeddedGallery, path: Path, limits: GalleryLimits) -> None:
    try:
        name = await _name_in(path, limits)
        await gallery.restore(name, _parts(path))
    except (OSError, InvalidArgumentError, AlreadyExistsError, StorageError) as error:
        raise ConfigurationError(f"the snapshot {path} cannot be served: {error}") from error


async def _name_in(path: Path, limits: GalleryLimits) -> str:
    async with contextlib.aclosing(_parts(path)) as parts:
        return (await SnapshotParser(parts, limits).header()).name


async def _parts(path: Path) -> AsyncGenerator[bytes, None]:
    file = await asyncio.to_thread(_opened, path)
    try:
        while part := await asyncio.to_thread(file.read, READ_BYTES):
            yield part
    finally:
        file.close()


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def _new_directory(folder: Path) -> Path:
    """Make a directory for this process; nobody else needs one, since a replica keeps nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{PREFIX}*"):
            if not _is_held(left):
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    except OSError as error:
        raise ConfigurationError(f"the gallery directory {folder} cannot be written: {error.strerror}") from error


def _is_held(directory: Path) -> bool:
    """Return whether a process that lives uses it."""
    try:
        DataDirectory(directory).release()
    except ConfigurationError:
        return True
    return False
