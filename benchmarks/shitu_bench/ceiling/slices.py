"""A server under load for some time, and what its parts and its Triton did meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shitu_bench.errors import BenchError
from shitu_bench.load.engine import run_load
from shitu_bench.load.plans import LoadOutcome, LoadPlan, LoadRequest
from shitu_bench.serving.batches import Executions, steady_rate
from shitu_bench.serving.processes import spent
from shitu_bench.serving.server import BenchServer
from shitu_bench.serving.triton import BenchTriton

_OK: Final = "OK"
_LOOKS: Final = 100
"""At Triton's counts, in a slice; each costs about a millisecond of its CPU."""
_LONGEST_LOOK_S: Final = 0.5


@dataclass(frozen=True)
class ServerSlice:
    """What came of load."""

    outcome: LoadOutcome
    executed: Mapping[str, Executions]
    """Of the detector, then of the encoder."""
    cpu_s: Mapping[str, float]
    """CPU time by part of the server."""
    rate_per_s: float
    """Pictures a second. All calls succeeded, and each picture's crops are embedded in one request: so it is counted where batches end."""

    @property
    def objects_per_picture(self) -> float:
        """Of OK answers."""
        return _objects_per_picture(self.outcome)


def _objects_per_picture(outcome: LoadOutcome) -> float:
    return outcome.object_count / outcome.codes[_OK]


class LoadedServer:
    """A server, what is sent to it, and its Triton."""

    def __init__(
        self, server: BenchServer, requests: Sequence[LoadRequest], triton: BenchTriton, models: tuple[str, str]
    ) -> None:
        self._server = server
        self._requests = requests
        self._triton = triton
        self._models = models

    def counted(self, plan: LoadPlan) -> ServerSlice:
        """Send load without a warm-up, so that all of it counts, and check that the models ran what was answered, no more nor less.

        Raises:
            BenchError: they did not, or a call failed.
        """
        slice_ = self._sent(plan)
        detector, encoder = slice_.executed.values()
        pictures, objects = slice_.outcome.codes[_OK], slice_.outcome.object_count
        if (detector.item_count, encoder.item_count) != (pictures, objects):
            raise BenchError(
                f"{pictures} pictures with {objects} objects were answered, but the detector ran {detector.item_count} pictures "
                f"and the encoder {encoder.item_count} crops; does something else use this server?"
            )
        return slice_

    def measured(self, plan: LoadPlan) -> ServerSlice:
        """Send load, and return what happened between the end of its warm-up and its end.

        Raises:
            BenchError: a call failed, or the models ran another number of items than what was in flight at the edges explains.
        """
        watch = _Watch(self, min(_LONGEST_LOOK_S, plan.duration_s / _LOOKS))
        try:
            outcome = run_load(self._server.address, self._requests, plan, observer=watch)
        finally:
            watch.stop()
        self._check_all_answered(outcome)
        slice_ = ServerSlice(
            outcome, watch.executed(), watch.cpu_s(), watch.items_per_s() / _objects_per_picture(outcome)
        )
        detector, encoder = slice_.executed.values()
        apart = abs(detector.item_count - outcome.codes[_OK])
        crops_apart = abs(encoder.item_count - detector.item_count * slice_.objects_per_picture)
        if apart > plan.concurrency or crops_apart > 2 * plan.concurrency * slice_.objects_per_picture:
            raise BenchError(
                f"{outcome.codes[_OK]} pictures were answered, but the detector ran {detector.item_count} pictures and the encoder "
                f"{encoder.item_count} crops: more apart than the {plan.concurrency} in flight explain"
            )
        return slice_

    def _sent(self, plan: LoadPlan) -> ServerSlice:
        before, cpu_before, begin_s = self.executions(), self.cpu_s(), time.monotonic()
        outcome = run_load(self._server.address, self._requests, plan)
        after, cpu_after, end_s = self.executions(), self.cpu_s(), time.monotonic()
        self._check_all_answered(outcome)
        executed = {name: after[name].since(before[name]) for name in self._models}
        return ServerSlice(outcome, executed, spent(cpu_before, cpu_after), outcome.codes[_OK] / (end_s - begin_s))

    def _check_all_answered(self, outcome: LoadOutcome) -> None:
        if set(outcome.codes) != {_OK}:
            raise BenchError(
                f"expected that all calls succeed, got {dict(outcome.codes)}; the server's log: {self._server.log}"
            )

    def executions(self) -> dict[str, Executions]:
        """Return what Triton ran until now."""
        ran = self._triton.executions()
        return {name: ran[name] for name in self._models}

    def embedded_count(self) -> int:
        """Return how many crops the encoder ran until now."""
        encoder = self._models[1]
        return self._triton.executions(encoder)[encoder].item_count

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU time of the server's parts until now."""
        return self._server.processes.cpu_s()


class _Watch:
    """Looks at a server at both ends of what counts, and at what its encoder ran between; an Observer."""

    def __init__(self, server: LoadedServer, interval_s: float) -> None:
        self._server = server
        self._interval_s = interval_s
        self._executions: list[dict[str, Executions]] = []
        self._cpu: list[dict[str, float]] = []
        self._samples: list[tuple[float, int]] = []
        self._fault: BenchError | None = None
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def begin(self) -> None:
        """See `Observer`."""
        self._look()
        self._sampler.start()

    def end(self) -> None:
        """See `Observer`."""
        self.stop()
        self._look()

    def stop(self) -> None:
        """Look no more. May be called twice."""
        self._ended.set()
        if self._sampler.is_alive():
            self._sampler.join()

    def _look(self) -> None:
        self._executions.append(self._server.executions())
        self._cpu.append(self._server.cpu_s())

    def _sample(self) -> None:
        try:
            while not self._ended.wait(self._interval_s):
                self._samples.append((time.monotonic(), self._server.embedded_count()))
        except BenchError as error:
            self._fault = error  # raised where the samples are wanted

    def items_per_s(self) -> float:
        """Return the crops a second. Raises BenchError where fewer than two batches ended, or Triton did not answer once."""
        if self._fault is not None:
            raise self._fault
        try:
            return steady_rate(self._samples)
        except ValueError as error:
            raise BenchError(
                f"a slice was too short for the encoder ({error}); give it longer with --slice-s"
            ) from error

    def executed(self) -> dict[str, Executions]:
        """Return what was run between."""
        before, after = self._executions
        return {name: after[name].since(before[name]) for name in after}

    def cpu_s(self) -> dict[str, float]:
        """Return what was spent between."""
        before, after = self._cpu
        return spent(before, after)
