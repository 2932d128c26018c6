"""The live view shows who matters, in the room there is."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from detector.contracts.findings import Action, Score
from detector.lab.demo.board import Board
from detector.lab.demo.view import DemoState, Screen, render, summary_line
from detector.lab.query_log import THIEF
from detector.lab.traffic import Tally, honest_accounts
from tests.lab.records import alert, decision, drawn, score, suspected

START = 1_000.0


def moment(now: float = START + 31) -> DemoState:
    tallies = {a.name: Tally(a.name, a.habit.name, sent=150, answered=150) for a in honest_accounts(24)}
    board = Board("digits", "prada", tallies)
    for number, name in enumerate(tallies):
        board.absorb(score(name, statistic=0.95 + number / 1000, queries=150), START + 20)
    tallies[THIEF] = Tally(THIEF, "thief", sent=230, answered=180, refused=50)
    board.absorb(score(THIEF, statistic=0.8, flagged=True), START + 21)
    board.absorb(alert(THIEF, query_index=169), START + 21)
    board.absorb(decision(THIEF, Action("slow", 1.0), sequence=1), START + 21)
    board.absorb(decision(THIEF, Action("refuse"), sequence=2), START + 28)
    return DemoState("enforce", START, now, 60.0, [board, tree()], 118.0)


def tree() -> Board:
    """A model with one account and a thief who was found already."""
    tallies = {"drifted-1": Tally("drifted-1", "drifted"), THIEF: Tally(THIEF, "thief", sent=40, answered=40)}
    board = Board("tumours", "suspicion", tallies)
    said = Score("tumours", "1", THIEF, 1.0, 40, 1.5, True, {"suspicion": 21.25})
    board.absorb(said, START + 3)
    board.absorb(suspected(THIEF, query_index=22), START + 3)
    return board


@pytest.mark.parametrize("lines", [23, 40])
def test_the_view_fits_the_terminal_and_puts_the_suspect_first(lines: int) -> None:
    text = drawn(render(moment(), lines), width=100, height=lines + 1).rstrip("\n").split("\n")
    assert len(text) <= lines
    accounts = [line.split()[:2] for line in text if line.split()[1:2] in (["digits"], ["tumours"])]
    assert accounts[:2] == [[THIEF, "digits"], [THIEF, "tumours"]]


def test_the_view_shows_statistic_state_alert_and_decisions() -> None:
    text = drawn(render(moment(), 40))
    for shown in ("W 0.800", "refused", "alert: prada at query 170", "slow to 1/s", "decision: refuse"):
        assert shown in text
    for shown in ("steady-1", "D 21.2", "mallory on tumours: alert: suspicion at query 23"):
        assert shown in text


def test_events_of_all_models_are_told_in_the_order_in_which_they_came() -> None:
    text = drawn(render(moment(), 40))
    told = ("3 s  mallory on tumours", "21 s  mallory on digits", "28 s  mallory on digits")
    places = [text.index(event) for event in told]
    assert places == sorted(places)


def test_accounts_without_room_are_counted() -> None:
    assert "and 18 accounts that are less suspicious" in drawn(render(moment(), 23))


def test_without_a_terminal_events_come_at_once_and_a_summary_every_five_seconds() -> None:
    console = Console(file=StringIO(), width=100)
    screen = Screen(console)
    first = moment()
    with screen:
        screen.show(first, list(first.boards[0].events))
        screen.show(moment(first.now + 1), [])
        screen.show(moment(first.now + 6), [])
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line for line in lines if "mallory on digits: decision: refuse" in line]
    assert len([line for line in lines if "a second; 27 accounts" in line]) == 2


def test_the_summary_names_the_flagged() -> None:
    assert "flagged: 2 (mallory on digits, mallory on tumours)" in summary_line(moment())
