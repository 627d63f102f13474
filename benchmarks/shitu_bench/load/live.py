"""How far a run is, while it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shitu_bench.load import plans


@contextmanager
def followed_live(console: Console, title: str, seconds: float) -> Iterator[plans.Progress]:
    """Show a bar that vanishes when done; yields what is to be told of the progress.

    A console that is no terminal gets a line when it begins.

    Args:
        console: where it is.
        title: what runs.
        seconds: how long it takes.
    """
    if not console.is_terminal:
        console.print(f"{title}, {seconds:g} s", highlight=False, soft_wrap=True)
    with live_bar(console) as bar:
        task = bar.add_task(title, total=seconds, note="")
        last = (0.0, 0)

        def tell(elapsed_s: float, answered: int, failed: int) -> None:
            nonlocal last
            since_s, before = last
            if elapsed_s - since_s >= 1:
                rate = (answered - before) / (elapsed_s - since_s)
                bar.update(task, note=f"{rate:.0f}/s, {answered} OK, {failed} not")
                last = (elapsed_s, answered)
            bar.update(task, completed=min(max(elapsed_s, 0.0), seconds))

        yield tell


def live_bar(console: Console) -> Progress:
    """Return a bar of time with a note."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def named(plan: plans.LoadPlan) -> str:
    """Return what a plan does, in a few words."""
    return f"{plan.rate_per_s:.1f} requests/s" if plan.rate_per_s is not None else f"{plan.concurrency} callers"
