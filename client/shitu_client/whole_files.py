"""Files that are whole or not there."""

from __future__ import annotations

import asyncio
import os
import stat
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from shitu_client.errors import InputError

Progress = Callable[[int], None]
"""Called with the number of bytes so far."""

_CHUNK_BYTES: Final = 1024 * 1024


class WholeFile:
    """A file that gets its name when all of it is written and on disk; until then what stood under the name stands there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Beside it: a file is renamed in one step only within its file system.
        self._part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        self._file: BinaryIO | None = None

    def open(self) -> BinaryIO:
        """Return what is to be written to.

        Raises:
            InputError: what stands under the name is no file, and a rename would put a file in the place of it.
        """
        _check_replaceable(self._path)
        with _named(self._path):
            self._file = self._part.open("xb")
        return self._file

    def keep(self) -> None:
        """Give the file its name."""
        assert self._file is not None
        with _named(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)
            _sync_folder(self._path.parent)

    def discard(self) -> None:
        """Leave nothing behind, unless it was kept."""
        if self._file is not None:
            # Closing flushes, and a disk that is full says so again; what is discarded need not be whole.
            with suppress(OSError):
                self._file.close()
            self._part.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that is there when all went well, and else not."""
    whole = WholeFile(path)
    try:
        yield whole.open()
        whole.keep()
    finally:
        whole.discard()


async def save_stream(path: Path, chunks: AsyncIterator[bytes], progress: Progress | None = None) -> int:
    """Save what comes; returns the number of bytes. Where the stream fails, so does this, and no file is there."""
    whole = WholeFile(path)
    size = 0
    try:
        file = await asyncio.to_thread(whole.open)
        async for chunk in chunks:
            with _named(path):
                size += await asyncio.to_thread(file.write, chunk)
            if progress is not None:
                progress(size)
        await asyncio.to_thread(whole.keep)
    finally:
        whole.discard()
    return size


async def file_chunks(path: Path, progress: Progress | None = None) -> AsyncGenerator[bytes, None]:
    """Yield a file piece by piece; `progress` is told what has been taken."""
    size = 0
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk
            size += len(chunk)
            if progress is not None:
                progress(size)


def _check_replaceable(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError:
        # There is nothing, or it is said when the file is made.
        return
    if not stat.S_ISREG(mode):
        kind = (
            "a folder" if stat.S_ISDIR(mode) else "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "a pipe"
        )
        raise InputError(f"{path}: expected a file or a new name, there is {kind}; nothing was written")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let errors name the file that was meant, not the one beside it, nor none."""
    try:
        yield
    except OSError as error:
        # Another of the same class, for a rename has two names.
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sync_folder(folder: Path) -> None:
    """Make a new name last, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
