"""Who may call a model beside whom, and in which order."""

from __future__ import annotations

import pytest

from shitu_server.turns import Leave, Turns


class Callers:
    """Remember who began and has not ended."""

    def __init__(self, long_calls: int | None) -> None:
        self.turns = Turns(long_calls)
        self.running: dict[str, Leave] = {}

    def ask(self, *names: str) -> Callers:
        """Ask for a turn for each; those with a capital letter are long."""
        for name in names:
            self.turns.ask(is_long=name.isupper(), begin=lambda leave, name=name: self.running.update({name: leave}))
        return self

    def leave(self, name: str) -> Callers:
        self.running.pop(name)()
        return self

    @property
    def names(self) -> str:
        return "".join(self.running)


def test_short_calls_run_side_by_side_and_a_long_one_alone():
    callers = Callers(1).ask("a", "b", "C", "d")
    assert callers.names == "ab"
    assert callers.leave("a").names == "b"
    assert callers.leave("b").names == "C"
    assert callers.leave("C").names == "d"


def test_long_calls_take_turns_in_the_order_in_which_they_asked():
    callers = Callers(1).ask("A", "B", "C")
    assert callers.names == "A"
    assert callers.leave("A").ask("D").names == "B"
    assert callers.leave("B").names == "C"
    assert callers.leave("C").names == "D"


def test_as_many_long_calls_run_as_may():
    callers = Callers(2).ask("A", "B", "C", "d")
    assert callers.names == "AB"
    assert callers.leave("A").names == "BC"
    assert callers.leave("B").names == "Cd"


def test_short_calls_together_take_the_place_of_a_long_one():
    callers = Callers(2).ask("A", "b", "c", "D", "e")
    assert callers.names == "Abc"
    assert callers.leave("A").names == "bcDe", "a long call beside short ones, on a share of the processors each"
    assert callers.ask("F").leave("b").leave("c").names == "De"
    assert callers.leave("e").names == "DF"


def test_nobody_is_passed_for_ever():
    callers = Callers(1).ask("a", "B", "c")
    assert callers.names == "a", "c came after B, and would keep it out"
    assert callers.leave("a").names == "B"


def test_where_calls_do_not_disturb_each_other_all_begin_at_once():
    assert Callers(None).ask("A", "b", "C", "D").names == "AbCD"


@pytest.mark.parametrize("name", ["A", "a"])
def test_who_has_nothing_to_call_passes_the_turn_on(name):
    callers = Callers(1).ask("B")
    callers.turns.ask(is_long=name.isupper(), begin=lambda leave: leave())
    assert callers.ask("C").leave("B").names == "C"
    assert callers.leave("C").ask("D", "E").names == "D", "no turn was lost, and none was won"
