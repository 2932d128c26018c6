"""What the demo's view makes of the detector's records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detector.contracts.findings import Action, Mode
from detector.lab.demo.board import Board
from tests.lab.records import alert, decision, group, score, suspected


def test_the_latest_score_counts_and_the_largest_suspicion_is_kept() -> None:
    board = Board("digits", "prada")
    for statistic in (0.97, 0.91, 0.95):
        assert board.absorb(score("ann", statistic=statistic), 10.0) is None
    assert board.statistic("ann") == 0.95
    assert board.most["ann"] == pytest.approx(0.9)
    assert board.state("ann") == "watched"


def test_an_account_without_a_statistic_yet_is_not_called_watched() -> None:
    board = Board("digits", "prada")
    board.absorb(score("ann", statistic=None), 10.0)
    assert board.state("ann") == "too few yet"
    assert board.state("nobody") == "too few yet"


def test_an_alert_makes_a_suspect_and_an_event_with_its_evidence() -> None:
    board = Board("digits", "prada")
    event = board.absorb(alert("mallory", query_index=169), 12.0)
    assert event is not None
    assert event.text == "alert: prada at query 170 (0.85, threshold 0.9)"
    assert board.state("mallory") == "suspect"


def test_a_group_is_an_event_and_its_members_are_in_it() -> None:
    board = Board("tumours", "suspicion")
    event = board.absorb(group("ring-1", "ring-2", "ring-3"), 12.0)
    assert event is not None and event.grave
    assert (event.principal, event.text) == (
        "group c0ffee",
        "alert: 3 accounts share one theft (score 4.5, limit 1): foreign_one_feature",
    )
    board.absorb(group("ring-1", "ring-2", "ring-3", "ring-4", revision=2), 13.0)
    assert [board.state(name) for name in ("ring-2", "ring-4", "ana")] == ["in a group", "in a group", "too few yet"]
    assert board.found["c0ffee"].size == 3 and board.group_of("ring-4") == "c0ffee"


def test_an_alert_of_suspicion_names_what_adds_to_it() -> None:
    event = Board("tumours", "suspicion").absorb(suspected("mallory", query_index=22), 12.0)
    assert event is not None
    assert event.model == "tumours"
    assert event.text == "alert: suspicion at query 23 (21.2, threshold 14): one_feature, margin"


def test_a_severity_that_rises_is_an_event_and_the_first_alert_stays() -> None:
    board, first = Board("digits", "prada"), alert("mallory", query_index=169)
    board.absorb(first, 12.0)
    event = board.absorb(replace(first, revision=2, severity="high", query_index=299), 13.0)
    assert event is not None
    assert event.text == "alert: prada rises to severity high at query 300"
    assert board.alerts["mallory"] == first


def test_the_exposure_meters_are_read_of_the_latest_score() -> None:
    board = Board("tumours", "suspicion")
    assert board.exposure("ann") == {}
    told = score("ann", statistic=0.97)
    board.absorb(replace(told, signals={"suspicion": 1.0, "coverage": 40.0}), 10.0)
    assert board.exposure("ann") == {"coverage": 40.0}


def test_a_renewed_decision_is_no_news_but_a_harsher_one_is() -> None:
    board = Board("digits", "prada")
    slow, refuse = Action("slow", 1.0), Action("refuse")
    assert board.absorb(decision("mallory", slow, sequence=1), 1.0) is not None
    assert board.absorb(decision("mallory", slow, sequence=2), 2.0) is None
    assert board.absorb(decision("mallory", refuse, sequence=3), 3.0) is not None
    assert board.state("mallory") == "refused"


def test_a_decision_of_an_older_epoch_changes_nothing() -> None:
    board = Board("digits", "prada")
    board.absorb(decision("mallory", Action("refuse"), sequence=5), 1.0)
    assert board.absorb(decision("mallory", Action("none"), sequence=4), 2.0) is None
    assert board.state("mallory") == "refused"


def test_what_is_only_observed_is_called_so() -> None:
    board = Board("digits", "prada")
    mode: Mode = "observe"
    event = board.absorb(decision("mallory", Action("refuse"), sequence=1, mode=mode), 1.0)
    assert event is not None
    assert "only observed" in event.text
    assert board.state("mallory") == "would be refused"
