"""A generator process: `python -m shitu_bench.load.generator FD`, where FD is its end of a socket pair to the engine.

It receives a task, says that it is connected, receives when to begin, says now and then how far it is, and at last what it counted.
The engine and nothing else starts it.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import sys
import time
from collections.abc import Coroutine
from multiprocessing.connection import Connection
from typing import Any, Final

from shitu_bench.errors import BenchError
from shitu_bench.load.arrivals import poisson_arrivals
from shitu_bench.load.callers import Callers, cpu_s
from shitu_bench.load.messages import Failed, GeneratorTask, Progressed, Ready
from shitu_bench.load.plans import LoadPlan
from shitu_bench.load.tallies import Tally

_PROGRESS_INTERVAL_S: Final = 0.5
_GRACE_S: Final = 1.0
"""Beyond the deadline, how long calls may take to end."""
_GARBAGE_THRESHOLDS: Final = (50_000, 20, 100)
"""Python's own, 700, would look through everything for every few calls."""


class Generator:
    """Sends what one task says, from a moment that all processes share. Times are of `time.monotonic()`."""

    def __init__(self, task: GeneratorTask, callers: Callers, begin_s: float) -> None:
        self._plan = task.plan
        self._number = task.number
        self._callers = callers
        self._begin_s = begin_s
        self._counts_from_s = begin_s + task.plan.warm_up_s
        self._end_s = self._counts_from_s + task.plan.duration_s
        self._calls: set[asyncio.Future[None]] = set()
        self._cpu_s = 0.0
        self._fault: BaseException | None = None

    async def run(self) -> None:
        """Send until the end, then wait for what is in flight."""
        loop = asyncio.get_running_loop()
        loop.call_at(self._counts_from_s, self._mark_begin)
        sending = self._send_openly() if self._plan.is_open else self._send_in_loops()
        await sending
        self._callers.tally.cpu_s = cpu_s() - self._cpu_s
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._plan.deadline_s + _GRACE_S)
        if self._fault is not None:
            raise self._fault

    def _hold(self, work: Coroutine[Any, Any, None]) -> None:
        call = asyncio.ensure_future(work)
        self._calls.add(call)
        call.add_done_callback(self._let_go)

    def _let_go(self, call: asyncio.Future[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            self._fault = self._fault or call.exception()

    def _mark_begin(self) -> None:
        self._cpu_s = cpu_s()

    async def _send_openly(self) -> None:
        plan = self._plan
        assert plan.rate_per_s is not None
        seed = (plan.seed, self._number)
        due_times = poisson_arrivals(plan.rate_per_s, plan.warm_up_s + plan.duration_s, seed)
        tally = self._callers.tally
        tally.due_count = int((due_times >= plan.warm_up_s).sum())
        for offset_s in due_times.tolist():
            due_s = self._begin_s + offset_s
            # Also where it is late already: others must get their turn.
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            self._start(due_s)
        await asyncio.sleep(max(0.0, self._end_s - time.monotonic()))

    def _start(self, due_s: float) -> None:
        callers, counts = self._callers, due_s >= self._counts_from_s
        if callers.in_flight >= self._plan.most_in_flight:
            callers.tally.unsent_count += counts
            return
        if counts:
            callers.tally.late_s.append(time.monotonic() - due_s)
        self._hold(callers.call(due_s, time.monotonic, counts=counts))

    async def _send_in_loops(self) -> None:
        await asyncio.sleep(max(0.0, self._begin_s - time.monotonic()))
        for _ in range(self._plan.concurrency):
            self._hold(self._loop())
        await asyncio.sleep(max(0.0, self._end_s - time.monotonic()))

    async def _loop(self) -> None:
        while (now_s := time.monotonic()) < self._end_s:
            counts = now_s >= self._counts_from_s
            self._callers.tally.due_count += counts
            await self._callers.call(now_s, time.monotonic, counts=counts)


async def _work(task: GeneratorTask, engine: Connection) -> Tally:
    plan = task.plan
    callers = Callers(task.address, task.requests, plan.connections, plan.deadline_s)
    callers.shuffle((plan.seed, task.number, 1))
    try:
        await callers.connect()
        engine.send(Ready())
        generator = Generator(task, callers, await asyncio.to_thread(engine.recv))
        work = [asyncio.ensure_future(generator.run()), asyncio.ensure_future(_tell(callers, engine))]
        # Telling ends first where the engine is gone: then nobody needs the load.
        done, left = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for one in done:
            one.result()
    finally:
        await callers.close()
    return callers.finished()


async def _tell(callers: Callers, engine: Connection) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_INTERVAL_S)
        engine.send(Progressed(callers.answered_count, callers.failed_count))


def _event_loop(plan: LoadPlan) -> asyncio.AbstractEventLoop:
    # epoll wakes up to a millisecond late, which an open loop would count as latency; select does not.
    return asyncio.SelectorEventLoop(selectors.SelectSelector() if plan.is_open else None)


def main() -> None:
    """Do the engine's task."""
    engine = Connection(int(sys.argv[1]))
    task: GeneratorTask = engine.recv()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    loop = _event_loop(task.plan)
    asyncio.set_event_loop(loop)
    try:
        engine.send(loop.run_until_complete(_work(task, engine)))
    except BenchError as error:
        engine.send(Failed(str(error)))


if __name__ == "__main__":
    main()
