"""The beginning of a file that is being downloaded: `<name>.part`, and what the server said of it in `<name>.part.json`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from shitu_models.downloads.files import NO_ROOM, opened_alone, sync_folder

_BLOCK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class _Notes:
    key: str
    """Path of the file below the base URL."""
    validator: str | None
    total_bytes: Annotated[int, Field(ge=0)] | None


_NOTES: Final = TypeAdapter(_Notes)


class PartFile:
    """A `.part` that one process at a time writes; what another one left is taken up."""

    def __init__(self, target: Path, key: str) -> None:
        """Open or make it; the folder must exist.

        Args:
            target: the file it is to become.
            key: path of that file below the base URL; a part of another one is thrown away.

        Raises:
            BlockingIOError: another process has it.
            OSError: it cannot be read or written.
        """
        self.path = target.with_name(f"{target.name}.part")
        self._notes_path = target.with_name(f"{target.name}.part.json")
        self._target = target
        self._key = key
        self.size_bytes: int
        """Of what is there."""
        self.validator: str | None
        """ETag or Last-Modified of the file that this is the beginning of, where the server gave one."""
        self.total_bytes: int | None
        """Of the whole file, where the server said."""
        self._file = opened_alone(self.path)
        try:
            self._take_up()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        full = isinstance(error, OSError) and error.errno in NO_ROOM
        if not self._file.closed and (full or not self.size_bytes):
            self.discard()
        self._file.close()

    @property
    def sha256(self) -> str:
        """Of what is there, 64 hex digits."""
        return self._hash.hexdigest()

    @property
    def is_complete(self) -> bool:
        """Whether all is there that the server announced; False where it announced nothing."""
        return self.size_bytes == self.total_bytes

    def note(self, validator: str | None, total_bytes: int | None) -> None:
        """Keep what the server says of the file, before its bytes: who takes up the part needs it.

        Raises:
            OSError: it cannot be written.
        """
        if (validator, total_bytes) != (self.validator, self.total_bytes):
            self.validator, self.total_bytes = validator, total_bytes
            self._notes_path.write_bytes(_NOTES.dump_json(_Notes(self._key, validator, total_bytes)))

    def append(self, block: bytes) -> None:
        """Write on.

        Raises:
            OSError: it cannot be written, for example because the disk is full.
        """
        rest = memoryview(block)
        while rest:
            written = self._file.write(rest)
            self._hash.update(rest[:written])
            self.size_bytes += written
            rest = rest[written:]

    def restart(self) -> None:
        """Forget all.

        Raises:
            OSError: it cannot be written.
        """
        self._file.truncate(0)
        self._notes_path.unlink(missing_ok=True)
        self._forget()

    def discard(self) -> None:
        """Remove it, so that its room is free again.

        Raises:
            OSError: it cannot be removed.
        """
        # The part first: notes without one do no harm, and it is the one that takes room.
        self.path.unlink(missing_ok=True)
        self._notes_path.unlink(missing_ok=True)
        self._file.close()

    def become_target(self) -> None:
        """Put it in the target's place, in one step; all its bytes are on the disk before.

        Raises:
            OSError: it cannot be written or renamed.
        """
        os.fsync(self._file.fileno())
        self.path.replace(self._target)
        self._notes_path.unlink(missing_ok=True)
        sync_folder(self._target.parent)
        self._file.close()

    def _take_up(self) -> None:
        self._forget()
        notes = self._read_notes()
        if notes is None:
            self.restart()
            return
        self.validator, self.total_bytes = notes.validator, notes.total_bytes
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            self._hash.update(block)
            self.size_bytes += len(block)

    def _read_notes(self) -> _Notes | None:
        try:
            notes = _NOTES.validate_json(self._notes_path.read_bytes())
        except (FileNotFoundError, ValidationError):  # a process that was killed leaves anything behind
            return None
        return notes if notes.key == self._key else None

    def _forget(self) -> None:
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        self.validator = None
        self.total_bytes = None
