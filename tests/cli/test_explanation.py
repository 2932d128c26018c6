"""The parts of an explanation: the sentences for given numbers, and the drawings."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.contracts.findings import Alert, Audit, Evidence, Score
from detector.core.configuration import EngineConfig
from detector.core.profile import Profile
from detector.core.reference.standards import Standards
from detector.explain import chart, plots, tables, words
from detector.explain.explanation import Breakdown, Contribution, explanation_of
from detector.explain.published import PublishedRecords, by_row, differences
from detector.replay.principal import PrincipalReplay
from tests.core.profiles import COLUMNS, profile, standards

QUERIES, VERDICT = 200, 106
Scores = dict[str, float]


def course(scores: Scores | None = None, verdict: int | None = VERDICT, versions: Any = None) -> PrincipalReplay:
    """200 queries a second; the measures in ``scores`` rise to these from the verdict, or from the middle, on."""
    scores, rows = scores or {}, np.arange(QUERIES)
    late = rows >= (QUERIES // 2 if verdict is None else verdict)
    signals = {f"suspicion.{name}": np.where(late, scores.get(name, 0.0), 0.0) for name in COLUMNS}
    suspicion = np.where(late, sum(scores.values()), 0.0)
    unknown = np.full(QUERIES, np.nan)
    others = dict.fromkeys(("information_gain", "coverage", "margin.pooled", "margin.all_leaves"), unknown)
    signals |= others | {"suspicion": suspicion, "prada": np.where(rows >= 100, 0.97, np.nan)}
    return PrincipalReplay(
        model="credit",
        principal="ana",
        versions=versions or ["1"] * QUERIES,
        time=1e9 + rows.astype(np.float64),
        flagged=np.zeros(QUERIES, bool) if verdict is None else late,
        score=suspicion / 5.0,
        signals=signals,
        findings={},
        records=[],
        distances={QUERIES - 1: np.random.default_rng(0).normal(3.0, 0.5, 150)},
        refused=0,
    )


def judging(*exemplars: Scores) -> EngineConfig:
    """A profile with a threshold of 5 and one honest account for each of ``exemplars``."""
    own: Profile = profile(np.random.default_rng(0).random((20, 4), dtype=np.float32))
    rows = np.array([[exemplar.get(name, 0.0) for name in COLUMNS] for exemplar in exemplars or ({},)])
    known = standards()
    return EngineConfig(profiles=(replace(own, standards=Standards(COLUMNS, known.spread, rows, 5.0)),))


def audit(second: float, kind: str, summary: str, actor: str = "policy", what: str = "") -> Audit:
    return Audit(f"{second}{summary}", 1e9 + second, kind, "credit", "ana", actor, summary, {"kind": what})


def alert(second: float, query_index: int, version: str = "1", configuration: str = "c") -> Alert:
    evidence = (Evidence("w", 0.81, "1", 0.95),)
    when = 1e9 + second
    return Alert(
        "a", when, "credit", version, "ana", "prada", 1, "high", 1.2, 0.9, query_index, evidence, configuration
    )


def test_the_verdict_names_the_query_from_1_and_what_adds_most() -> None:
    config = judging({"novelty": 9.0}, {"sign_steps": 3.9, "novelty": 1.0})
    account = explanation_of(course({"sign_steps": 10.0, "novelty": 4.0, "surprise": 0.2}), config, "a log")
    assert words.verdict(account) == (
        "Suspect since query 107 of 200: many features changed by one magnitude from an earlier query, far beyond "
        "any honest account; distance to the nearest honest query, beyond the closest honest account."
    )


@pytest.mark.parametrize(
    ("score", "most", "expected"),
    [
        (9.0, 3.0, "far beyond any honest account"),
        (8.9, 3.0, "beyond any honest account"),
        (3.0, 3.0, "beyond the closest honest account"),
        (9.0, np.inf, "a measure that the calibration lacks"),
    ],
)
def test_how_far_a_measure_is_beyond_honest_accounts(score: float, most: float, expected: str) -> None:
    weighing = Breakdown(0, score, 2.0, (Contribution("novelty", score, 0.0, most, score),), 0.0)
    assert words.reasons(weighing).endswith(f", {expected}")


def test_three_reasons_at_most_and_none_that_adds_next_to_nothing() -> None:
    parts = tuple(
        Contribution(name, 1.0, 0.0, 0.0, added) for name, added in zip(COLUMNS, (5, 3, 2, 2, 0.1), strict=False)
    )
    assert words.reasons(Breakdown(0, 12.1, 2.0, parts, 0.0)).count(";") == 2
    assert words.reasons(Breakdown(0, 29.0, 2.0, parts, 0.0)).count(";") == 1
    assert words.reasons(Breakdown(0, 100.0, 2.0, parts, 0.0)).startswith("distance to the nearest honest query, ")


def test_how_much_is_explained_and_what_stands() -> None:
    account = explanation_of(course({"sign_steps": 10.0}), judging({"novelty": 4.0}), "a log")
    honest = "standard deviations of honest accounts; the threshold is 5.0."
    assert words.basis(account) == [
        f"No honest account explains any of the deviation: D = 10.0 {honest}",
        "After query 200, D is 10.0.",
    ]
    own = course({"sign_steps": 10.0})
    own.signals["suspicion"][VERDICT:] = 6.0
    closest = "The closest honest account explains 40% of the deviation and leaves D = 6.0"
    assert words.basis(explanation_of(own, judging({"sign_steps": 4.0}), "a log"))[0] == f"{closest} {honest}"
    decided = [(VERDICT, audit(VERDICT, "decision", "slow (observe) for signal:suspicion"))]
    later = explanation_of(course({"sign_steps": 10.0}), judging(), "a log", records=decided, notes=["Look twice."])
    assert words.basis(later)[-2:] == [
        "The last decision on record: slow (observe) for signal:suspicion.",
        "Look twice.",
    ]


def test_a_verdict_outlives_the_suspicion_and_a_sentence_says_so() -> None:
    own = course({"sign_steps": 10.0})
    own.signals["suspicion"][-1] = own.signals["suspicion.sign_steps"][-1] = 1.0
    text = " ".join(words.basis(explanation_of(own, judging(), "a log")))
    assert (
        "After query 200, D is 1.0, below the threshold. The account stays flagged until an operator clears it." in text
    )


def test_weights_are_those_of_the_standards_and_add_up_to_d() -> None:
    config = judging({"novelty": 2.0}, {"novelty": 3.0, "surprise": 9.0})
    own = course({"sign_steps": 4.0, "novelty": 2.5, "surprise": 1.0})
    own.signals["suspicion"][VERDICT:] = 4.0
    account = explanation_of(own, config, "a log")
    assert account.at_verdict is not None
    assert account.at_verdict.d == pytest.approx(sum(part.added for part in account.at_verdict.contributions))
    assert [part.name for part in account.at_verdict.contributions[:1]] == ["sign_steps"]
    assert (account.at_verdict.of("novelty").closest, account.at_verdict.of("novelty").largest) == (3.0, 3.0)
    assert account.at_verdict.explained == pytest.approx(1 - 4.0 / 7.5)
    table = tables.contributions(account)
    rows = {row[0]: row for row in table.rows}
    assert rows["sign_steps"][2:5] == ("4.0", "0.0", "4.0")
    assert rows["D"][4] == rows["D"][7] == "4.0"
    assert rows.keys() | set(tables.without_deviation(account)) == {*COLUMNS, "D"}
    assert "sign_steps" not in tables.without_deviation(account)


def test_a_measure_that_the_calibration_did_not_know_counts_nothing_and_shows_a_dash() -> None:
    config = judging()
    (own,) = config.profiles
    names = COLUMNS[1:]
    known = standards()
    fewer = Standards(names, known.spread.at(slice(1, None)), np.zeros((1, len(names))), 5.0)
    account = explanation_of(
        course({"sign_steps": 10.0, COLUMNS[0]: 3.0}), EngineConfig(profiles=(replace(own, standards=fewer),)), "a log"
    )
    row = next(row for row in tables.contributions(account).rows if row[0] == COLUMNS[0])
    assert row[2:5] == ("3.0", "-", "0.0")
    assert next(plot.title for plot in plots.measures(account)) == "sign_steps"


def test_an_account_that_is_no_suspect_gets_its_worst_query() -> None:
    own = course({"sign_steps": 2.0}, verdict=None)
    own.score[150] = 0.9
    own.signals["suspicion"][150] = own.signals["suspicion.sign_steps"][150] = 4.5
    assert words.verdict(explanation_of(own, judging(), "a log")) == (
        "Not a suspect after 200 queries: the largest unexplained deviation was 4.5 standard deviations of honest "
        "accounts, at query 151; the threshold is 5.0."
    )


def test_decisions_that_are_renewed_show_once_and_operators_are_named() -> None:
    slow = "slow (observe) for signal:prada"
    told: list[tuple[int, Alert | Audit]] = [
        (10, alert(10, 10)),
        (10, audit(10, "decision", slow)),
        (60, audit(60, "decision", slow)),
        (70, audit(70, "command", "cleared", "eve", "clear")),
        (80, audit(80, "release", "released")),
        (90, audit(90, "decision", slow)),
    ]
    account = explanation_of(course(), EngineConfig(), "a log", records=told)
    assert [(event.row, event.word) for event in account.events] == [
        (10, "alert"), (10, "slow"), (70, "command"), (80, "released"), (90, "slow"),
    ]  # fmt: skip
    assert account.events[2].sentence == "command: cleared (eve)"
    assert account.last_decision == slow


def test_records_of_a_service_are_placed_by_number_where_they_can_be_and_by_time_else() -> None:
    own = course(versions=["1"] * 100 + ["2"] * 100)
    own.time[110:120] = own.time[110]
    known = PublishedRecords(
        [alert(110, 15, version="2"), alert(110, 18, version="2"), alert(50.5, 7)],
        [audit(110, "decision", "slow"), audit(150, "decision", "refuse"), audit(-5, "release", "released")],
        None,
    )
    assert [(row, type(record).__name__) for row, record in by_row(known, own)] == [
        (51, "Alert"), (115, "Alert"), (115, "Audit"), (118, "Alert"), (150, "Audit"),
    ]  # fmt: skip


def test_notes_say_where_the_topics_and_the_service_may_differ() -> None:
    own = course()
    same = Score("credit", "1", "ana", 0.0, QUERIES, 1.2, True, {})
    assert list(differences(PublishedRecords([alert(1, 1)], [], same), own, "c")) == []
    clear = audit(1, "command", "cleared", "eve", "clear")
    known = PublishedRecords([alert(1, 1, configuration="d")], [clear], replace(same, queries=1_250, flagged=False))
    assert [sentence.partition(";")[0] for sentence in differences(known, own, "c")] == [
        "The account was cleared at 2001-09-09T01:46:41.000Z",
        "1,050 of the account's queries are no longer kept",
        "In the service, the account is not flagged.",
        "The alerts were raised under another configuration: d.",
    ]


def test_names_of_marks_never_cover_each_other() -> None:
    marks = [(float(at), f"{at}: suspect, alert, slow", "accused") for at in (1, 2, 3, 90, 150, 198, 199, 200)]
    frame = chart.Frame.of((800, 250), (0.0, 200.0), (0.0, 1.0))
    drawn, lines = chart.labels(frame, marks)
    places = []
    for words_drawn in drawn:
        found = re.search(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', words_drawn)
        assert found is not None
        places.append((float(found[2]), float(found[1]), float(found[1]) + 6.6 * len(found[3])))
    assert max(right for _, _, right in places) <= 800
    for at, (line, left, right) in enumerate(places):
        same = [place for other, place in enumerate(places) if other != at and place[0] == line]
        assert all(right <= begin or end <= left for _, begin, end in same)
    assert lines == len({line for line, _, _ in places})


def test_a_long_course_is_thinned_and_keeps_its_extremes() -> None:
    values = np.random.default_rng(0).random(50_000)
    values[31_234], values[40_000:41_000] = 9.0, np.nan
    x, y = chart.thinned(np.arange(50_000.0), values, 400)
    assert len(x) <= 900
    assert x[np.nanargmax(y)] == 31_234
    assert (x[0], x[-1]) == (0, 49_999)
    frame = chart.Frame.of((400, 190), (0.0, 50_000.0), (0.0, 9.0))
    assert chart.curve(frame, np.arange(50_000.0), values, "curve").count("M") == 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 500.0, [0, 100, 200, 300, 400, 500]), (-0.3, 1.9, [0, 0.5, 1, 1.5]), (0.68, 1.0, [0.7, 0.8, 0.9, 1.0])],
)
def test_ticks_are_round_numbers_within_the_axis(low: float, high: float, expected: list[float]) -> None:
    assert chart.ticks(low, high, 5) == pytest.approx(expected)


def test_every_measure_is_drawn_or_named_and_those_that_count_come_first() -> None:
    own = explanation_of(course({"sign_steps": 10.0, "novelty": 6.0, "surprise": 0.4}), judging(), "a log")
    assert own.main_measures[:2] == ("sign_steps", "novelty")
    assert len(own.main_measures) == 3


def test_equal_distances_are_drawn_without_a_normal_distribution() -> None:
    own = course()
    own.distances[QUERIES - 1] = np.full(120, 0.25)
    (plot,) = plots.prada_distances(explanation_of(own, EngineConfig(), "a log"))
    assert 'class="bar"' in plot.svg
    assert 'class="fitted"' not in plot.svg
