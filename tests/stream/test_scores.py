"""Scores: the last word on each principal, not too often, at once when the verdict turns."""

from __future__ import annotations

import numpy as np

from detector.contracts.codecs.records import decode
from detector.contracts.findings import Score
from detector.contracts.queries import Count
from detector.core.engine import Engine, EngineConfig, Observation, PrincipalKey
from detector.policy.activity import Counted
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.stream.detector import DetectionInput, Detector
from detector.stream.scores import LEAST_QUERIES, ScoreBoard, last_rows
from tests.core.streams import batch
from tests.memory import traced
from tests.stream.world import TOPICS


def observation(indices: list[int], flagged: bool = False, score: float = float("nan")) -> Observation:
    rows = len(indices)
    return Observation(
        keys=[PrincipalKey("m", "1", "ana")],
        key_index=np.zeros(rows, np.int32),
        index=np.asarray(indices, np.int64),
        flagged=np.full(rows, flagged),
        score=np.full(rows, score),
        signals={"prada": np.full(rows, score)},
        repeats=np.zeros(rows, bool),
        findings=[],
        sections={},
    )


def board() -> ScoreBoard:
    return ScoreBoard(TOPICS, 0, Detector(Engine(EngineConfig()), Ledger(Policy())))


def queries(rows: int, time: float) -> DetectionInput:
    return DetectionInput([batch(np.zeros((rows, 2)), ["ana"] * rows, version="7")], np.full(rows, time))


def spoken(scores: ScoreBoard, seen: Observation, time: float) -> list[Score]:
    said = scores.due(seen, last_rows(seen), queries(len(seen.index), time))
    return [decode(Score, message.value) for message in said]


def waiting(scores: ScoreBoard) -> list[Score]:
    return [decode(Score, message.value) for message in scores.waiting()]


def test_the_last_row_speaks_for_all_of_a_principal_under_the_version_that_it_was_for() -> None:
    (score,) = spoken(board(), observation([30, 31, 32], score=0.5), 10.0)
    assert (score.queries, score.score, score.signals) == (33, 0.5, {"prada": 0.5})
    assert score.model_version == "7"


def test_a_suspect_of_few_queries_has_a_score_and_others_have_none() -> None:
    assert spoken(board(), observation([5]), 10.0) == []
    (score,) = spoken(board(), observation([5], flagged=True), 10.0)
    assert (score.queries, score.flagged) == (6, True)


def test_a_silent_signal_is_left_out() -> None:
    (score,) = spoken(board(), observation([30]), 10.0)
    assert (score.score, score.signals) == (None, {})


def test_no_second_score_within_a_second_unless_the_verdict_turns() -> None:
    scores = board()
    assert len(spoken(scores, observation([30]), 10.0)) == 1
    assert spoken(scores, observation([31]), 10.5) == []
    assert len(spoken(scores, observation([32], flagged=True), 10.6)) == 1
    assert len(spoken(scores, observation([33], flagged=True), 11.7)) == 1


def test_what_came_too_early_waits_and_is_told_once_as_of_its_last() -> None:
    scores = board()
    spoken(scores, observation([30]), 10.0)
    spoken(scores, observation([31], score=0.4), 10.2)
    spoken(scores, observation([32], score=0.5), 10.4)
    assert [(score.queries, score.score, score.signals) for score in waiting(scores)] == [(33, 0.5, {"prada": 0.5})]
    assert waiting(scores) == []


def test_what_was_told_in_the_meantime_does_not_wait() -> None:
    scores = board()
    for index, time in ((30, 10.0), (31, 10.5), (32, 12.0)):
        spoken(scores, observation([index]), time)
    assert waiting(scores) == []


def test_the_score_of_a_principal_with_few_queries_waits_for_the_timer() -> None:
    scores = board()
    assert spoken(scores, observation([LEAST_QUERIES - 2]), 10.0) == []
    assert [score.answered for score in waiting(scores)] == [0], "nobody was judged by this engine"
    assert waiting(scores) == []


def test_a_waiting_score_keeps_nothing_of_the_other_principals_of_its_batch() -> None:
    scores, rows = board(), 500
    wide = Observation(
        keys=[PrincipalKey("m", "1", f"p{at}") for at in range(rows)],
        key_index=np.arange(rows, dtype=np.int32),
        index=np.full(rows, LEAST_QUERIES - 2, np.int64),
        flagged=np.zeros(rows, bool),
        score=np.full(rows, np.nan),
        signals={f"s{at}": np.full(rows, 0.5) for at in range(100)},
        repeats=np.zeros(rows, bool),
        findings=[],
        sections={},
    )
    with traced("stream") as held:
        for number in range(20):
            for key in ("p0", f"q{number}"):
                wide.keys[0] = PrincipalKey("m", "1", key)
                assert list(scores.due(wide, [0], queries(rows, 10.0))) == []
                assert list(scores.due(wide, last_rows(wide), queries(rows, 10.0))) == []
        assert 0 < held() < 2**20 * 2
    assert sum(1 for _ in scores.waiting()) == rows + 20


def test_what_was_published_is_remembered_for_a_second_alone() -> None:
    scores = board()
    with traced("stream") as held:
        for number in range(6_000):
            seen = observation([30])
            seen.keys[0] = PrincipalKey("m", "1", f"p{number}")
            assert len(spoken(scores, seen, 10.0 + number / 100)) == 1
        assert 0 < held() < 400_000


def test_a_refused_row_has_no_score() -> None:
    assert spoken(board(), observation([-1]), 10.0) == []


def test_who_only_sends_what_cannot_be_judged_has_a_score_that_says_so() -> None:
    engine = Engine(EngineConfig(dimensions={"credit": 2}))
    detector = Detector(engine, Ledger(Policy()))
    counts = [
        Counted(Count("credit", "eve", "unjudged", 35, 0.0, "encoding"), 10.0, 1),
        Counted(Count("credit", "eve", "dropped", 3, 0.0, "queue"), 10.0, 1),
        Counted(Count("credit", "eve", "refused", 9, 0.0), 10.0, 1),
    ]
    asked = DetectionInput([batch(np.zeros((1, 3)), ["eve"])], np.full(1, 10.0), counts)
    observation, _ = detector.detect(asked)
    said = ScoreBoard(TOPICS, 0, detector).due(observation, last_rows(observation), asked)
    (score,) = [decode(Score, message.value) for message in said]
    assert (score.principal, score.queries, score.score, score.flagged) == ("eve", 0, None, True)
    assert (score.answered, score.judged, score.repeats) == (39, 0, 0)
    assert (score.unjudged, score.dropped) == ({"dimension": 1, "encoding": 35}, {"queue": 3})


def test_repeats_are_told_apart_from_what_was_judged() -> None:
    detector = Detector(Engine(EngineConfig()), Ledger(Policy()))
    rows = np.random.default_rng(0).random((30, 2))
    asked = DetectionInput([batch(np.concatenate((rows, rows[:10])), ["ana"] * 40)], np.full(40, 10.0))
    observation, _ = detector.detect(asked)
    (message,) = ScoreBoard(TOPICS, 0, detector).due(observation, last_rows(observation), asked)
    score = decode(Score, message.value)
    assert (score.answered, score.judged, score.repeats) == (40, 30, 10)
