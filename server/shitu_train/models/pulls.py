"""Official weights on this machine: downloaded, or a file that the user has; checked either way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from shitu_models.downloads.downloader import Downloader, adopt
from shitu_models.downloads.remote_file import RemoteFile
from shitu_models.downloads.sources import OFFICIAL
from shitu_models.specs import OFFICIAL_SPECS
from shitu_train.errors import ConversionError
from shitu_train.models.places import downloads_folder, lock_file

_CHECKPOINT_ENDING = ".pdparams"


@dataclass(frozen=True)
class PullOptions:
    """How official files are come by."""

    folder: Path
    lock: Path
    mirror: str | None = None
    proxy: str | None = None
    exported: bool = False
    """The exported directory's tar instead of the checkpoint."""
    from_file: Path | None = None
    """Here already; its ending says which official file it is."""


def pull_options(folder: Path | None, lock: Path | None, **rest: object) -> PullOptions:
    """Options with the usual places where none are given."""
    return PullOptions(folder or downloads_folder(), lock or lock_file(), **rest)  # type: ignore[arg-type]


def pulled(name: str, options: PullOptions, console: Console) -> Path:
    """Return the file of an official model's weights, checked against the lock file.

    Raises:
        ConversionError: there is no such official model.
        DownloadError: it cannot be had, or is not what was seen first.
    """
    remote = _remote(name, options)
    if options.from_file is not None:
        return adopt(options.from_file, remote, options.lock)
    downloader = Downloader(options.folder, options.lock, mirror=options.mirror, proxy=options.proxy)
    with _bar(console) as progress:
        task = progress.add_task(remote.name, total=None)
        return downloader.fetch(remote, lambda done, total: progress.update(task, completed=done, total=total))


def _remote(name: str, options: PullOptions) -> RemoteFile:
    source = OFFICIAL.get(name)
    if source is None:
        known = ", ".join(spec.name for spec in OFFICIAL_SPECS)
        raise ConversionError(f"{name} is none of PaddleX's models ({known}); `shitu models convert` takes your own")
    exported = options.exported
    if options.from_file is not None:
        exported = options.from_file.suffix != _CHECKPOINT_ENDING
    return source.inference if exported else source.checkpoint


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)
