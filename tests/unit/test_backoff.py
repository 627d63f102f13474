from __future__ import annotations

import time

from shitu_server.backoff import Backoff


def test_delays_double_up_to_the_most_however_often_it_fails():
    backoff = Backoff(1.0, 30.0)
    assert [backoff.failed() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert [backoff.failed() for _ in range(3000)][-1] == 30


def test_is_due_after_the_delay_and_at_once_when_it_worked():
    backoff = Backoff(0.05, 30.0)
    assert backoff.due
    backoff.failed()
    assert not backoff.due
    time.sleep(0.06)
    assert backoff.due
    backoff.failed()
    backoff.worked()
    assert backoff.due
    assert backoff.failed() == 0.05
