from __future__ import annotations

import asyncio
import time

import pytest

from shitu_server.errors import DeadlineExceededError
from shitu_server.gallery.holds import WriteHolds


async def test_what_is_not_held_passes_at_once():
    holds = WriteHolds()
    holds.hold("tea", 5)
    await asyncio.wait_for(holds.passed("drinks", None), 0.1)


async def test_what_is_held_waits_for_the_end_of_the_hold():
    holds = WriteHolds()
    holds.hold("drinks", 5)
    waiting = [asyncio.ensure_future(holds.passed("drinks", None)) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    holds.end("drinks")
    await asyncio.wait_for(asyncio.gather(*waiting), 0.5)
    holds.end("drinks")  # it is over already


async def test_a_hold_is_over_in_time_and_can_be_made_longer():
    holds = WriteHolds()
    begin_s = time.monotonic()
    holds.hold("drinks", 0.1)
    holds.hold("drinks", 0.3)
    await asyncio.wait_for(holds.passed("drinks", None), 2)
    assert 0.25 < time.monotonic() - begin_s < 1


async def test_who_has_no_time_is_told():
    holds = WriteHolds()
    holds.hold("drinks", 5)
    with pytest.raises(DeadlineExceededError):
        await holds.passed("drinks", time.monotonic() + 0.05)
