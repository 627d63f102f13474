from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from shitu_server.admission import Admission, patiently
from shitu_server.errors import DeadlineExceededError, OverloadedError


def test_over_the_limit_is_refused_with_a_retry_hint():
    admission = Admission("pictures", limit=2)
    with admission.admit(), admission.admit():
        with (
            pytest.raises(OverloadedError, match="busy: 2 pictures in flight, the limit is 2") as caught,
            admission.admit(),
        ):
            pass
        assert caught.value.retry_after_s == pytest.approx(0.2)
    with admission.admit():
        pass


def test_places_are_given_back_when_the_work_fails():
    admission = Admission("pictures", limit=1)
    with pytest.raises(ValueError, match="boom"), admission.admit():
        raise ValueError("boom")
    assert admission.in_flight == 0


async def test_a_large_request_gets_in_when_there_is_room_at_all():
    admission = Admission("crops", limit=4)
    async with admission.room(3, None), admission.room(100, None):
        assert admission.in_flight == 103


async def test_waiting_is_in_line_and_ends_when_there_is_room():
    admission = Admission("crops", limit=2)
    order: list[int] = []

    async def work(number: int) -> None:
        async with admission.room(2, None):
            order.append(number)
            assert admission.in_flight == 2
            await asyncio.sleep(0.01)

    await asyncio.gather(*(work(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]
    assert admission.in_flight == 0


async def test_waiting_ends_at_the_deadline_and_leaves_the_line():
    admission = Admission("crops", limit=1)
    async with admission.room(1, None):
        with pytest.raises(DeadlineExceededError):
            async with admission.room(1, time.monotonic() + 0.05):
                pytest.fail("there was no room")
    async with admission.room(1, time.monotonic() + 1):
        assert admission.in_flight == 1
    assert admission.in_flight == 0


async def test_a_cancelled_waiter_holds_nothing():
    admission = Admission("crops", limit=1)

    async def wait() -> None:
        async with admission.room(5, None):
            await asyncio.sleep(10)

    async with admission.room(1, None):
        waiting = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
    # Granted and cancelled in the same turn of the loop.
    waiting[1].cancel()
    await asyncio.gather(waiting[1], return_exceptions=True)
    await asyncio.sleep(0.01)
    assert admission.in_flight == 5
    waiting[2].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting[2]
    assert admission.in_flight == 0


@pytest.mark.parametrize("left_s", [None, 30.0])
async def test_who_is_cancelled_when_granted_does_no_work(left_s: float | None):
    """As where a client goes that had several requests in flight: one gives its place to the next, which is cancelled too."""
    admission = Admission("crops", limit=2)
    deadline_s = None if left_s is None else time.monotonic() + left_s
    worked: list[int] = []

    async def work(number: int) -> None:
        async with admission.room(1, deadline_s):
            await asyncio.sleep(0.05)
            worked.append(number)

    tasks = [asyncio.create_task(work(number)) for number in range(6)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in outcomes] == [asyncio.CancelledError] * 6
    assert (worked, admission.in_flight, admission.waiting) == ([], 0, 0)


async def test_who_comes_after_the_deadline_is_refused_and_leaves_the_line():
    admission = Admission("crops", limit=1)
    async with admission.room(1, None):
        with pytest.raises(DeadlineExceededError, match="the deadline passed while crops were waiting for room"):
            async with admission.room(1, time.monotonic() - 1):
                pytest.fail("there was no room")
        assert admission.waiting == 0
    assert admission.in_flight == 0


async def test_patience_waits_for_a_place():
    tries = 0

    async def work() -> str:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OverloadedError("busy", 0.01)
        return "done"

    assert await patiently(work, time.monotonic() + 5) == "done"
    assert tries == 4


async def test_patience_ends_at_the_deadline():
    async def work() -> None:
        raise OverloadedError("busy", 0.02)

    start = time.monotonic()
    with pytest.raises(OverloadedError):
        await patiently(work, start + 0.1)
    assert time.monotonic() - start < 0.5  # the clock of a busy machine is coarse
