from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from shitu_server.errors import DeadlineExceededError, OverloadedError
from shitu_server.line import Line


async def worked(line: Line, seconds: float, left_s: float | None = None) -> None:
    deadline_s = None if left_s is None else time.monotonic() + left_s
    with line.admit(deadline_s):
        async with line.turn(deadline_s):
            await asyncio.sleep(seconds)


async def begun(line: Line, *seconds: float) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(worked(line, one)) for one in seconds]
    await asyncio.sleep(0.01)
    return tasks


async def test_it_is_worked_on_in_order_so_many_at_a_time():
    line, at_work, most, order = Line(20, 3), 0, 0, []

    async def one(number: int) -> None:
        nonlocal at_work, most
        with line.admit(None):
            async with line.turn(None):
                order.append(number)
                at_work += 1
                most = max(most, at_work)
                await asyncio.sleep(0.01)
                at_work -= 1

    await asyncio.gather(*map(one, range(20)))
    assert order == list(range(20))
    assert most == 3
    assert line.in_flight == 0


async def test_over_the_limit_is_refused_at_once_and_told_how_long_the_line_is():
    line = Line(4, 2)
    await worked(line, 0.4)
    tasks = await begun(line, 0.4, 0.4, 0.4, 0.4)
    with pytest.raises(OverloadedError, match="4 pictures in flight, the limit is 4") as caught:
        await worked(line, 0.0)
    assert caught.value.retry_after_s == pytest.approx(0.6, rel=0.1)  # two in line and itself, two at a time
    await asyncio.gather(*tasks)


async def test_what_the_line_is_too_long_for_is_refused_at_once():
    line = Line(20, 1)
    await worked(line, 0.1)
    tasks = await begun(line, *[0.1] * 5)
    start_s = time.monotonic()
    with pytest.raises(OverloadedError, match=r"4 pictures stand in line, this takes about 0\.[67]. s, and 0\.[34]. s"):
        await worked(line, 0.1, 0.4)
    assert time.monotonic() - start_s < 0.05
    await asyncio.gather(*tasks, worked(line, 0.1, 1.5))


async def test_while_a_place_is_free_nothing_is_refused_for_its_time():
    line = Line(20, 4)
    await worked(line, 0.1)
    tasks = await begun(line, 0.3, 0.3, 0.3)
    await worked(line, 0.01, 0.05)
    await asyncio.gather(*tasks)


async def test_an_idle_server_refuses_nothing_after_a_slow_moment():
    line = Line(20, 1)
    await worked(line, 0.3)
    for _ in range(3):
        await worked(line, 0.001, 0.05)


async def test_what_the_line_has_kept_too_long_is_not_begun():
    line = Line(20, 1)
    await worked(line, 0.2)
    first = await begun(line, 0.5)  # longer than thought
    with pytest.raises(OverloadedError, match=r"this takes about 0\.2. s, and 0\.[01]. s are left"):
        await worked(line, 1.0, 0.6)
    await asyncio.gather(*first)


async def test_work_that_is_always_cut_off_tells_how_long_work_takes_at_least():
    line = Line(20, 1)

    async def cut_off() -> None:
        with line.admit(None):
            async with line.turn(None):
                await asyncio.sleep(0.1)
                raise DeadlineExceededError("late")

    await asyncio.gather(*(cut_off() for _ in range(3)), return_exceptions=True)
    tasks = await begun(line, 0.1, 0.1)
    with pytest.raises(OverloadedError):
        await worked(line, 0.1, 0.15)
    await asyncio.gather(*tasks)


async def test_what_fails_or_is_given_up_at_once_tells_nothing():
    line = Line(20, 1)
    await worked(line, 0.1)
    for error in (ValueError("bad"), asyncio.CancelledError()):
        for _ in range(30):
            with contextlib.suppress(type(error)), line.admit(None):
                async with line.turn(None):
                    raise error
    tasks = await begun(line, 0.1, 0.1)
    with pytest.raises(OverloadedError):
        await worked(line, 0.1, 0.15)
    await asyncio.gather(*tasks)


async def test_what_has_expired_is_said_to_be_late_and_not_busy():
    line = Line(20, 1)
    with pytest.raises(DeadlineExceededError):
        await worked(line, 0.1, -0.1)
    assert line.in_flight == 0


async def test_a_turn_that_does_not_come_in_time_is_left():
    line = Line(20, 1)
    tasks = await begun(line, 0.3)
    with pytest.raises(DeadlineExceededError):
        await worked(line, 0.1, 0.1)
    await asyncio.gather(*tasks)
    await worked(line, 0.0, 0.1)
    assert line.in_flight == 0
