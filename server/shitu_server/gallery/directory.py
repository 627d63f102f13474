"""The data directory belongs to one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from shitu_server.errors import ConfigurationError

LOCK_NAME: Final = "lock"


class DataDirectory:
    """A directory that this process holds until `release`, or until it ends in whatever way."""

    def __init__(self, path: Path) -> None:
        """Make the directory where it is missing, and lock it.

        Raises:
            ConfigurationError: another process holds it, or it cannot be written.
        """
        self.path: Final = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"the gallery directory {path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise ConfigurationError(
                f"the gallery directory {path} is in use by process {holder} of another server; stop that server, or choose another directory"
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._descriptor)
