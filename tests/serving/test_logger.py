"""The logger, without a broker: it neither waits nor raises."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import numpy as np
import pytest

from detector.contracts.principals import usable_principal
from detector.serving import QueryLogger
from tests.serving.doubles import NOWHERE, KeepingLogger


@pytest.mark.parametrize(
    ("features", "outputs", "kind", "shapes"),
    [
        ([1, 2, 3], [0.5, 0.5], "probabilities", ((1, 3), (1, 2))),
        (np.ones(3), np.array([1.0]), "probabilities", ((1, 3), (1, 1))),
        ([[1, 2], [3, 4], [5, 6]], [[0.5, 0.5]] * 3, "probabilities", ((3, 2), (3, 2))),
        (np.ones((2, 4), dtype=np.float16), [0, 1], "label", ((2, 4), (2, 1))),
        ([1, 2], 3.5, "score", ((1, 2), (1, 1))),
    ],
)
def test_lists_and_arrays_of_one_row_or_many_are_taken(features: Any, outputs: Any, kind: Any, shapes: Any) -> None:
    logger = KeepingLogger()
    logger.log("p", "m", "1", features, outputs, output_kind=kind)
    (rows,) = logger.kept()
    assert (rows.features.shape, rows.outputs.shape) == shapes
    assert rows.features.dtype == np.float32
    assert logger.snapshot()["logged"] == len(rows.event_ids)


def test_the_caller_may_reuse_a_buffer() -> None:
    logger = KeepingLogger()
    buffer = np.ones((1, 2), dtype=np.float32)
    logger.log("p", "m", "1", buffer, buffer)
    buffer[:] = 7
    (rows,) = logger.kept()
    assert rows.features.tolist() == rows.outputs.tolist() == [[1.0, 1.0]]


GOOD: dict[str, Any] = {
    "principal": "p",
    "model": "m",
    "model_version": "1",
    "features": [1.0, 2.0],
    "outputs": [1.0],
}


class _Nameless:
    def __str__(self) -> str:
        raise RuntimeError("no")


class _Hostile:
    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "call",
    [
        {"features": "text"},
        {"features": []},
        {"features": np.ones((2, 2, 2))},
        {"features": [[1, 2], [3]]},
        {"features": _Hostile()},
        {"features": None},
        {"outputs": [[1.0], [1.0]]},
        {"outputs": []},
        {"outputs": ["two", "texts"]},
        {"output_kind": "logits"},
        {"model_version": ""},
        {"model_version": "\ud800"},
        {"event_id": ["a", "b"]},
        {"occurred_at": [1.0, 2.0]},
        {"occurred_at": "yesterday"},
        {"missing": [True] * 5},
        {"organisation": ["a", "b"]},
        {"colour": "red"},
    ],
)
def test_what_cannot_be_used_is_swallowed_and_counted_against_its_principal(call: dict[str, Any]) -> None:
    logger = KeepingLogger()
    logger.log(**{**GOOD, **call})
    assert logger.kept() == []
    counted = logger.snapshot()
    assert (counted["invalid"], counted["logged"], counted["unattributed"]) == (1, 0, 0)
    assert logger.unjudged_of("p") == counted["unjudged"] > 0


@pytest.mark.parametrize("call", [{"model": "a\nb"}, {"model": None}, {"principal": _Nameless()}])
def test_what_can_be_counted_for_nobody_is_counted_all_the_same(call: dict[str, Any]) -> None:
    logger = KeepingLogger()
    logger.log(**{**GOOD, **call})
    counted = logger.snapshot()
    assert (counted["invalid"], counted["unjudged"], counted["unattributed"]) == (1, 1, 1)


@pytest.mark.parametrize("principal", ["", "*", "x" * 1_000, "a\nb", "\ud800", "odd\x9f"])
def test_a_principal_of_any_name_is_logged_under_the_name_that_decisions_will_have(principal: str) -> None:
    logger = KeepingLogger()
    logger.log(**{**GOOD, "principal": principal})
    logger.refused(principal, "m")
    logger.unjudged(principal, "m", reason="too-large")
    (rows,) = logger.kept()
    assert rows.principal == usable_principal(principal) != principal
    assert {count.principal for count in logger.counts()} == {rows.principal}
    assert logger.snapshot()["repaired"] == 1


@pytest.mark.parametrize(
    ("principal", "name"), [(None, "anonymous"), (7, "7"), (uuid.UUID(int=5), f"{uuid.UUID(int=5)}")]
)
def test_a_principal_that_is_no_text_is_logged_too(principal: Any, name: str) -> None:
    logger = KeepingLogger()
    logger.log(**{**GOOD, "principal": principal})
    assert [rows.principal for rows in logger.kept()] == [name]


def test_event_ids_are_the_callers_or_unique() -> None:
    logger = KeepingLogger()
    logger.log("p", "m", "1", [[1], [2]], [[1], [1]], event_id="request")
    logger.log("p", "m", "1", [[1], [2]], [[1], [1]])
    logger.log("p", "m", "1", [1], [1])
    ids = [event_id for rows in logger.kept() for event_id in rows.event_ids]
    assert ids[:2] == ["request-0", "request-1"]
    assert len(set(ids)) == 5


def test_a_flood_drops_fairly_and_says_whose_queries_are_missing() -> None:
    logger = KeepingLogger(max_queries=100)
    for number in range(2_000):
        logger.log("flood", "m", "1", [1.0], [1.0])
        if number % 200 == 0:
            logger.log("quiet", "m", "1", [1.0], [1.0])
    assert logger.losses() == {"flood": 1_910}
    assert logger.snapshot()["dropped"] == 1_910
    assert len(logger.kept()) == 100


def test_one_huge_matrix_does_not_push_out_the_others() -> None:
    logger = KeepingLogger(max_queries=1_000)
    logger.log("quiet", "m", "1", np.ones((100, 2)), np.ones((100, 1)))
    logger.log("flood", "m", "1", np.ones((50_000, 2)), np.ones((50_000, 1)))
    losses = logger.losses()
    kept = {name: sum(rows.queries for rows in logger.kept() if rows.principal == name) for name in ("flood",)}
    assert losses.keys() == {"flood"}
    assert kept["flood"] + losses["flood"] == 50_000
    assert kept["flood"] > 700


def test_refusals_are_counted_by_principal() -> None:
    logger = KeepingLogger()
    for _ in range(3):
        logger.refused("thief", "m")
    logger.refused("thief", "m", queries=5)
    for wrong in (0, -1, 1 << 70, "3", None):
        logger.refused("thief", "m", queries=wrong)  # type: ignore[arg-type]
    assert logger.refusals() == {"thief": 8}
    assert (logger.snapshot()["refused"], logger.snapshot()["invalid"]) == (8, 5)


def test_queries_that_never_reached_the_logger_are_counted_with_a_reason() -> None:
    logger = KeepingLogger()
    logger.unjudged("thief", "m", 3, reason="too-large")
    logger.unjudged("thief", "m", reason="too-large")
    logger.unjudged("thief", "m", reason="body-unreadable")
    logger.unjudged("thief", "m", reason="No such\nword")
    logger.unjudged("thief", "m", 0, reason="too-large")
    logger.unjudged("thief", "m", reason=None)  # type: ignore[arg-type]
    found = {(count.kind, count.reason): count.queries for count in logger.counts()}
    assert found == {("unjudged", "too-large"): 4, ("unjudged", "body-unreadable"): 1, ("unjudged", "unknown"): 2}
    assert (logger.snapshot()["unjudged"], logger.snapshot()["invalid"]) == (7, 1)


def test_without_a_broker_everything_is_taken_or_counted_and_the_end_comes_in_time() -> None:
    """Neither making, using nor closing a logger waits for the broker, and its memory is bounded."""
    logger = QueryLogger(NOWHERE, max_queries=500)
    for number in range(5_000):
        logger.log(f"p{number % 5}", "m", "1", [1.0, 2.0], [1.0])
    assert logger.snapshot()["logged"] == 5_000
    assert logger.snapshot()["queued"] == 500
    assert logger.snapshot()["dropped"] == 4_500
    begun = time.monotonic()
    logger.close(0.2)
    assert time.monotonic() - begun < 2.0
    assert logger.snapshot()["dropped"] == 5_000
    logger.log("p", "m", "1", [1.0], [1.0])
    assert logger.snapshot()["dropped"] == 5_001


def test_a_logger_that_is_never_used_starts_no_thread_and_closes() -> None:
    before = threading.active_count()
    QueryLogger(NOWHERE).close()
    assert threading.active_count() == before
