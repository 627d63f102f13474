"""How long work takes, by what was seen."""

from __future__ import annotations

import pytest

from shitu_server.pace import Pace


def paced(*seen_s: float) -> Pace:
    pace = Pace()
    for took_s in seen_s:
        pace.note(took_s)
    return pace


def test_before_anything_was_seen_work_takes_nothing():
    assert (Pace().mean_s, Pace().shortest_s) == (0.0, 0.0)


def test_of_work_that_always_takes_the_same_so_much_is_said_at_once():
    assert (paced(0.2).mean_s, paced(0.2).shortest_s) == (0.2, 0.2)
    assert paced(*[0.2] * 50).mean_s == pytest.approx(0.2)


def test_the_mean_follows_what_was_seen_last():
    assert paced(*[0.2] * 50, *[0.4] * 22).mean_s == pytest.approx(0.38, abs=0.003)


def test_the_shortest_is_believed_at_once_and_forgotten_slowly():
    assert paced(0.4, 0.1).shortest_s == 0.1
    assert paced(0.1, *[0.4] * 15).shortest_s == pytest.approx(0.2, rel=0.05)
    assert paced(0.1, *[0.4] * 60).shortest_s == 0.4


def test_what_was_cut_off_is_news_only_where_less_was_thought():
    pace = paced(0.2, 0.4)
    pace.note_cut_off(0.1)
    assert (pace.mean_s, pace.shortest_s) == (paced(0.2, 0.4).mean_s, paced(0.2, 0.4).shortest_s)
    pace.note_cut_off(0.5)
    assert pace.mean_s > paced(0.2, 0.4).mean_s


def test_what_was_cut_off_first_says_nothing_of_the_shortest():
    pace = Pace()
    pace.note_cut_off(0.001)
    assert (pace.mean_s, pace.shortest_s) == (0.001, 0.0)
    pace.note(0.4)
    assert pace.shortest_s == 0.4
