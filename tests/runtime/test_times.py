"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.runtime.text import rfc3339


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
