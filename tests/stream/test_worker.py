"""A worker makes its loops ready before it takes queries, and its log says what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog

from detector.core.loops import compiled
from detector.core.loops.compiled import SWITCH, listen
from detector.stream import worker
from detector.stream.worker import load_loops

Log = list[MutableMapping[str, Any]]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    monkeypatch.setattr(compiled, "_events", compiled._Events())
    with structlog.testing.capture_logs() as entries:
        yield entries
    listen(None)


def test_it_says_how_long_the_loops_took(log: Log) -> None:
    load_loops("default", has_profile=False)
    assert log[-1]["event"] == "loops are ready"


def test_it_says_that_loops_are_switched_off(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")
    load_loops("default", has_profile=False)
    assert [entry["log_level"] for entry in log] == ["error"]
    assert SWITCH in str(log[0]["event"])


def test_what_happens_to_the_loops_is_logged(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def eventful(mode: str, *, has_profile: bool) -> None:
        for name in ("one", "two"):
            compiled._events.add("compiling", name)
        compiled._events.add("slow", "there is no Numba")
        compiled._events.add("not_kept", "the disk is full")

    monkeypatch.setattr(worker, "warm_for", eventful)
    load_loops("default", has_profile=False)
    assert [entry["log_level"] for entry in log] == ["warning", "error", "warning", "info"]
    assert "there is no Numba" in str(log[1]["event"])
    assert "the disk is full" in str(log[2]["event"])
    assert log[3]["compiled"] == 2
