"""Models alone in ONNX Runtime, in a process that stays warm: what a server of theirs could reach at most."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Final

from typing_extensions import Self

from shitu_bench.errors import BenchError
from shitu_bench.isolated import bound_command
from shitu_bench.models.sessions import SessionPlan
from shitu_bench.serving.batches import Batch, Work

_OPEN_TIMEOUT_S: Final = 300.0
_SLOWEST_BATCH_S: Final = 300.0
"""Beyond the duration of a slice: the last batch, and one of each size before."""


@dataclass(frozen=True)
class CeilingModel:
    """A model to run."""

    name: str
    weights: Path
    plan: SessionPlan
    pixels: Path
    """A .npy file, uint8 [n, S, S, 3]: what its batches are made of."""


@dataclass(frozen=True)
class Slice:
    """What is run for some time."""

    batches: Sequence[Batch]
    """Over and over; of each model at least one is run."""
    duration_s: float
    callers: int
    """Threads, each with one batch at a time."""


@dataclass(frozen=True)
class SliceOutcome:
    """What was run."""

    done: Mapping[str, Work]
    """Of each model that had a batch."""
    duration_s: float
    cpu_s: float


class CeilingModels:
    """The process, while entered. It does nothing between slices."""

    def __init__(self, models: Sequence[CeilingModel]) -> None:
        self._models = tuple(models)

    def __enter__(self) -> Self:
        self._connection, its_end = Pipe()
        with its_end:
            self._process = subprocess.Popen(
                bound_command(sys.executable, "-m", "shitu_bench.ceiling.process", str(its_end.fileno())),
                pass_fds=[its_end.fileno()],
                stdin=subprocess.DEVNULL,
            )
        try:
            self._connection.send(self._models)
            self._received(_OPEN_TIMEOUT_S)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, wanted: Slice) -> SliceOutcome:
        """Run a slice. Raises BenchError where the process dies or takes far too long."""
        self._connection.send(wanted)
        outcome = self._received(wanted.duration_s + _SLOWEST_BATCH_S)
        assert isinstance(outcome, SliceOutcome)
        return outcome

    def _received(self, timeout_s: float) -> object:
        try:
            if not self._connection.poll(timeout_s):
                raise BenchError(f"the process with the models did not answer within {timeout_s:g} s")
            message: object = self._connection.recv()
        except (EOFError, OSError) as error:
            raise BenchError("the process with the models ended; it said why above") from error
        return message

    def _stop(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
