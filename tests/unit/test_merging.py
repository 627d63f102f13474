from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from shitu_server.errors import DeadlineExceededError, InvalidArgumentError, StorageError, UnavailableError
from shitu_server.merging import Merger


class Calls:
    """Answers each number with its double; remembers what was called, and waits while it is held."""

    def __init__(self) -> None:
        self.made: list[tuple[str, list[int]]] = []
        self.deadlines: list[float | None] = []
        self.cancelled = 0
        self.free = asyncio.Event()
        self.free.set()

    async def call(self, key: str, items: Sequence[int], deadline_s: float | None) -> list[int]:
        self.made.append((key, list(items)))
        self.deadlines.append(deadline_s)
        try:
            await asyncio.wait_for(self.free.wait(), 10)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if key == "broken":
            raise StorageError("broken")
        if min(items) < 0:
            raise InvalidArgumentError("item", "negative")
        return [2 * item for item in items]

    def merger(self, most_size: int = 8, most_calls: int = 1) -> Merger[str, int, int]:
        return Merger(
            "somebody",
            self.call,
            most_size=lambda _: most_size,
            most_calls=most_calls,
            item_faults=InvalidArgumentError,
        )


@pytest.fixture
async def calls():
    return Calls()


async def held(calls: Calls, merger: Merger[str, int, int]) -> asyncio.Task[int]:
    """Return a task whose call does not end before `calls.free` is set."""
    calls.free.clear()
    first = asyncio.create_task(merger.submit("a", 0, 1, None))
    await turns()
    return first


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def submitted(merger: Merger[str, int, int], *items: int, key: str = "a", size: int = 1) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(merger.submit(key, item, size, None)) for item in items]


async def test_what_is_asked_in_one_turn_shares_a_call_by_key_and_is_answered_apart(calls: Calls):
    merger = calls.merger()
    answers = await asyncio.gather(*submitted(merger, 1, 2), *submitted(merger, 3, key="b"), *submitted(merger, 4))
    assert answers == [2, 4, 6, 8]
    assert calls.made == [("a", [1, 2, 4]), ("b", [3])]
    assert merger.waiting_size == 0


async def test_nothing_waits_for_company(calls: Calls):
    merger = calls.merger()
    assert [await merger.submit("a", item, 1, None) for item in (1, 2)] == [2, 4]
    assert calls.made == [("a", [1]), ("a", [2])]


async def test_what_is_asked_meanwhile_gathers_for_the_next_call(calls: Calls):
    merger = calls.merger()
    first = await held(calls, merger)
    others = []
    for item in range(1, 6):  # each in a turn of its own
        others += submitted(merger, item)
        await turns()
    assert merger.waiting_size == 5
    calls.free.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10]
    assert calls.made == [("a", [0]), ("a", [1, 2, 3, 4, 5])]


async def test_only_so_many_calls_are_in_flight(calls: Calls):
    merger = calls.merger(most_size=1, most_calls=2)
    calls.free.clear()
    answers = submitted(merger, 1, 2, 3)
    await turns()
    assert calls.made == [("a", [1]), ("a", [2])]
    calls.free.set()
    assert await asyncio.gather(*answers) == [2, 4, 6]


async def test_call_takes_no_more_than_fits_and_keeps_the_order(calls: Calls):
    merger = calls.merger(most_size=4)
    first = await held(calls, merger)
    others = [*submitted(merger, 1, size=3), *submitted(merger, 2, size=2), *submitted(merger, 3, size=1)]
    await turns()
    calls.free.set()
    await asyncio.gather(first, *others)
    # The third would have fitted beside the first, but the second came before it.
    assert calls.made[1:] == [("a", [1]), ("a", [2, 3])]


async def test_item_over_the_size_has_a_call_for_itself(calls: Calls):
    merger = calls.merger(most_size=4)
    first = await held(calls, merger)
    others = [*submitted(merger, 1, size=9), *submitted(merger, 2)]
    await turns()
    calls.free.set()
    await asyncio.gather(first, *others)
    assert calls.made[1:] == [("a", [1]), ("a", [2])]


