"""Logs: one object a line, and never a customer's data or a key."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import structlog

from detector.runtime.logging import REPEAT_SECONDS, RepeatFilter, configure_logging
from detector.runtime.sections import LoggingSettings


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def _explode() -> None:
    features = "7.25 8.5"
    raise RuntimeError(str(len(features)))


def test_json_has_one_object_a_line_with_level_time_and_name(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggingSettings())
    structlog.get_logger("weirguard.test").info("started", partitions=12)
    logging.getLogger("somewhere").warning("odd %s", "thing")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["event"], first["level"], first["partitions"]) == ("started", "info", 12)
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["logger"]) == ("odd thing", "somewhere")


def test_the_level_is_obeyed_and_libraries_stay_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggingSettings(level="debug"))
    structlog.get_logger().debug("ours")
    logging.getLogger("aiokafka.client").debug("record b'features'")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["ours"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_data_and_secrets_are_withheld(form: Literal["json", "console"], capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LoggingSettings(format=form))
    vector = np.full((2, 3), 7.25, np.float32)
    log = structlog.get_logger()
    log.info(
        "x", features=[7.25], api_key="hunter2", rows=vector, raw=b"7.25", many=[7.25] * 100, a={"secret": "hunter2"}
    )
    written = capsys.readouterr().err
    assert "7.25" not in written
    assert "hunter2" not in written
    assert "[array float32 (2, 3)]" in written


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_local_variables(
    form: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LoggingSettings(format=form))
    try:
        _explode()
    except RuntimeError:
        structlog.get_logger().exception("failed")
    written = capsys.readouterr().err
    assert "RuntimeError" in written
    assert "7.25" not in written


HOSTILE = "\x1b[2J\x1b]0;x\x07\u202eana\u2066\nlevel=info all is well\r\x9b"


@pytest.mark.parametrize("form", ["json", "console"])
def test_text_from_outside_cannot_act_on_a_terminal_or_forge_a_line(
    form: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LoggingSettings(format=form))
    log = structlog.get_logger("weirguard.test")
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError:
        log.exception(HOSTILE, principal=HOSTILE, several=[HOSTILE], by={HOSTILE: HOSTILE}, error=ValueError(HOSTILE))
    logging.getLogger("somewhere").warning("odd %s", HOSTILE)
    written = capsys.readouterr().err
    if form == "console":  # its own colours are no text of anybody
        written = re.sub(r"\x1b\[\d*m", "", written)
    assert not set(written) & {"\x1b", "\x07", "\u202e", "\u2066", "\r", "\x9b"}
    assert not any(line.startswith("level=info") for line in written.splitlines())
    assert "ana" in written


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
