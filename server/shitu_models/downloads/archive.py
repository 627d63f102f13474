"""Unpacks the tar of an inference directory: only plain files and folders, within limits, and all of it or nothing."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from shitu_models.downloads.files import NO_ROOM, opened_alone, sync_folder

_WEIGHTS_ENDING: Final = ".pdiparams"
"""Of Paddle's weights in an inference directory."""
_GRAPH_ENDINGS: Final = (".json", ".pdmodel")
"""Of Paddle's graph beside them: its new program format or the old one."""

_GZIP_MAGIC: Final = b"\x1f\x8b"
_BLOCK_BYTES: Final = 1 << 20
_TAR_BLOCK_BYTES: Final = 512
_HEADER_BYTES: Final = 64 * 1024
"""What may be read between two members: headers and long names need a few blocks of 512 bytes."""
_TRAILER_BYTES: Final = 1 << 20
"""What may follow the last member: tar fills up to 10 KiB, some to more."""
_NAMES_SHOWN: Final = 8
_DAMAGES: Final = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError)
"""How tarfile and gzip say that a file is none of theirs, or is damaged."""


class ArchiveError(Exception):
    """An archive cannot be unpacked; the message names it, what was expected, what came and what to do."""


class UnsafeArchiveError(ArchiveError):
    """It holds what no inference directory holds: links, paths that lead out, too much."""


class DamagedArchiveError(ArchiveError):
    """It is no tar, it was cut off, or it is not that of an inference directory."""


class ArchiveStorageError(ArchiveError):
    """A file cannot be read or written, for example because the disk is full."""


@dataclass(frozen=True)
class ArchiveLimits:
    """How large an archive may be; the largest official one has about 1.1 GB in four files."""

    members: int = 64
    member_bytes: int = 4 << 30
    total_bytes: int = 6 << 30


_DEFAULT_LIMITS: Final = ArchiveLimits()


