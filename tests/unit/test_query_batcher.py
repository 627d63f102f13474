from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from shitu_server.errors import DeadlineExceededError, OverloadedError, StorageError, UnavailableError
from shitu_server.gallery.batcher import QueryBatcher


class Recorder:
    """Answers each query with its first number; remembers the batches, and waits while it is held."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []
        self.free = threading.Event()
        self.free.set()

    def search(self, key: str, queries: np.ndarray) -> list[float]:
        self.batches.append((key, len(queries)))
        assert self.free.wait(10)
        if key == "broken":
            raise StorageError("broken")
        return [float(query[0]) for query in queries]


def rows(*numbers: float) -> np.ndarray:
    return np.array([[number] for number in numbers], dtype=np.float32)


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
async def batcher(recorder: Recorder):
    executor = ThreadPoolExecutor(1)
    opened: QueryBatcher[str, float] = QueryBatcher(
        recorder.search, executor, delay_s=0.02, batch_queries=8, queue_queries=20
    )
    yield opened
    recorder.free.set()
    await opened.close()
    executor.shutdown()


async def test_calls_are_searched_together_and_answered_apart(batcher, recorder: Recorder):
    answers = await asyncio.gather(
        batcher.submit("a", rows(1, 2), None), batcher.submit("a", rows(3), None), batcher.submit("b", rows(4), None)
    )
    assert [list(answer) for answer in answers] == [[1, 2], [3], [4]]
    assert sorted(recorder.batches) == [("a", 3), ("b", 1)]


async def test_full_batch_does_not_wait(recorder: Recorder):
    executor = ThreadPoolExecutor(1)
    batcher: QueryBatcher[str, float] = QueryBatcher(
        recorder.search, executor, delay_s=30, batch_queries=4, queue_queries=100
    )
    answers = await asyncio.wait_for(asyncio.gather(*(batcher.submit("a", rows(i, i), None) for i in range(4))), 10)
    assert [list(answer) for answer in answers] == [[i, i] for i in range(4)]
    assert recorder.batches == [("a", 4), ("a", 4)]
    await batcher.close()
    executor.shutdown()


async def test_call_over_the_batch_size_is_searched_alone(batcher, recorder: Recorder):
    await asyncio.gather(batcher.submit("a", rows(1), None), batcher.submit("a", rows(*range(12)), None))
    assert recorder.batches == [("a", 1), ("a", 12)]


async def test_calls_gather_while_a_batch_is_searched(batcher, recorder: Recorder):
    recorder.free.clear()
    first = asyncio.create_task(batcher.submit("a", rows(0), None))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(batcher.submit("a", rows(i), None)) for i in range(5)]
    await asyncio.sleep(0.05)
    recorder.free.set()
    await asyncio.gather(first, *others)
    assert recorder.batches == [("a", 1), ("a", 5)]


async def test_full_queue_is_refused_at_once(batcher, recorder: Recorder):
    recorder.free.clear()
    first = asyncio.create_task(batcher.submit("a", rows(0), None))
    await asyncio.sleep(0.05)
    waiting = asyncio.create_task(batcher.submit("a", rows(*range(18)), None))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as caught:
        await batcher.submit("a", rows(1, 2, 3), None)
    assert caught.value.retry_after_s > 0
    recorder.free.set()
    assert len(await waiting) == 18
    assert list(await batcher.submit("a", rows(1, 2, 3), None)) == [1, 2, 3]
    await first


async def test_late_and_cancelled_queries_are_not_searched(batcher, recorder: Recorder):
    recorder.free.clear()
    first = asyncio.create_task(batcher.submit("a", rows(0), None))
    await asyncio.sleep(0.05)
    late = asyncio.create_task(batcher.submit("a", rows(1), time.monotonic() + 0.01))
    cancelled = asyncio.create_task(batcher.submit("a", rows(2), None))
    last = asyncio.create_task(batcher.submit("a", rows(3), None))
    await asyncio.sleep(0.05)
    cancelled.cancel()
    recorder.free.set()
    assert list(await last) == [3]
    with pytest.raises(DeadlineExceededError):
        await late
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert recorder.batches == [("a", 1), ("a", 1)]
    await first


async def test_error_goes_to_its_batch_only(batcher):
    broken, fine = await asyncio.gather(
        batcher.submit("broken", rows(1), None), batcher.submit("a", rows(2), None), return_exceptions=True
    )
    assert isinstance(broken, StorageError)
    assert list(fine) == [2]


async def test_closing_answers_those_that_wait(recorder: Recorder):
    executor = ThreadPoolExecutor(1)
    batcher: QueryBatcher[str, float] = QueryBatcher(
        recorder.search, executor, delay_s=30, batch_queries=4, queue_queries=100
    )
    waiting = asyncio.create_task(batcher.submit("a", rows(1), None))
    await asyncio.sleep(0.01)
    await batcher.close()
    executor.shutdown()
    with pytest.raises(UnavailableError):
        await waiting
    with pytest.raises(UnavailableError):
        await batcher.submit("a", rows(1), None)
