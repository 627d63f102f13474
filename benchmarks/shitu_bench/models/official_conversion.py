"""`python -m shitu_bench.models.official_conversion NAME SEED REPOSITORY`: makes one model for `official_repository`, in a process of its own.

Paddle gives its memory back only at the end of its process.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from shitu_bench.models.official_layers import write_checkpoint
from shitu_train.conversion.converter import convert
from shitu_train.conversion.options import ConversionOptions


def main(name: str, seed: int, repository: Path) -> None:
    """Draw weights, and convert and place them as a user's checkpoint is."""
    with tempfile.TemporaryDirectory(prefix="shitu-bench-") as folder:
        checkpoint = write_checkpoint(name, Path(folder), seed)
        convert(checkpoint, ConversionOptions(repository, architecture=name))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
