"""Load from several processes, as one outcome."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Final

from typing_extensions import Self

from shitu_bench.errors import BenchError
from shitu_bench.load.messages import Failed, GeneratorTask, Progressed, Ready
from shitu_bench.load.plans import LoadOutcome, LoadPlan, LoadRequest, Observer, Progress
from shitu_bench.load.tallies import Tally, merged

_START_TIMEOUT_S: Final = 60.0
_BEGIN_DELAY_S: Final = 0.2
"""Between the message that says when to begin, and then."""
_LEFT_OVER_S: Final = 30.0
"""After the last call's deadline, how long a process may take to say what it counted."""
_POLL_S: Final = 0.25


def run_load(
    address: str,
    requests: Sequence[LoadRequest],
    plan: LoadPlan,
    progress: Progress | None = None,
    observer: Observer | None = None,
) -> LoadOutcome:
    """Send load to a server, and return what came of it; blocks for the plan's time and what is in flight then.

    Args:
        address: host:port.
        requests: sent in turn, in an order of each process' own.
        plan: how they are sent.
        progress: told how far it is.
        observer: told when that begins and ends which counts.

    Raises:
        BenchError: there is nothing to send, no connection, or a generator process died.
    """
    tasks = _tasks(address, requests, plan)
    with ExitStack() as stack:
        processes = [stack.enter_context(_GeneratorProcess(task)) for task in tasks]
        for process in processes:
            process.expect_ready()
        begin_s = time.monotonic() + _BEGIN_DELAY_S
        for process in processes:
            process.send(begin_s)
        run = _Run(processes, plan, begin_s, progress, observer)
        tallies = run.followed()
    return merged(tallies, plan.duration_s)


def _tasks(address: str, requests: Sequence[LoadRequest], plan: LoadPlan) -> list[GeneratorTask]:
    if not requests:
        raise BenchError("expected at least one request to send, got none")
    count = plan.processes if plan.is_open else min(plan.processes, plan.concurrency)
    if count < 1 or plan.connections < 1 or plan.duration_s <= 0:
        raise BenchError(f"processes, connections, concurrency and duration must be positive, got {plan}")
    if plan.rate_per_s is not None:
        if plan.rate_per_s <= 0:
            raise BenchError(f"the rate must be positive, got {plan.rate_per_s}")
        shares = [replace(plan, rate_per_s=plan.rate_per_s / count)] * count
    else:
        each, more = divmod(plan.concurrency, count)
        shares = [replace(plan, concurrency=each + (number < more)) for number in range(count)]
    return [GeneratorTask(address, requests, share, number) for number, share in enumerate(shares)]


class _GeneratorProcess:
    """One process of the generator, killed when it is left."""

    def __init__(self, task: GeneratorTask) -> None:
        self._task = task

    def __enter__(self) -> Self:
        self.connection, its_end = Pipe()
        with its_end:
            # A session of its own: Ctrl-C is the engine's business.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "shitu_bench.load.generator", str(its_end.fileno())],
                pass_fds=[its_end.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.send(self._task)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()
        self._process.kill()
        self._process.wait()

    def send(self, message: object) -> None:
        """Send a message.

        Raises:
            BenchError: the process is gone.
        """
        try:
            self.connection.send(message)
        except OSError as error:
            raise self._death() from error

    def received(self) -> object:
        """Return its next message.

        Raises:
            BenchError: it failed, or is gone.
        """
        try:
            message: object = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if isinstance(message, Failed):
            raise BenchError(message.message)
        return message

    def expect_ready(self) -> None:
        """Wait until its connections stand."""
        if not self.connection.poll(_START_TIMEOUT_S):
            raise BenchError(f"a generator process was not ready within {_START_TIMEOUT_S:g} s")
        assert isinstance(self.received(), Ready)

    def _death(self) -> BenchError:
        code = self._process.wait(_START_TIMEOUT_S)
        return BenchError(f"a generator process ended with status {code}; nothing was measured")


class _Run:
    """A run that goes on: follows what the processes say."""

    def __init__(
        self,
        processes: Sequence[_GeneratorProcess],
        plan: LoadPlan,
        begin_s: float,
        progress: Progress | None,
        observer: Observer | None,
    ) -> None:
        self._waiting: dict[Connection, _GeneratorProcess] = {process.connection: process for process in processes}
        self._begin_s = begin_s
        self._progress = progress
        self._so_far = dict.fromkeys(self._waiting, Progressed(0, 0))
        counts_from_s = begin_s + plan.warm_up_s
        marks = [] if observer is None else [observer.begin, observer.end]
        self._marks = list(zip([counts_from_s, counts_from_s + plan.duration_s], marks, strict=False))
        self._limit_s = counts_from_s + plan.duration_s + plan.deadline_s + _LEFT_OVER_S

    def followed(self) -> list[Tally]:
        """Return what each process counted."""
        tallies: list[Tally] = []
        while self._waiting:
            for connection in wait(list(self._waiting), self._patience_s()):
                assert isinstance(connection, Connection)
                message = self._waiting[connection].received()
                if isinstance(message, Tally):
                    tallies.append(message)
                    del self._waiting[connection]
                elif isinstance(message, Progressed):
                    self._so_far[connection] = message
            self._pass_marks()
            self._tell()
        return tallies

    def _patience_s(self) -> float:
        now_s = time.monotonic()
        if now_s > self._limit_s:
            raise BenchError("a generator process did not end in time; nothing was measured")
        next_mark_s = self._marks[0][0] - now_s if self._marks else _POLL_S
        return min(_POLL_S, max(0.0, next_mark_s))

    def _pass_marks(self) -> None:
        while self._marks and time.monotonic() >= self._marks[0][0]:
            _, tell = self._marks.pop(0)
            tell()

    def _tell(self) -> None:
        if self._progress is not None:
            states = self._so_far.values()
            answered, failed = sum(one.answered_count for one in states), sum(one.failed_count for one in states)
            self._progress(time.monotonic() - self._begin_s, answered, failed)
