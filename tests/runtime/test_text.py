"""Text from outside made safe to print, and times as people read them."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.runtime.text import html_text, printable, printable_lines, rfc3339

_ANY = st.text(st.characters(codec=None, exclude_categories=()))


@given(_ANY)
def test_nothing_is_left_that_a_terminal_obeys_or_hides(text: str) -> None:
    shown = printable(text)
    assert {unicodedata.category(one) for one in shown}.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    assert len(shown.splitlines()) <= 1
    shown.encode()


@given(st.text(st.characters(exclude_categories=("C", "Z"))))
def test_what_can_be_read_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("müller gmbh", "müller gmbh"),
        ("\x1b[2Jana", "\\x1b[2Jana"),
        ("a\nweirguard: all is well\r", "a\\nweirguard: all is well\\r"),
        ("\u202eana\u2066", "\\u202eana\\u2066"),
        ("a\u200bb", "a\\u200bb"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_the_rest_is_written_as_its_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_traceback_keeps_its_lines() -> None:
    assert printable_lines("Error:\n\tin \x1b[1mf\n") == "Error:\n    in \\x1b[1mf\n"


def test_a_page_reads_it_as_text() -> None:
    assert html_text("<b>\x1b\u202e&'") == "&lt;b&gt;\\x1b\\u202e&amp;&#x27;"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_796_008_131.25, "2026-11-30T03:08:51.250Z"),
        (253_402_300_799.0, "9999-12-31T23:59:59.000Z"),
        (1e12, "1e+12 s after 1970"),
        (float("nan"), "nan s after 1970"),
    ],
)
def test_a_time_is_rfc_3339_in_utc(seconds: float, said: str) -> None:
    assert rfc3339(seconds) == said


@given(st.floats(0, 253_402_300_799))
def test_it_is_read_back_to_the_millisecond(seconds: float) -> None:
    assert abs(datetime.fromisoformat(rfc3339(seconds)).astimezone(UTC).timestamp() - seconds) <= 0.002
