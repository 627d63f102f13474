"""Queries of several calls are searched together: one sgemm over 16 costs little more than one over a single query."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import numpy as np

from shitu_server.errors import DeadlineExceededError, OverloadedError, UnavailableError
from shitu_server.types import Vectors

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

RETRY_AFTER_S: Final = 0.1
"""A full queue is searched in about this time."""


@dataclass
class _Call(Generic[R]):
    queries: Vectors
    deadline_s: float | None
    future: asyncio.Future[Sequence[R]]
    begin_s: float = field(default_factory=time.monotonic)


class QueryBatcher(Generic[K, R]):
    """Collects calls of the same key until the oldest has waited long enough or a batch is full.

    While a batch is searched, calls gather for the next one, so batches grow with the load by themselves.
    """

    def __init__(
        self,
        search: Callable[[K, Vectors], Sequence[R]],
        executor: Executor,
        *,
        delay_s: float,
        batch_queries: int,
        queue_queries: int,
    ) -> None:
        """Start with a running event loop.

        Args:
            search: one result for each row of float32 [n, dimension]; called in the executor.
            executor: of as many threads as searches shall run side by side; batches go there one after another.
            delay_s: how long a query waits for others.
            batch_queries: a batch is full with so many; a call is never split, so one with more is a batch of its own.
            queue_queries: queries that may wait.
        """
        self._search = search
        self._executor = executor
        self._delay_s = delay_s
        self._batch_queries = batch_queries
        self._queue_queries = queue_queries
        self._waiting: dict[K, list[_Call[R]]] = {}
        self._waiting_queries = 0
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def submit(self, key: K, queries: Vectors, deadline_s: float | None) -> Sequence[R]:
        """Return one result for each query.

        Args:
            key: queries of the same key are searched together.
            queries: float32 [n, dimension].
            deadline_s: time of `time.monotonic()` after which the result is of no use.

        Raises:
            OverloadedError: too many queries wait.
            DeadlineExceededError: the deadline passed before the search began.
            UnavailableError: closing.
        """
        if self._task.done():
            raise UnavailableError("the gallery is closing")
        if self._waiting_queries + len(queries) > self._queue_queries:
            raise OverloadedError(f"{self._waiting_queries} queries wait already", RETRY_AFTER_S)
        call = _Call[R](queries, deadline_s, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(key, []).append(call)
        self._waiting_queries += len(queries)
        self._changed.set()
        return await call.future

    async def close(self) -> None:
        """Stop; calls that still wait get UnavailableError."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        for call in (call for calls in self._waiting.values() for call in calls):
            _fail(call, UnavailableError("the gallery is closing"))
        self._waiting.clear()

    async def _run(self) -> None:
        while True:
            key = await self._next_due()
            calls = self._take(key)
            if calls:
                await self._answer(key, calls)

    async def _next_due(self) -> K:
        """Wait until a batch should be searched; return its key. The one that waits longest comes first."""
        while True:
            self._changed.clear()
            oldest = min(self._waiting, key=lambda key: self._waiting[key][0].begin_s, default=None)
            if oldest is None:
                await self._changed.wait()
                continue
            if sum(len(call.queries) for call in self._waiting[oldest]) >= self._batch_queries:
                return oldest
            rest_s = self._waiting[oldest][0].begin_s + self._delay_s - time.monotonic()
            if rest_s <= 0:
                return oldest
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), rest_s)

    def _take(self, key: K) -> list[_Call[R]]:
        """Take a batch of calls whose result someone still wants."""
        waiting = self._waiting.pop(key)
        taken: list[_Call[R]] = []
        room = self._batch_queries
        while waiting and (not taken or len(waiting[0].queries) <= room):
            call = waiting.pop(0)
            self._waiting_queries -= len(call.queries)
            if call.deadline_s is not None and call.deadline_s <= time.monotonic():
                _fail(call, DeadlineExceededError("the deadline passed before the search began"))
            elif not call.future.done():
                taken.append(call)
                room -= len(call.queries)
        if waiting:
            self._waiting[key] = waiting
        return taken

    async def _answer(self, key: K, calls: list[_Call[R]]) -> None:
        try:
            queries = np.concatenate([call.queries for call in calls])
            results = await asyncio.get_running_loop().run_in_executor(self._executor, self._search, key, queries)
        except asyncio.CancelledError:
            for call in calls:
                _fail(call, UnavailableError("the gallery is closing"))
            raise
        except Exception as error:  # noqa: BLE001  # each caller gets it
            for call in calls:
                _fail(call, error)
            return
        begin = 0
        for call in calls:
            end = begin + len(call.queries)
            if not call.future.done():
                call.future.set_result(results[begin:end])
            begin = end


def _fail(call: _Call[R], error: Exception) -> None:
    if not call.future.done():
        call.future.set_exception(error)
