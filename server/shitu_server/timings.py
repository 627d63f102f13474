"""How long each stage of a request took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Stage = Literal["decode", "detect", "crop", "embed", "search"]


@dataclass(frozen=True)
class StageTimings:
    """Microseconds; a stage that did not run is 0."""

    queue_us: int = 0
    decode_us: int = 0
    detect_us: int = 0
    crop_us: int = 0
    embed_us: int = 0
    search_us: int = 0
    total_us: int = 0


class StageClock:
    """Starts with the request; stages follow one another, so one dictionary will do."""

    def __init__(self) -> None:
        self._start_ns = time.perf_counter_ns()
        self._queue_us = 0
        self._stages_us: dict[Stage, int] = {}

    def finish_queue(self) -> None:
        """The request waits no more: what passed since the start was its queue time."""
        self._queue_us = self._since(self._start_ns)

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Measure the body as a stage."""
        start_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self._stages_us[name] = self._since(start_ns)

    def timings(self) -> StageTimings:
        """Return what was measured until now."""
        stages = {f"{name}_us": value for name, value in self._stages_us.items()}
        return StageTimings(queue_us=self._queue_us, total_us=self._since(self._start_ns), **stages)

    @staticmethod
    def _since(start_ns: int) -> int:
        return (time.perf_counter_ns() - start_ns) // 1000
