"""The one progress bar of all long commands."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


class _RateColumn(ProgressColumn):
    """How many a second, over the last half minute."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Return the rate, or nothing while there is none."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self._unit}/s")


class _NoteColumn(ProgressColumn):
    """What a task says in its field `note`, if anything."""

    def render(self, task: Task) -> Text:
        """Return the note."""
        return Text(str(task.fields.get("note", "")))


def progress_bar(console: Console, unit: str = "") -> Progress:
    """Return a bar with count and time left; it vanishes when done. At 80 columns nothing of it is cut off.

    Args:
        console: where it is; one that is no terminal shows nothing.
        unit: of the rate, which is shown in place of the time spent.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        _RateColumn(unit) if unit else TimeElapsedColumn(),
        TimeRemainingColumn(),
        _NoteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def bytes_bar(console: Console) -> Progress:
    """Return a bar of bytes with their rate; it vanishes when done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
