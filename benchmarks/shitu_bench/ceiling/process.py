"""The process that runs models alone, warm and idle until it is asked: `python -m shitu_bench.ceiling.process FD`.

It is not the server's, so that neither disturbs the other, and not the one that asks, so that its threads and memory are its own. FD is
its end of a socket pair to `ceiling_models`, which starts it and nothing else does.
"""

from __future__ import annotations

import itertools
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_bench.ceiling.models import CeilingModel, Slice, SliceOutcome
from shitu_bench.models.sessions import opened
from shitu_bench.serving.batches import Batch, Work
from shitu_models.specs import PIXELS

_VARIANTS: Final = 3
"""Different batches of a size."""


class _Model:
    """A session, and batches of pixels that are made before any time is taken."""

    def __init__(self, model: CeilingModel) -> None:
        self._session = opened(model.weights, model.plan)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._pixels: NDArray[np.uint8] = np.load(model.pixels)
        self._batches: dict[int, list[NDArray[np.uint8]]] = {}

    def prepare(self, size: int) -> None:
        """Make the batches of a size, and run one: what is allocated for a size is allocated once."""
        if size not in self._batches:
            places = [np.arange(size) + variant * size for variant in range(_VARIANTS)]
            self._batches[size] = [self._pixels[place % len(self._pixels)] for place in places]
            self.run(size, 0)

    def run(self, size: int, turn: int) -> None:
        """Run a batch."""
        self._session.run(self._outputs, {PIXELS: self._batches[size][turn % _VARIANTS]})


def _run_slice(models: dict[str, _Model], wanted: Slice) -> SliceOutcome:
    for batch in set(wanted.batches):
        models[batch.model].prepare(batch.size)
    turns = _Turns(wanted.batches)
    begin_cpu_s, begin_s = _cpu_s(), time.perf_counter()
    callers = [_Caller(models, turns, begin_s + wanted.duration_s) for _ in range(wanted.callers)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for caller in callers:
        if caller.fault is not None:
            raise caller.fault
    cpu_s = _cpu_s() - begin_cpu_s
    return SliceOutcome(_added(callers, list(models)), time.perf_counter() - begin_s, cpu_s)


class _Turns:
    """Batches in turn, for several callers; over and over, and each model at least once."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._turns: Iterator[tuple[int, Batch]] = enumerate(itertools.cycle(batches))
        self._lock = threading.Lock()
        self._missing = {batch.model for batch in batches}

    def next(self, *, late: bool) -> tuple[int, Batch] | None:
        """Return the next one; none where it is late and all models had theirs."""
        with self._lock:
            if late and not self._missing:
                return None
            turn, batch = next(self._turns)
            self._missing.discard(batch.model)
            return turn, batch


class _Caller(threading.Thread):
    """Runs one batch after another."""

    def __init__(self, models: dict[str, _Model], turns: _Turns, end_s: float) -> None:
        super().__init__(daemon=True)
        self._models = models
        self._turns = turns
        self._end_s = end_s
        self.items = dict.fromkeys(models, 0)
        self.busy_s = dict.fromkeys(models, 0.0)
        self.fault: Exception | None = None

    def run(self) -> None:
        """See `threading.Thread`."""
        try:
            while (turn := self._turns.next(late=time.perf_counter() >= self._end_s)) is not None:
                number, batch = turn
                begin_s = time.perf_counter()
                self._models[batch.model].run(batch.size, number)
                self.busy_s[batch.model] += time.perf_counter() - begin_s
                self.items[batch.model] += batch.size
        except Exception as error:  # noqa: BLE001  # raised by the thread that waits for this one
            self.fault = error


def _added(callers: Sequence[_Caller], names: Sequence[str]) -> dict[str, Work]:
    totals = {
        name: Work(sum(one.items[name] for one in callers), sum(one.busy_s[name] for one in callers)) for name in names
    }
    return {name: work for name, work in totals.items() if work.item_count}


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Open the models that come first, then run the slices that are asked for, until nobody asks any more."""
    connection = Connection(int(sys.argv[1]))
    wanted: Sequence[CeilingModel] = connection.recv()
    models = {model.name: _Model(model) for model in wanted}
    connection.send(None)
    while True:
        try:
            connection.send(_run_slice(models, connection.recv()))
        except EOFError:
            return


if __name__ == "__main__":
    main()
