from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from shitu_server.admission import Admission, Line, patiently
from shitu_server.errors import DeadlineExceededError, OverloadedError


def test_over_the_limit_is_refused_with_a_retry_hint():
    admission = Admission("pictures", limit=2)
    with admission.admit(), admission.admit():
        with (
            pytest.raises(OverloadedError, match="busy: 2 pictures in flight, the limit is 2") as caught,
            admission.admit(),
        ):
            pass
        assert caught.value.retry_after_s == pytest.approx(0.1)
    admission.check()


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


async def test_what_would_not_be_done_in_time_is_refused_at_once_and_told_when_to_come_back():
    admission = Admission("pictures", limit=100)

    async def work(seconds: float) -> None:
        with admission.admit(time.monotonic() + 10):
            await asyncio.sleep(seconds)

    await asyncio.gather(*(work(0.05 * number) for number in range(1, 9)))  # 50 ms each, one after the other
    running = [asyncio.create_task(work(0.3)) for _ in range(8)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match=r"this takes about 0\.[45]. s, and 0\.[12]. s are left") as caught:
        admission.admit(time.monotonic() + 0.2).__enter__()
    assert caught.value.retry_after_s == pytest.approx(0.4, rel=0.3)
    with admission.admit(time.monotonic() + 1), admission.admit(None):
        pass
    await asyncio.gather(*running)


async def test_one_is_always_tried_so_that_a_slow_moment_is_forgotten():
    admission = Admission("pictures", limit=100)
    with contextlib.suppress(DeadlineExceededError), admission.admit(time.monotonic() + 0.1):
        await asyncio.sleep(0.1)
        raise DeadlineExceededError("late")
    with admission.admit(time.monotonic() + 0.01), pytest.raises(OverloadedError):
        admission.admit(time.monotonic() + 0.01).__enter__()
    for _ in range(60):
        with admission.admit(time.monotonic() + 0.01):
            pass
    with admission.admit(time.monotonic() + 0.01), admission.admit(time.monotonic() + 0.01):
        pass


def test_what_fails_at_once_says_nothing_of_how_long_work_takes():
    admission = Admission("pictures", limit=100)
    with admission.admit():
        time.sleep(0.05)
    for _ in range(50):
        with pytest.raises(ValueError, match="bad"), admission.admit():
            raise ValueError("bad")
        with pytest.raises(asyncio.CancelledError), admission.admit():
            raise asyncio.CancelledError
    with admission.admit(), pytest.raises(OverloadedError):
        admission.admit(time.monotonic() + 0.05).__enter__()


async def worked(line: Line, seconds: float, deadline_s: float | None = None) -> None:
    async with line.turn(deadline_s):
        await asyncio.sleep(seconds)


async def test_a_line_is_worked_on_in_order_so_many_at_a_time():
    line, at_work, most, order = Line(Admission("pictures", limit=20), 3), 0, 0, []

    async def one(number: int) -> None:
        nonlocal at_work, most
        async with line.turn(None):
            order.append(number)
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0.01)
            at_work -= 1

    await asyncio.gather(*map(one, range(20)))
    assert order == list(range(20))
    assert most == 3


async def test_what_the_line_has_kept_too_long_is_not_begun():
    line = Line(Admission("pictures", limit=20), 1)
    await worked(line, 0.2)
    first = asyncio.create_task(worked(line, 0.35))
    await asyncio.sleep(0.01)
    start_s = time.monotonic()
    with pytest.raises(OverloadedError, match=r"the work takes about 0\.[12]. s, and 0\.[01]. s are left"):
        await worked(line, 1.0, start_s + 0.42)
    assert time.monotonic() - start_s < 0.42
    await first
    for _ in range(40):  # it is forgotten that work took so long: nothing shorter could be seen otherwise
        with contextlib.suppress(OverloadedError):
            await worked(line, 0.001, time.monotonic() + 0.05)
    await worked(line, 0.001, time.monotonic() + 0.05)
