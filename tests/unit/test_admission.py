from __future__ import annotations

import pytest

from shitu_server.admission import Admission
from shitu_server.errors import OverloadedError


def test_over_the_limit_is_refused_with_a_retry_hint():
    admission = Admission("demo_rec", max_items=4, retry_after_s=0.3)
    with admission.admit(4):
        with pytest.raises(OverloadedError, match="demo_rec is busy: 4 items in flight, the limit is 4") as caught:
            admission.check()
        assert caught.value.retry_after_s == 0.3
    admission.check()


def test_a_large_request_gets_in_when_there_is_room_at_all():
    admission = Admission("demo_rec", max_items=4)
    with admission.admit(3), admission.admit(100):
        assert admission.in_flight_items == 103


def test_places_are_given_back_when_the_work_fails():
    admission = Admission("demo_rec", max_items=1)
    with pytest.raises(ValueError, match="boom"), admission.admit(1):
        raise ValueError("boom")
    assert admission.in_flight_items == 0