def extract(archive: Path, folder: Path, limits: ArchiveLimits = _DEFAULT_LIMITS) -> Path:
    """Unpack an inference directory; returns the folder, which holds the files themselves.

    Args:
        archive: tar or tar.gz; a single folder at its top is left out.
        folder: to be made; it may exist if it is empty. It appears in one step, when all is there.
        limits: how large the archive may be.

    Raises:
        ArchiveError: nothing was unpacked; see its subclasses.
    """
    with _translated(archive):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ArchiveStorageError(f"{folder} is there already; remove it or choose another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _drafted(folder) as draft, _opened(archive) as stream:
            _Unpacking(archive, stream, draft, limits).run()
            top = _top_of(draft)
            _check_contents(archive, top)
            top.replace(folder)
            sync_folder(folder.parent)
    return folder


def is_tar(file: Path) -> bool:
    """Return whether a file begins as a tar or tar.gz: with the valid header of a member; what follows is not read.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with _opened(file) as stream:
            stream.allow(_HEADER_BYTES)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                return tar.next() is not None
    except (*_DAMAGES, _OverBudgetError):
        return False


class _OverBudgetError(Exception):
    """More was read than a well-formed archive needs."""


class _MeteredStream(io.RawIOBase):
    """Lets tarfile read no more than was allowed: a header can claim a name of gigabytes, which tarfile would read at once."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        super().__init__()
        self._file = file
        self._budget_bytes = 0
        self.last_read = b""

    def allow(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._budget_bytes:
            raise _OverBudgetError
        self._budget_bytes -= size
        self.last_read = self._file.read(size)
        return self.last_read

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset < 0:  # Python 3.10's tarfile does that after the end of an archive without members
            raise tarfile.ReadError("it has no members")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


class _Unpacking:
    """Of one archive into a folder that nobody sees yet."""

    def __init__(self, archive: Path, stream: _MeteredStream, draft: Path, limits: ArchiveLimits) -> None:
        self._archive = archive
        self._stream = stream
        self._draft = draft
        self._limits = limits
        self._files: set[PurePosixPath] = set()
        self._folders = {PurePosixPath()}
        self._listed: set[PurePosixPath] = set()
        self._total_bytes = 0

    def run(self) -> None:
        self._stream.allow(_HEADER_BYTES)
        with tarfile.open(fileobj=self._stream, mode="r:") as tar:
            while True:
                self._stream.allow(_HEADER_BYTES)
                member = tar.next()
                if member is None:
                    break
                self._take(tar, member)
            self._check_end()

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = self._checked_path(member)
        self._check_kind(member)
        self._check_size(member)
        is_folder = member.isdir()
        folders = {path, *path.parents} if is_folder else set(path.parents)
        new_folders = folders - self._folders
        self._folders |= folders
        self._files |= set() if is_folder else {path}
        self._listed.add(path)
        if len(self._files) + len(self._folders) > self._limits.members:
            raise self._unsafe(f"more than {self._limits.members} files and folders")
        for folder in sorted(new_folders):
            _make_folder(self._draft / folder)
        if not is_folder:
            self._copy(tar, member, self._draft / path)

    def _checked_path(self, member: tarfile.TarInfo) -> PurePosixPath:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name:
            raise self._unsafe(f"a path that leads out of the folder ({member.name!r})")
        is_both = self._files & set(path.parents) or (path in self._folders and not member.isdir())
        if path in self._listed or is_both:
            raise self._unsafe(f"two members for one path ({member.name!r})")
        return path

    def _check_kind(self, member: tarfile.TarInfo) -> None:
        if member.issym() or member.islnk():
            raise self._unsafe(f"a link ({member.name!r} to {member.linkname!r})")
        if not (member.isreg() or member.isdir()) or member.issparse():
            raise self._unsafe(f"something that is neither a plain file nor a folder ({member.name!r})")

    def _check_size(self, member: tarfile.TarInfo) -> None:
        limits = self._limits
        self._total_bytes += max(member.size, 0)
        if not 0 <= member.size <= limits.member_bytes:
            raise self._unsafe(f"a member of {member.size} bytes ({member.name!r}), more than {limits.member_bytes}")
        if self._total_bytes > limits.total_bytes:
            raise self._unsafe(f"{self._total_bytes} bytes or more, more than {limits.total_bytes}")

    def _copy(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        source = tar.extractfile(member)
        if source is None:
            raise self._unsafe(f"something that is no plain file ({member.name!r})")
        self._stream.allow(member.size)
        with source, path.open("xb") as target:
            while block := source.read(_BLOCK_BYTES):
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
        if path.stat().st_size != member.size:
            raise _damaged(self._archive, f"{member.name!r} should have {member.size} bytes")
        path.chmod(0o644)

    def _check_end(self) -> None:
        """Make sure that the end is one: tarfile takes a broken header, or none, for the end as well."""
        if self._stream.last_read != bytes(_TAR_BLOCK_BYTES):
            raise _damaged(self._archive, f"after {len(self._listed)} members, neither another one nor the end")
        self._stream.allow(_TRAILER_BYTES)
        while self._stream.read(_TAR_BLOCK_BYTES):  # gzip's checksum is at the very end
            pass

    def _unsafe(self, what: str) -> UnsafeArchiveError:
        return UnsafeArchiveError(
            f"{self._archive}: expected the plain files of an inference directory, it holds {what}; nothing was unpacked; "
            f"get the archive from where the model is published"
        )


@contextmanager
def _drafted(folder: Path) -> Iterator[Path]:
    """Give a hidden folder beside a folder to one process at a time; what a killed one left in it is removed."""
    draft, guard_path = folder.with_name(f".{folder.name}.draft"), folder.with_name(f".{folder.name}.guard")
    try:
        guard = opened_alone(guard_path)
    except BlockingIOError as error:
        raise ArchiveStorageError(
            f"{folder}: another process unpacks there; wait for it, then run this again"
        ) from error
    with guard:
        try:
            shutil.rmtree(draft, ignore_errors=True)
            _make_folder(draft)
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            guard_path.unlink()


def _make_folder(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)  # whatever the umask says: a server of another user may have to read it


@contextmanager
def _opened(archive: Path) -> Iterator[_MeteredStream]:
    with archive.open("rb") as file:
        is_gzip = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        with gzip.GzipFile(fileobj=file) if is_gzip else file as plain:
            yield _MeteredStream(plain)


@contextmanager
def _translated(archive: Path) -> Iterator[None]:
    try:
        yield
    except ArchiveError:
        raise
    except _OverBudgetError as error:
        raise _damaged(archive, "there is more beside its members than a tar has") from error
    except _DAMAGES as error:
        raise _damaged(archive, str(error)) from error
    except OSError as error:
        remedy = (
            "make room or choose another folder" if error.errno in NO_ROOM else "check the path and its permissions"
        )
        raise ArchiveStorageError(
            f"{archive}: {error.filename or 'its files'} cannot be read or written ({error.strerror}); nothing was unpacked; {remedy}"
        ) from error


def _damaged(archive: Path, fault: str) -> DamagedArchiveError:
    return DamagedArchiveError(
        f"{archive}: expected the tar of an inference directory, whole ({fault}); nothing was unpacked; delete it and get it again"
    )


def _top_of(draft: Path) -> Path:
    entries = list(draft.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else draft


def _check_contents(archive: Path, top: Path) -> None:
    names = sorted(path.name + "/" * path.is_dir() for path in top.iterdir())
    # PaddleX and PaddleClas name both `inference`, PaddleDetection names them `model`.
    stems = [name.removesuffix(ending) for name in names for ending in _GRAPH_ENDINGS if name.endswith(ending)]
    if sum(stem + _WEIGHTS_ENDING in names for stem in stems) != 1:
        shown = ", ".join(names[:_NAMES_SHOWN]) + ", ..." * (len(names) > _NAMES_SHOWN) or "nothing"
        graph = " or ".join(f"NAME{ending}" for ending in _GRAPH_ENDINGS)
        raise _damaged(archive, f"one {graph} with NAME{_WEIGHTS_ENDING} should be in it, it holds {shown}")
