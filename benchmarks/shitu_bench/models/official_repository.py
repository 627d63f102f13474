"""PaddleX's models with random weights, placed as the converter places them: what is measured where the weights do not matter.

A conversion takes up to a minute, so that what was made is kept: in a folder whose name says of which seed it is, and by what converter.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

import shitu_models
import shitu_train
from shitu_bench.errors import BenchError
from shitu_bench.isolated import bound_command
from shitu_models.repository import RepositoryError, placed_any, weights_path
from shitu_models.specs import OFFICIAL_SPECS
from shitu_train.records import tool_versions

SEED: Final = 1
_TIMEOUT_S: Final = 900.0
"""For one model: ViT-L/14 takes some minutes on two cores."""
_KEY_DIGITS: Final = 12
_LAST_LINES: Final = 5


def official_repository(names: Iterable[str], console: Console, *, seed: int = SEED, cache: Path | None = None) -> Path:
    """Return a model repository that holds these official models, made where they are not there yet.

    Args:
        names: of official models; ViT-L/14 takes 1.2 GB of disk, and 12 GB of memory while it is made.
        console: is told what takes time.
        seed: of the weights.
        cache: folder to keep it in; the user's cache where None.

    Raises:
        BenchError: a name is of no official model, Paddle is missing, or a conversion failed.
    """
    repository = (cache or default_cache()) / f"official-seed{seed}-{converter_version()}"
    repository.mkdir(parents=True, exist_ok=True)
    with _alone(repository):
        for name in names:
            if not _is_there(repository, name):
                with console.status(f"making {name} with random weights, once for all; kept in {repository}"):
                    _convert(name, seed, repository)
    return repository


def default_cache() -> Path:
    """Return where what was made for measurements is kept; may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shitu" / "bench"


def converter_version() -> str:
    """Return a digest of all that decides what a converted model is: our sources, and the versions of the tools."""
    models, training = (Path(package.__path__[0]) for package in (shitu_models, shitu_train))
    sources = [
        Path(__file__).with_name("spread_weights.py"),
        *(models / name for name in ("specs.py", "cards.py")),
        *sorted((training / "architectures").glob("*.py")),
        *sorted((training / "conversion").glob("*.py")),
    ]
    digest = hashlib.sha256(repr(sorted(tool_versions().items())).encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:_KEY_DIGITS]


def _is_there(repository: Path, name: str) -> bool:
    if name not in {spec.name for spec in OFFICIAL_SPECS}:
        raise BenchError(
            f"expected an official model, got {name!r}; known: {', '.join(spec.name for spec in OFFICIAL_SPECS)}"
        )
    try:
        return weights_path(repository, placed_any(repository, name).spec).is_file()
    except RepositoryError:
        return False


def _convert(name: str, seed: int, repository: Path) -> None:
    command = bound_command(
        sys.executable, "-m", "shitu_bench.models.official_conversion", name, str(seed), str(repository)
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise BenchError(
            f"{name} was not made in {_TIMEOUT_S:g} s; the machine is too slow or has too little memory"
        ) from error
    if done.returncode:
        told = "\n".join(done.stderr.strip().splitlines()[-_LAST_LINES:])
        raise BenchError(f"{name} could not be made; it needs the extra `train`, with Paddle:\n{told}")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two measurements that begin at once make a model once."""
    with (folder / ".making").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
