"""Names that any caller can send: kept if they fit a record, else replaced by a name derived from them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.contracts.principals import (
    ANONYMOUS,
    EVENT_ID_CHARACTERS,
    NAME_CHARACTERS,
    is_name,
    is_plain,
    principal_of,
    usable_event_id,
    usable_principal,
)

_ANY_TEXT = st.text(st.characters(codec=None), max_size=300)
_DERIVED = re.compile("odd:[0-9a-f]{32}")


@given(_ANY_TEXT)
def test_what_comes_out_is_fit_for_a_record_and_stays_as_it_is(text: str) -> None:
    name, event_id = usable_principal(text), usable_event_id(text)
    assert is_name(name) and is_plain(event_id, EVENT_ID_CHARACTERS) and event_id
    assert (name + event_id).encode()
    assert usable_principal(name) == name
    assert usable_event_id(event_id) == event_id


@pytest.mark.parametrize("text", ["a", "x" * NAME_CHARACTERS, "\N{SNOWMAN}", "a\u2028b", "**"])
def test_a_fit_name_is_kept(text: str) -> None:
    assert usable_principal(text) == text


@pytest.mark.parametrize("text", ["", "*", "x" * (NAME_CHARACTERS + 1), "a\nb", "a\x85b", "\x00", "\ud800", "a\udfff"])
def test_an_odd_name_becomes_a_digest_of_it(text: str) -> None:
    assert _DERIVED.fullmatch(usable_principal(text))
    assert usable_principal(text) != usable_principal(text + "!" * 300)


def test_event_ids_are_shorter_and_may_be_a_star() -> None:
    assert usable_event_id("*") == "*"
    assert usable_event_id("x" * EVENT_ID_CHARACTERS) == "x" * EVENT_ID_CHARACTERS
    assert _DERIVED.fullmatch(usable_event_id("x" * (EVENT_ID_CHARACTERS + 1)))


@pytest.mark.parametrize(("value", "name"), [(None, ANONYMOUS), (7, "7"), ("a", "a")])
def test_values_that_are_no_text_name_somebody_too(value: object, name: str) -> None:
    assert principal_of(value) == name
