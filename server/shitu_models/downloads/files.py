"""What files need that must survive other processes and a loss of power."""

from __future__ import annotations

import errno
import fcntl
import os
from io import FileIO
from pathlib import Path
from typing import Final

NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""How the system says that a file gets no more room."""


def opened_alone(path: Path) -> FileIO:
    """Open a file for reading and appending, made where it is missing, that no other process has open this way.

    Whoever has it may rename or remove it.

    Raises:
        BlockingIOError: another process has it.
        OSError: it cannot be opened.
    """
    while True:
        file = FileIO(path, "a+")
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                return file
        except BaseException:
            file.close()
            raise
        file.close()


def sync_folder(folder: Path) -> None:
    """Make sure that what was renamed in a folder stays so when the power goes.

    Raises:
        OSError: the folder cannot be read or written.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_at(file: FileIO, path: Path) -> bool:
    """Return whether a file still has its name: the process before us may have renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
