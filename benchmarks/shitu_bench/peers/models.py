"""One set of random weights for both: directories that PaddleX serves, and a model repository that we serve.

`python -m shitu_bench.peers.models NAME SEED FOLDER` makes both of one model from one checkpoint, in a process of its own: Paddle gives its
memory back only at its end.

PaddleX's detector doubles its feature maps by repeating their values, not by the operator that interpolates: with that Paddle 3.3.1 fails
under oneDNN, PaddleX's fast way on a CPU (`ConvertPirAttribute2RuntimeAttribute not support`), be the new size or a factor named. The values
are the same. PaddleX's own export has the operator, so that here PaddleX is faster than it is with that.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from shitu_bench.errors import BenchError
from shitu_bench.models.official_repository import converter_version, default_cache

_TIMEOUT_S: Final = 900.0
_LAST_LINES: Final = 5


@dataclass(frozen=True)
class SharedModels:
    """Where the same weights are."""

    repository: Path
    """Ours."""
    directories: Mapping[str, Path]
    """PaddleX's, by the names of the models."""


def shared_models(names: Iterable[str], console: Console, *, seed: int, cache: Path | None) -> SharedModels:
    """Return official models with random weights, made where they are not there yet.

    Raises:
        BenchError: Paddle is missing, or a conversion failed.
    """
    root = (cache or default_cache()) / f"peers-seed{seed}-{converter_version()}"
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".making").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two measurements that begin at once make a model once
        for name in names:
            if not _directory(root, name).is_dir():  # it comes last, and has its name only when it is whole
                with console.status(f"making {name} with random weights for both, once; kept in {root}"):
                    _make(name, seed, root)
    return SharedModels(_repository(root), {name: _directory(root, name) for name in names})


def _make(name: str, seed: int, root: Path) -> None:
    command = [sys.executable, "-m", "shitu_bench.peers.models", name, str(seed), str(root)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{name} was not made in {_TIMEOUT_S:g} s; the machine is too slow") from error
    if done.returncode:
        told = "\n".join(done.stderr.strip().splitlines()[-_LAST_LINES:])
        raise BenchError(f"{name} could not be made; it needs the extra `train`, with Paddle:\n{told}")


def _main(name: str, seed: int, root: Path) -> None:
    from paddle.nn import functional  # noqa: PLC0415  # Paddle in this process alone

    from shitu_bench.models.official_layers import write_checkpoint  # noqa: PLC0415
    from shitu_train.conversion.converter import convert, export_directory  # noqa: PLC0415
    from shitu_train.conversion.options import ConversionOptions  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="shitu-peers-") as folder:
        checkpoint = write_checkpoint(name, Path(folder), seed)
        convert(checkpoint, ConversionOptions(_repository(root), architecture=name))
        functional.interpolate = _doubled  # type: ignore[assignment]
        export_directory(checkpoint, _directory(root, name), name)


def _doubled(features: Any, size: Sequence[int], mode: str) -> Any:
    """Stand in for the only resizing in our architectures: features [n, c, h, w] to [n, c, 2h, 2w], the nearest value."""
    _, channels, high, wide = features.shape
    if mode != "nearest" or list(size) != [2 * high, 2 * wide]:
        raise ValueError(f"expected features {high} x {wide} to be doubled by the nearest value, got {size} and {mode}")
    spaced = features.reshape([-1, channels, high, 1, wide, 1]).expand([-1, channels, high, 2, wide, 2])
    return spaced.reshape([-1, channels, 2 * high, 2 * wide])


def _repository(root: Path) -> Path:
    return root / "repository"


def _directory(root: Path, name: str) -> Path:
    return root / "paddle" / name


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
