"""A segment of POSIX shared memory through which pixels reach a Triton on the same host, cut into blocks.

A tensor of 150 KB costs 400 us of CPU time in a message and 150 us in shared memory (notes on Triton, two processes together).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from bisect import insort
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

_FOLDER: Final = Path("/dev/shm")  # noqa: S108  not a temporary folder: where Linux keeps POSIX shared memory
_ALIGNMENT: Final = 64


@dataclass(frozen=True)
class Block:
    """A part of the segment, bytes."""

    offset: int
    size: int


class SharedMemory:
    """A segment that this process alone writes. Belongs to one event loop.

    A process that starts again under the same name takes the segment of the one that crashed as it is: whoever has it mapped,
    and may still be reading from it, keeps seeing what this process writes.
    """

    def __init__(self, name: str, size: int) -> None:
        """Take or make the segment `name`, all of whose `size` bytes are reserved at once.

        Raises:
            OSError: there is no room, or another process uses it.
        """
        self._path = _FOLDER / name
        self._file = _opened(self._path, size)
        try:
            # Without this a write beyond what is left of /dev/shm, 64 MB in a container by default, would be the end of us.
            os.posix_fallocate(self._file.fileno(), 0, size)
        except OSError:
            self.close()
            raise
        self._map = mmap.mmap(self._file.fileno(), size)
        self.region = f"{name}-{os.fstat(self._file.fileno()).st_ino}"
        """Names what is mapped: another segment, though it has the same name, has another one."""
        self.key = f"/{name}"
        """For shm_open(3)."""
        self.size = size
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)
        self._free = [(0, size)]
        """Offset and size of what is free, in order, neighbours joined."""

    def place(self, data: NDArray[np.uint8]) -> Block | None:
        """Copy contiguous data into a block, which is `release`d later; None where no block is large enough."""
        block = self._take(-(-data.nbytes // _ALIGNMENT) * _ALIGNMENT)
        if block is not None:
            self._bytes[block.offset : block.offset + data.nbytes] = data.reshape(-1)
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


def _opened(path: Path, size: int) -> IO[bytes]:
    """Return the locked file of that size, if need be a new one."""
    with suppress(FileNotFoundError):
        file = _locked(path, os.O_RDWR | os.O_NOFOLLOW)
        if os.fstat(file.fileno()).st_size == size:
            return file
        path.unlink()
        file.close()
    return _locked(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)


def _locked(path: Path, flags: int) -> IO[bytes]:
    """Open a file and make sure that no other process writes there; the lock lasts as long as the file is open."""
    file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file
