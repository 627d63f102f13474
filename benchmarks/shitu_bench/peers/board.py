"""What is going on, for people to follow: a bar with the slice that runs."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from typing_extensions import Self

from shitu_bench.load.live import live_bar
from shitu_bench.load.plans import Progress
from shitu_bench.peers.slices import SlicePlan


class PeersBoard:
    """Shows what runs while it is entered; on a console that is no terminal, a line for each thing."""

    def __init__(self, console: Console) -> None:
        self._console, self._bar = console, live_bar(console)

    def __enter__(self) -> Self:
        self._bar.start()
        self._task = self._bar.add_task("", total=None, note="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Show what begins."""
        self._bar.reset(self._task, total=None, description=text, note="")
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, soft_wrap=True)

    def told(self, name: str, plan: SlicePlan) -> Progress:
        """Show that a rival comes under load, and return whom to tell how far it is."""
        seconds = plan.warm_up_s + plan.duration_s
        self.say(f"{name}: {plan.concurrency} clients, {seconds:.0f} s")
        self._bar.update(self._task, total=seconds)

        def tell(elapsed_s: float, answered: int, failed: int) -> None:
            self._bar.update(self._task, completed=min(elapsed_s, seconds), note=f"{answered} answers, {failed} errors")

        return tell
