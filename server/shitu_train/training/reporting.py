"""Progress of a training run: a rich bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 20.0


class Reporter:
    """Shows how far the run is and its latest figures; use it as a context."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = Console(width=None if sys.stdout.isatty() else 160)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(title, total=1.0)
        self._last_line = time.monotonic()

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, progress: float, **figures: float) -> None:
        """Shows the figures; off a terminal, at most one line in 20 s."""
        text = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._bar.update(self._task, completed=progress, description=f"{self._title} {text}")
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            self.note(f"{progress:6.1%} {text}")

    def note(self, text: str) -> None:
        """Prints one line, above the bar where there is one."""
        self._console.print(f"{time.strftime('%H:%M:%S')} {self._title}: {text}", highlight=False)
