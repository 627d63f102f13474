"""The lock file: what each downloaded file was when it was first seen, so that it never changes unnoticed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Final

from pydantic import AwareDatetime, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from shitu_models.downloads.files import opened_alone, sync_folder

_MAX_LOCK_BYTES: Final = 1 << 20
"""A lock file of 1 MiB would name thousands of files; there are a dozen."""
_WAIT_S: Final = 10.0
"""How long another process may hold the lock file; it needs milliseconds."""
_POLL_S: Final = 0.02


class DigestsError(Exception):
    """Something is wrong with a digest; the message names the file and what to do."""


class DamagedLockError(DigestsError):
    """The lock file says something that nobody wrote, or cannot be had; it is left as it is."""


class DifferentDigestError(DigestsError):
    """A file is not what it was when it was first seen."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SeenFile:
    """What a file was when it was first seen."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """64 hex digits, in lower case."""
    size_bytes: Annotated[int, Field(ge=0)]
    first_seen: AwareDatetime
    """In UTC, whole seconds."""


_LOCKS: Final = TypeAdapter(dict[str, SeenFile])


class DigestLock:
    """A lock file: a JSON object of one line for each file, by the file's path below the base URL; mirrors share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = path.with_name(f".{path.name}.guard")

    def seen(self, key: str) -> SeenFile | None:
        """Return what a file was when it was first seen, None where it never was.

        Raises:
            DamagedLockError: the lock file is damaged.
            OSError: it cannot be read.
        """
        return self._read().get(key)

    def check(self, key: str, sha256: str, size_bytes: int, file: Path) -> SeenFile:
        """Record a file that is seen for the first time; any other must be what it was.

        Args:
            key: the file's path below the base URL.
            sha256: of the file at hand, 64 hex digits.
            size_bytes: of the file at hand.
            file: where it is, for the message.

        Raises:
            DifferentDigestError: it is something else than at first.
            DamagedLockError: the lock file is damaged, or another process holds it.
            OSError: it cannot be read or written.
        """
        with self._alone():
            files = self._read()
            if key in files:
                self._compare(key, files[key], sha256, file)
                return files[key]
            first = SeenFile(sha256, size_bytes, datetime.now(timezone.utc).replace(microsecond=0))
            self._write({**files, key: first})
            return first

    def forget(self, key: str) -> None:
        """Remove what was recorded of a file, if anything was.

        Raises:
            DamagedLockError: the lock file is damaged, or another process holds it.
            OSError: it cannot be read or written.
        """
        with self._alone():
            files = self._read()
            if files.pop(key, None) is not None:
                self._write(files)

    def _compare(self, key: str, first: SeenFile, sha256: str, file: Path) -> None:
        if first.sha256 != sha256:
            raise DifferentDigestError(
                f"{file}: expected sha256 {first.sha256}, which {key} had on {first.first_seen.isoformat()}, "
                f"it is {sha256}; delete {file} and get it again, or, where the change is expected, "
                f"remove the entry {key!r} from {self._path}"
            )

    def _read(self) -> dict[str, SeenFile]:
        try:
            with self._path.open("rb") as file:
                content = file.read(_MAX_LOCK_BYTES + 1)
        except FileNotFoundError:
            return {}
        if len(content) > _MAX_LOCK_BYTES:
            raise self._damaged(f"expected at most {_MAX_LOCK_BYTES} bytes, it has more")
        try:
            return _LOCKS.validate_json(content)
        except ValidationError as error:
            faults = (
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".lstrip(": ") for fault in error.errors()[:3]
            )
            raise self._damaged("; ".join(faults)) from error

    def _damaged(self, fault: str) -> DamagedLockError:
        return DamagedLockError(
            f"{self._path} is no lock file of downloads ({fault}); mend it, fetch it from a backup, or remove it "
            f"if every file may be trusted anew"
        )

    def _write(self, files: Mapping[str, SeenFile]) -> None:
        """Replace the lock file in one step: whoever reads it, whenever the power goes, sees the old or the new one."""
        draft = self._path.with_name(f".{self._path.name}.draft")
        with draft.open("wb") as file:
            file.write(_text(files).encode())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        sync_folder(self._path.parent)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # The guard is a file of its own, since the lock file is another one after each write.
        self._path.parent.mkdir(parents=True, exist_ok=True)
        end_s = time.monotonic() + _WAIT_S
        while True:
            try:
                guard = opened_alone(self._guard)
                break
            except BlockingIOError as error:
                if time.monotonic() > end_s:
                    raise DamagedLockError(
                        f"{self._path} was held by another process for {_WAIT_S:g} s; end that one and run this again"
                    ) from error
                time.sleep(_POLL_S)
        with guard:
            try:
                yield
            finally:
                self._guard.unlink()


def _text(files: Mapping[str, SeenFile]) -> str:
    entries = _LOCKS.dump_python(dict(files), mode="json")
    lines = (f"  {json.dumps(key)}: {json.dumps(entries[key], sort_keys=True)}" for key in sorted(entries))
    return "{\n" + ",\n".join(lines) + "\n}\n"
