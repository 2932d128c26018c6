"""Scores: the last word on each principal, not too often, at once when the verdict turns."""

from __future__ import annotations

import numpy as np

from detector.contracts.codecs.records import decode
from detector.contracts.findings import Score
from detector.core.batch import Observation, PrincipalKey
from detector.stream.scores import LEAST_QUERIES, ScoreBoard, last_rows
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


def spoken(board: ScoreBoard, seen: Observation, time: float) -> list[Score]:
    return [
        decode(Score, message.value) for message in board.due(seen, last_rows(seen), np.full(len(seen.index), time))
    ]


def test_the_last_row_speaks_for_all_of_a_principal() -> None:
    (score,) = spoken(ScoreBoard(TOPICS, 0), observation([30, 31, 32], score=0.5), 10.0)
    assert (score.queries, score.score, score.signals) == (33, 0.5, {"prada": 0.5})


def test_a_silent_signal_is_left_out() -> None:
    (score,) = spoken(ScoreBoard(TOPICS, 0), observation([30]), 10.0)
    assert (score.score, score.signals) == (None, {})


def test_no_second_score_within_a_second_unless_the_verdict_turns() -> None:
    board = ScoreBoard(TOPICS, 0)
    assert len(spoken(board, observation([30]), 10.0)) == 1
    assert spoken(board, observation([31]), 10.5) == []
    assert len(spoken(board, observation([32], flagged=True), 10.6)) == 1
    assert len(spoken(board, observation([33], flagged=True), 11.7)) == 1


def test_a_principal_with_few_queries_has_no_score() -> None:
    assert spoken(ScoreBoard(TOPICS, 0), observation([LEAST_QUERIES - 2]), 10.0) == []


def test_a_refused_row_has_no_score() -> None:
    assert spoken(ScoreBoard(TOPICS, 0), observation([-1]), 10.0) == []
