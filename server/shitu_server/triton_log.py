"""What Triton's log says about a failed start."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_TAIL_BYTES: Final = 16 * 1024
_TAIL_LINES: Final = 5


def rotate(path: Path) -> None:
    """Put the log of the last start beside, as `<name>.old`."""
    if path.exists():
        path.replace(path.with_name(f"{path.name}.old"))


def decisive_lines(path: Path, start: int) -> list[str]:
    """Return the last errors after byte `start` of the log, or its last lines where there are none."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - _TAIL_BYTES))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        return []
    errors = [line for line in lines if line.startswith("E") or "error" in line.lower()]
    return (errors or lines)[-_TAIL_LINES:]
