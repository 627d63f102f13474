from __future__ import annotations

import time

import pytest

from shitu_server.admission import Admission, patiently
from shitu_server.errors import OverloadedError


def test_over_the_limit_is_refused_with_a_retry_hint():
    admission = Admission("crops", max_items=4, retry_after_s=0.3)
    with admission.hold(4):
        with pytest.raises(OverloadedError, match="busy: 4 crops in flight, the limit is 4") as caught:
            admission.check()
        assert caught.value.retry_after_s == 0.3
    admission.check()


def test_what_was_admitted_may_pass_the_limit():
    admission = Admission("crops", max_items=4)
    with admission.admit(), admission.hold(100):
        assert admission.in_flight_items == 101


def test_places_are_given_back_when_the_work_fails():
    admission = Admission("pictures", max_items=1)
    with pytest.raises(ValueError, match="boom"), admission.admit():
        raise ValueError("boom")
    assert admission.in_flight_items == 0


async def test_patience_waits_for_a_place():
    admission = Admission("pictures", max_items=1, retry_after_s=0.01)
    tries = 0

    async def work() -> str:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise OverloadedError("busy", 0.01)
        with admission.admit():
            return "done"

    assert await patiently(work, time.monotonic() + 5) == "done"
    assert tries == 4


async def test_patience_ends_at_the_deadline():
    async def work() -> None:
        raise OverloadedError("busy", 0.02)

    start = time.monotonic()
    with pytest.raises(OverloadedError):
        await patiently(work, start + 0.1)
    assert time.monotonic() - start <= 0.1
