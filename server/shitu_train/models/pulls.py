"""Official weights on this machine: downloaded, or a file that the user has; checked either way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from shitu_models.downloads.archive import ArchiveError
from shitu_models.downloads.digests import DigestLock
from shitu_models.downloads.downloader import Downloader, adopt
from shitu_models.downloads.remote_file import RemoteFile
from shitu_models.downloads.sources import OFFICIAL, SourceKind
from shitu_models.specs import OFFICIAL_SPECS
from shitu_train.errors import ConversionError
from shitu_train.models.places import downloads_folder, lock_file


@dataclass(frozen=True)
class PullOptions:
    """How official files are come by."""

    folder: Path
    lock: Path
    mirror: str | None = None
    proxy: str | None = None
    source: SourceKind = SourceKind.CHECKPOINT
    from_file: Path | None = None
    """Here already; its name says which official file it is."""


def pull_options(folder: Path | None, lock: Path | None, **rest: object) -> PullOptions:
    """Options with the usual places where none are given."""
    return PullOptions(folder or downloads_folder(), lock or lock_file(), **rest)  # type: ignore[arg-type]


def remote_of(name: str, options: PullOptions) -> RemoteFile:
    """Return which official file of a model is meant.

    Raises:
        ConversionError: there is no such official model, or no such file of it.
    """
    official = OFFICIAL.get(name)
    if official is None:
        known = ", ".join(spec.name for spec in OFFICIAL_SPECS)
        raise ConversionError(f"{name} is none of PaddleX's models ({known}); `shitu models convert` takes your own")
    if options.from_file is not None:
        return _named(options.from_file, name, official.files)
    remote = official.files.get(options.source)
    if remote is None:
        raise ConversionError(
            f"--source {options.source.value}: {name} has none; it has {', '.join(kind.value for kind in official.files)}"
        )
    return remote


def pulled(remote: RemoteFile, options: PullOptions, console: Console) -> Path:
    """Return an official file, checked against the lock file.

    Raises:
        DownloadError: it cannot be had, or is not what was seen first.
    """
    if options.from_file is not None:
        return adopt(options.from_file, remote, options.lock)
    downloader = Downloader(options.folder, options.lock, mirror=options.mirror, proxy=options.proxy)
    with _bar(console) as progress:
        task = progress.add_task(remote.name, total=None)
        return downloader.fetch(remote, lambda done, total: progress.update(task, completed=done, total=total))


@contextmanager
def provisional(remote: RemoteFile, lock: Path) -> Iterator[None]:
    """Keep a digest that the body records only if the body does not find that the file is not what it should be."""
    digests = DigestLock(lock)
    known = digests.seen(remote.path) is not None
    try:
        yield
    except (ConversionError, ArchiveError):
        if not known:
            digests.forget(remote.path)
        raise


def _named(file: Path, name: str, files: Mapping[SourceKind, RemoteFile]) -> RemoteFile:
    """Return the official file of a file's name.

    The ending would be a guess: there are tars of PaddleX and of PaddleClas, and one's own `.pdparams`; a wrong guess would record
    the digest of one under the key of another, and refuse the genuine file from then on.
    """
    for remote in files.values():
        if file.name == remote.name:
            return remote
    raise ConversionError(
        f"--from-file {file}: expected the name of one of {name}'s official files "
        f"({', '.join(remote.name for remote in files.values())}), got {file.name}; name it so if it is that file; "
        f"`shitu models convert` takes your own"
    )


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)
