"""Libraries that repeat themselves are heard once a minute, and nobody else is cut short."""

from __future__ import annotations

import logging

from detector.runtime.logging import REPEAT_SECONDS, RepeatFilter


def record(at: float, name: str = "aiokafka.client", line: int = 1, text: str = "node %s") -> logging.LogRecord:
    made = logging.LogRecord(name, logging.ERROR, "client.py", line, text, ("7",), None)
    made.created = at
    return made


def test_a_library_says_the_same_once_a_minute_and_how_often_it_would_have() -> None:
    repeats = RepeatFilter(["aiokafka"])
    assert [repeats.filter(record(at)) for at in (0.0, 0.1, 30.0, REPEAT_SECONDS - 1)] == [True, False, False, False]
    later = record(REPEAT_SECONDS)
    assert repeats.filter(later)
    assert later.getMessage() == "node 7 (3 more like it were left out)"


def test_another_place_in_the_code_and_other_loggers_are_heard() -> None:
    repeats = RepeatFilter(["aiokafka"])
    assert all(repeats.filter(record(0.0, line=line)) for line in range(5))
    assert all(repeats.filter(record(0.0, name=name)) for name in ("weirguard.stream", "aiokafka_tools") * 2)


def test_a_clock_that_is_set_back_silences_nobody() -> None:
    repeats = RepeatFilter(["kafka"])
    assert [repeats.filter(record(at, name="kafka")) for at in (1000.0, 10.0)] == [True, True]