async def test_who_waits_longest_comes_first_whatever_the_key(calls: Calls):
    merger = calls.merger()
    first = await held(calls, merger)
    others = [*submitted(merger, 1, key="b"), *submitted(merger, 2), *submitted(merger, 3, key="b")]
    await turns()
    calls.free.set()
    await asyncio.gather(first, *others)
    assert calls.made[1:] == [("b", [1, 3]), ("a", [2])]


async def test_late_and_cancelled_items_are_in_no_call(calls: Calls):
    merger = calls.merger()
    first = await held(calls, merger)
    late = asyncio.create_task(merger.submit("a", 1, 1, time.monotonic() + 0.01))
    cancelled, last = submitted(merger, 2, 3)
    await turns()
    cancelled.cancel()
    with pytest.raises(DeadlineExceededError, match="before somebody answered"):
        await late  # now, and not when the call before it ends
    assert merger.waiting_size == 1
    calls.free.set()
    assert await asyncio.gather(first, last) == [0, 6]
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert calls.made == [("a", [0]), ("a", [3])]


async def test_what_comes_too_late_is_refused_at_once(calls: Calls):
    merger = calls.merger()
    with pytest.raises(DeadlineExceededError):
        await merger.submit("a", 1, 1, time.monotonic())
    await turns()
    assert calls.made == []
    assert merger.waiting_size == 0


async def test_late_items_leave_a_call_in_flight_without_the_others(calls: Calls):
    merger = calls.merger()
    calls.free.clear()
    late = asyncio.create_task(merger.submit("a", 1, 1, time.monotonic() + 0.01))
    patient = submitted(merger, 2)
    with pytest.raises(DeadlineExceededError):
        await late
    calls.free.set()
    assert await asyncio.gather(*patient) == [4]
    assert calls.made == [("a", [1, 2])]


async def test_call_is_given_up_when_nobody_waits_for_it_any_more(calls: Calls):
    merger = calls.merger()
    calls.free.clear()
    one, two = submitted(merger, 1, 2)
    await turns()
    one.cancel()
    await turns()
    assert calls.cancelled == 0
    two.cancel()
    await turns()
    assert calls.cancelled == 1
    calls.free.set()
    assert await merger.submit("a", 3, 1, None) == 6


async def test_call_has_the_latest_deadline_and_none_where_somebody_has_none(calls: Calls):
    merger = calls.merger()
    soon_s, later_s = time.monotonic() + 10, time.monotonic() + 20
    await asyncio.gather(merger.submit("a", 1, 1, soon_s), merger.submit("a", 2, 1, later_s))
    await asyncio.gather(merger.submit("a", 1, 1, soon_s), merger.submit("a", 2, 1, None))
    assert calls.deadlines == [later_s, None]


async def test_fault_goes_to_those_of_its_call_only(calls: Calls):
    merger = calls.merger()
    asked = [*submitted(merger, 1, 2, key="broken"), *submitted(merger, 3)]
    *broken, fine = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(one) for one in broken] == [StorageError, StorageError]
    assert fine == 6


async def test_fault_of_one_item_is_its_own(calls: Calls):
    one, bad, two = await asyncio.gather(*submitted(calls.merger(), 1, -1, 2), return_exceptions=True)
    assert (one, two) == (2, 4)
    assert isinstance(bad, InvalidArgumentError)
    assert calls.made == [("a", [1, -1, 2]), ("a", [1]), ("a", [-1]), ("a", [2])]


async def test_closing_answers_those_that_wait(calls: Calls):
    merger = calls.merger()
    first = await held(calls, merger)
    waiting = submitted(merger, 1)
    await turns()
    await merger.close(UnavailableError("closing"))
    assert calls.cancelled == 1
    for task in (first, *waiting):
        with pytest.raises(UnavailableError):
            await task
    with pytest.raises(UnavailableError):
        await merger.submit("a", 1, 1, None)
    assert calls.made == [("a", [0])]
