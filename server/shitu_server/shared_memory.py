"""A segment of POSIX shared memory through which pixels reach a Triton on the same host, cut into blocks.

A tensor of 150 KB costs 400 us of CPU time in a message and 150 us in shared memory (notes on Triton, two processes together).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import uuid
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

_FOLDER: Final = Path("/dev/shm")  # noqa: S108  not a temporary folder: where Linux keeps POSIX shared memory
_ALIGNMENT: Final = 64
_BLOCK_BYTES: Final = 512
"""Unit of st_blocks (inode(7))."""


@dataclass(frozen=True)
class Block:
    """A part of the segment, bytes."""

    offset: int
    size: int


class SharedMemory:
    """A segment that this process alone writes. Belongs to one event loop.

    No two segments ever have the same name: who has mapped one by its name has mapped this very one. A process that starts again
    takes the segment of the one that crashed as it is, so that there are never more than one for each wished name.
    """

    def __init__(self, name: str, size: int) -> None:
        """Take or make a segment `name`-<32 hex digits>, all of whose `size` bytes are reserved at once.

        Raises:
            OSError: there is no room.
        """
        self._file, self._path = _left(name, size) or _made(name)
        try:
            _reserve(self._file.fileno(), size)
            self._map = mmap.mmap(self._file.fileno(), size)
        except OSError:
            self._path.unlink(missing_ok=True)
            self._file.close()
            raise
        self.size = size
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)
        self._free = [(0, size)]
        """Offset and size of what is free, in order, neighbours joined."""

    @property
    def name(self) -> str:
        """In /dev/shm."""
        return self._path.name

    def place(self, parts: Sequence[NDArray[np.uint8]]) -> Block | None:
        """Copy contiguous parts one after the other into a block, which is `release`d later; None where none is large enough."""
        size = sum(part.nbytes for part in parts)
        block = self._take(-(-size // _ALIGNMENT) * _ALIGNMENT)
        if block is not None:
            begin = block.offset
            for part in parts:
                self._bytes[begin : begin + part.nbytes] = part.reshape(-1)
                begin += part.nbytes
        return block

    def release(self, block: Block) -> None:
        """Give a block back. Who still reads from it, for a call that was given up, reads what nobody wants."""
        insort(self._free, (block.offset, block.size))
        place = self._free.index((block.offset, block.size))
        for left in (place, place - 1):  # the later neighbour first: it leaves the place of the earlier one
            self._join(left)

    def _take(self, size: int) -> Block | None:
        for place, (offset, room) in enumerate(self._free):
            if room >= size:
                self._free[place : place + 1] = [(offset + size, room - size)] if room > size else []
                return Block(offset, size)
        return None

    def _join(self, left: int) -> None:
        if 0 <= left < len(self._free) - 1:
            (offset, size), (next_offset, next_size) = self._free[left : left + 2]
            if offset + size == next_offset:
                self._free[left : left + 2] = [(offset, size + next_size)]

    def close(self) -> None:
        """Remove the segment's name; it lasts until everybody has unmapped it."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def _made(name: str) -> tuple[IO[bytes], Path]:
    """Make a new segment, locked as long as its file is open."""
    path = _FOLDER / f"{name}-{uuid.uuid4().hex}"
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "r+b", buffering=0)
    fcntl.flock(file, fcntl.LOCK_EX)  # nobody else keeps it for longer than a look takes
    return file, path


def _left(name: str, size: int) -> tuple[IO[bytes], Path] | None:
    """Return a segment that a process which crashed has left; those of another size are removed."""
    taken = None
    for path in _FOLDER.glob(f"{name}-*"):
        if not re.fullmatch(r"[0-9a-f]{32}", path.name.removeprefix(f"{name}-")):
            continue
        file = _locked(path)
        if file is None:
            continue
        found_size = os.fstat(file.fileno()).st_size
        if taken is None and found_size == size:
            taken = file, path
            continue
        if found_size:  # else another process is about to make it
            path.unlink(missing_ok=True)
        file.close()
    return taken


def _locked(path: Path) -> IO[bytes] | None:
    """Return a segment's file, locked; None where another process has it, or it is gone or not ours."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "r+b", buffering=0)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been removed before it was locked.
        is_there = path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except OSError:
        is_there = False
    if not is_there:
        file.close()
        return None
    return file


def _reserve(descriptor: int, size: int) -> None:
    """Make sure that all of it can be written: a write beyond what is left of /dev/shm would be the end of us.

    It is 64 MB in a container by default, and Triton has its own memory there: as much again must be left.
    """
    missing = size - os.fstat(descriptor).st_blocks * _BLOCK_BYTES
    room = os.fstatvfs(descriptor)
    if missing > 0 and room.f_bavail * room.f_frsize < missing + size:
        raise OSError(errno.ENOSPC, f"of {_FOLDER} less than twice {size} bytes are free")
    os.posix_fallocate(descriptor, 0, size)
