from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Iterator, Sequence

import pytest

from shitu_server.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    StorageError,
    UnavailableError,
)
from shitu_server.merging import Merger, MergerLimits
from shitu_server.turns import Leave, Turns


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

    def merger(
        self, most_size: int = 8, most_calls: int = 1, turns: Turns | None = None, **limits: float
    ) -> Merger[str, int, int]:
        turns = turns or Turns(None)
        return Merger(
            "somebody",
            self.call,
            most_size=lambda _: most_size,
            limits=MergerLimits(most_calls, **limits),
            item_faults=InvalidArgumentError,
            ask_for_turn=lambda begin: turns.ask(is_long=True, begin=begin),
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


async def test_those_of_a_failed_call_are_asked_one_by_one_within_the_limit_while_they_are_wanted(calls: Calls):
    merger = calls.merger()
    first = await held(calls, merger)
    one, bad, gone, last = submitted(merger, 1, -1, 2, 3)
    await turns()
    calls.free.set()
    await first
    calls.free.clear()
    await turns()
    assert calls.made == [("a", [0]), ("a", [1, -1, 2, 3])]
    calls.free.set()
    await turns()
    calls.free.clear()
    gone.cancel()
    await turns()
    later = submitted(merger, 4)
    await turns()
    assert len(calls.made) == 3, "one at a time"
    calls.free.set()
    assert await asyncio.gather(one, last, *later) == [2, 6, 8]
    with pytest.raises(InvalidArgumentError):
        await bad
    assert calls.made[2:] == [("a", [1]), ("a", [-1]), ("a", [3]), ("a", [4])], "and before those who came later"


@pytest.mark.parametrize("most_calls", [1, 2, 64])
@pytest.mark.parametrize("comes_first", [False, True])
async def test_those_of_a_failed_call_are_answered_whoever_asks_in_the_turn_in_which_it_fails(
    most_calls: int, comes_first: bool
):
    """Where others begin a call between the failure and its clearing away, it may take along one that is asked again."""
    fails = asyncio.Event()

    async def call(_key: str, items: Sequence[int], _deadline_s: float | None) -> list[int]:
        if min(items) < 0:
            await fails.wait()
            raise InvalidArgumentError("item", "negative")
        await asyncio.sleep(0.01)  # still under way when the one that failed is cleared away
        return [2 * item for item in items]

    merger: Merger[str, int, int] = Merger(
        "somebody", call, most_size=lambda _: 8, limits=MergerLimits(most_calls), item_faults=InvalidArgumentError
    )

    async def third() -> int:
        await fails.wait()
        return await merger.submit("a", 3, 1, None)

    asked = [] if comes_first else submitted(merger, 1, -1)
    await turns()
    later = asyncio.create_task(third())
    await turns()
    asked = asked or submitted(merger, 1, -1)
    await turns()
    fails.set()
    good, bad, last = await asyncio.wait_for(asyncio.gather(*asked, later, return_exceptions=True), 10)
    assert (good, last) == (2, 6)
    assert isinstance(bad, InvalidArgumentError)
    assert merger.waiting_size == 0


async def test_more_than_may_wait_is_refused_at_once(calls: Calls):
    merger = calls.merger(waiting_size=4)
    first = await held(calls, merger)
    waiting = submitted(merger, 1, size=3)
    await turns()
    with pytest.raises(OverloadedError, match="somebody has 3 waiting already, the limit is 4"):
        await merger.submit("a", 2, 2, None)
    waiting += submitted(merger, 3)
    await turns()
    calls.free.set()
    assert await asyncio.gather(first, *waiting) == [0, 2, 6]
    assert merger.waiting_size == 0


@pytest.mark.parametrize("left_s", [None, 3600.0])
async def test_nobody_waits_longer_than_the_limit_however_many_calls_are_before_them(
    calls: Calls, left_s: float | None
):
    merger = calls.merger(patience_s=0.05)
    calls.free.clear()
    begin_s = time.monotonic()
    deadline_s = None if left_s is None else begin_s + left_s
    asked = [asyncio.create_task(merger.submit(key, 1, 1, deadline_s)) for key in "abcd"]
    for task in asked:
        with pytest.raises(UnavailableError, match=r"no answer within 0\.05 s"):
            await task
    assert time.monotonic() - begin_s < 0.5
    calls.free.set()
    assert await merger.submit("a", 2, 1, None) == 4


async def test_deadline_before_the_limit_is_the_callers(calls: Calls):
    merger = calls.merger(patience_s=5)
    calls.free.clear()
    with pytest.raises(DeadlineExceededError):
        await merger.submit("a", 1, 1, time.monotonic() + 0.01)


async def test_too_few_results_are_a_fault_of_all_of_the_call():
    async def call(_key: str, _items: Sequence[int], _deadline_s: float | None) -> list[int]:
        return [1]

    merger: Merger[str, int, int] = Merger("somebody", call, most_size=lambda _: 8, limits=MergerLimits(1))
    for outcome in await asyncio.gather(*submitted(merger, 1, 2), return_exceptions=True):
        assert isinstance(outcome, InternalError)


async def test_call_that_is_cancelled_from_within_leaves_nobody_waiting():
    async def call(_key: str, _items: Sequence[int], _deadline_s: float | None) -> list[int]:
        raise asyncio.CancelledError

    merger: Merger[str, int, int] = Merger("somebody", call, most_size=lambda _: 8, limits=MergerLimits(1))
    for outcome in await asyncio.gather(*submitted(merger, 1, 2), return_exceptions=True):
        assert isinstance(outcome, UnavailableError), "a handler that is cancelled gives its client no status"


class Picture:
    """Weakly referable, as no number is."""


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("failure", ["late", "broken", "impatient"])
async def test_failures_keep_no_picture_in_memory(failure: str):
    seen: list[weakref.ref[Picture]] = []
    free = asyncio.Event()

    async def call(_key: str, _items: Sequence[Picture], _deadline_s: float | None) -> list[int]:
        if failure == "broken":
            raise StorageError("broken")
        await asyncio.wait_for(free.wait(), 10)
        return [0] * len(_items)

    limits = MergerLimits(1, patience_s=0.01 if failure == "impatient" else 10)
    merger: Merger[str, Picture, int] = Merger("somebody", call, most_size=lambda _: 8, limits=limits)

    async def asked() -> str:
        picture = Picture()
        seen.append(weakref.ref(picture))
        deadline_s = time.monotonic() + 0.01 if failure == "late" else None
        try:
            await merger.submit("a", picture, 1, deadline_s)
        except (DeadlineExceededError, StorageError, UnavailableError) as error:
            return type(error).__name__
        return ""

    names = [task.result() for task in [asyncio.create_task(asked()) for _ in range(3)] if await asyncio.wait([task])]
    assert all(names)
    await turns()
    assert [one() for one in seen] == [None] * 3


class TestTurns:
    """Of several mergers."""

    @pytest.fixture
    def taken(self):
        """Return turns of which the only one is taken, and what gives it back."""
        turns, leaves = Turns(1), list[Leave]()
        turns.ask(is_long=True, begin=leaves.append)
        return turns, leaves[0]

    async def test_what_is_asked_while_another_has_the_turn_shares_the_call(self, calls: Calls, taken):
        others, leave = taken
        merger = calls.merger(turns=others)
        first = submitted(merger, 1)
        await turns()
        second = submitted(merger, 2)
        await turns()
        assert not calls.made
        leave()
        assert await asyncio.gather(*first, *second) == [2, 4]
        assert calls.made == [("a", [1, 2])]

    async def test_who_no_longer_waits_when_the_turn_comes_is_in_no_call(self, calls: Calls, taken):
        others, leave = taken
        merger = calls.merger(turns=others)
        late = asyncio.create_task(merger.submit("a", 1, 1, time.monotonic() + 0.01))
        gone, last = submitted(merger, 2, 3)
        await turns()
        gone.cancel()
        with pytest.raises(DeadlineExceededError):
            await late
        leave()
        assert await last == 6
        assert calls.made == [("a", [3])]

    @pytest.mark.parametrize("end", ["late", "cancelled", "closed"])
    async def test_a_turn_for_which_nobody_waits_any_more_is_passed_on(self, calls: Calls, taken, end):
        others, leave = taken
        merger, other = calls.merger(turns=others), calls.merger(turns=others)
        deadline_s = time.monotonic() + 0.01 if end == "late" else None
        gone = asyncio.create_task(merger.submit("a", 1, 1, deadline_s))
        await turns()
        (last,) = submitted(other, 2)
        await turns()
        if end == "cancelled":
            gone.cancel()
        elif end == "closed":
            await merger.close(UnavailableError("closed"))
        await asyncio.wait([gone])
        leave()
        assert await last == 4
        assert calls.made == [("a", [2])]

    @pytest.mark.parametrize("end", ["answer", "failure", "cancelled", "late"])
    async def test_a_call_gives_its_turn_back_however_it_ends(self, calls: Calls, end):
        both = Turns(1)
        merger, other = calls.merger(turns=both), calls.merger(turns=both)
        calls.free.clear()
        deadline_s = time.monotonic() + 0.01 if end == "late" else None
        first = asyncio.create_task(merger.submit("broken" if end == "failure" else "a", 1, 1, deadline_s))
        await turns()
        (last,) = submitted(other, 2)
        await turns()
        assert len(calls.made) == 1
        if end == "cancelled":
            first.cancel()
        if end in {"cancelled", "late"}:
            await asyncio.wait([first])
            await turns()
            assert calls.cancelled == 1
        calls.free.set()
        assert await asyncio.wait_for(last, 5) == 4
        await asyncio.wait([first])
        assert await asyncio.wait_for(merger.submit("a", 3, 1, None), 5) == 6

    async def test_mergers_take_turns_one_call_each(self, calls: Calls):
        both = Turns(1)
        one, two = calls.merger(most_size=1, turns=both), calls.merger(most_size=1, turns=both)
        answers = [*submitted(one, 1, 2, 3), *submitted(two, 4, 5, 6)]
        await asyncio.gather(*answers)
        assert [item for _, (item,) in calls.made] == [1, 4, 2, 5, 3, 6]

    async def test_as_many_calls_as_may_be_made_at_a_time_begin_where_turns_are_free(self, calls: Calls):
        merger = calls.merger(most_size=1, most_calls=2, turns=Turns(2))
        calls.free.clear()
        answers = submitted(merger, 1, 2, 3)
        await turns()
        assert [item for _, (item,) in calls.made] == [1, 2]
        calls.free.set()
        assert await asyncio.gather(*answers) == [2, 4, 6]

    async def test_as_many_calls_as_may_be_made_at_a_time_begin_where_turns_come_later(self, calls: Calls):
        both, leaves = Turns(2), list[Leave]()
        for _ in range(2):
            both.ask(is_long=True, begin=leaves.append)
        merger = calls.merger(most_size=1, most_calls=2, turns=both)
        calls.free.clear()
        answers = submitted(merger, 1, 2, 3)
        await turns()
        assert not calls.made
        for leave in leaves:
            leave()
        await turns()
        assert [item for _, (item,) in calls.made] == [1, 2]
        calls.free.set()
        assert await asyncio.gather(*answers) == [2, 4, 6]
