"""Alerts, decisions and related records as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.codecs import HEARTBEAT_KEY, KILL_SWITCH_KEY, REASONS, decision_key, decode, encode
from detector.contracts.errors import InvalidRecord
from detector.contracts.findings import (
    MEMBERS_SHOWN,
    Action,
    Alert,
    Audit,
    Cause,
    Command,
    DeadLetter,
    Decision,
    Evidence,
    GateReport,
    GroupAlert,
    GroupMember,
    Score,
    WhenStale,
)
from detector.contracts.principals import NAME_CHARACTERS

NAN, INFINITY = float("nan"), float("inf")
EVIDENCE = Evidence("w", 0.9, "1", 0.95)
ALERT = Alert("a", 1.0, "m", "1", "p", "prada", 0, "high", 1.5, 0.95, 7, (EVIDENCE,), "c")
CAUSE = Cause("a", "signal:prada", 60.0)
DECISION = Decision("d", "m", "p", Action("slow", 0.5), "enforce", (4, 2), 1.0, 60.0, (CAUSE,), "v")
COMMAND = Command("c", "add", 1.0, "ana", "m", "p", "why", Action("refuse"), "enforce", 60.0)
JOIN = Command("c", "join", 1.0, "group:g", "m", "p", "why", group="g", group_size=3, model_version="1")
AUDIT = Audit("u", 1.0, "command", "m", "p", "ana", "refused", {"seconds": 60.0, "why": "so"})
SCORE = Score("m", "1", "p", 1.0, 3, 1.5, True, {"prada": 0.9})
WHEN_STALE: dict[str, WhenStale] = {"*": "allow", "m": "refuse"}
GATE = GateReport("g", "1", 1.0, 9.0, 30.0, True, True, 0.5, 60.0, WHEN_STALE, 2, {"allowed": 7}, {"round": 3})
LETTER = DeadLetter("weirguard.queries", 0, 12, None, "syntax", "x" * 20_000)
RECORDS = [ALERT, DECISION, COMMAND, AUDIT, SCORE, GATE, JOIN, LETTER]

WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (ALERT, {"score": NAN}, "non-finite"),
    (ALERT, {"threshold": INFINITY}, "non-finite"),
    (ALERT, {"evidence": (replace(EVIDENCE, value=NAN),)}, "non-finite"),
    (ALERT, {"occurred_at": NAN}, "time"),
    (ALERT, {"principal": "*"}, "identity"),
    (ALERT, {"profile": "a\nb"}, "attribute"),
    (ALERT, {"query_index": -1}, "value"),
    (ALERT, {"revision": 0}, "value"),
    (DECISION, {"action": Action("slow")}, "action"),
    (DECISION, {"action": Action("slow", NAN)}, "action"),
    (DECISION, {"action": Action("refuse", 1.0)}, "action"),
    (DECISION, {"epoch": (0, -1)}, "value"),
    (DECISION, {"expires_at": INFINITY}, "time"),
    (DECISION, {"principal": "*"}, "identity"),
    (DECISION, {"model": "*", "principal": "*"}, "action"),
    (DECISION, {"causes": (replace(CAUSE, reason="r" * 5000),)}, "too-large"),
    (COMMAND, {"action": None}, "action"),
    (COMMAND, {"duration_seconds": INFINITY}, "action"),
    (COMMAND, {"issuer": ""}, "identity"),
    (COMMAND, {"group": "g"}, "action"),
    (COMMAND, {"model_version": "1"}, "action"),
    (COMMAND, {"group_size": 3}, "action"),
    (JOIN, {"group": None}, "identity"),
    (JOIN, {"group": "g" * 251, "issuer": "group:" + "g" * 251}, "identity"),
    (JOIN, {"issuer": "group:other"}, "identity"),
    (JOIN, {"issuer": "ana"}, "identity"),
    (JOIN, {"model_version": ""}, "identity"),
    (JOIN, {"group_size": 0}, "value"),
    (JOIN, {"mode": "observe"}, "action"),
    (AUDIT, {"detail": {"w": NAN}}, "non-finite"),
    (SCORE, {"signals": {"prada": NAN}}, "non-finite"),
    (SCORE, {"score": INFINITY}, "non-finite"),
    (GATE, {"gate": "*"}, "identity"),
    (GATE, {"counts": {"allowed": -1}}, "value"),
    (GATE, {"responses": {"a\nb": 1}}, "identity"),
    (GATE, {"when_stale": {"": "allow"}}, "identity"),
    (GATE, {"report_seconds": 0.0}, "value"),
    (GATE, {"max_stale_seconds": NAN}, "non-finite"),
    (GATE, {"stale_seconds": INFINITY}, "non-finite"),
    (LETTER, {"offset": -1}, "value"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(record: Any) -> None:
    assert decode(type(record), encode(record)) == record


GOLDEN_ALERT = (
    b'{"schema":"weirguard.alert/1","id":"a","occurred_at":1.0,"model":"m","model_version":"1","principal":"p",'
    b'"signal":"prada","episode":0,"severity":"high","score":1.5,"threshold":0.95,"query_index":7,"evidence":[{"name":"w",'
    b'"value":0.9,"unit":"1","threshold":0.95}],"configuration":"c","profile":null,"technique":"AML.T0024.002",'
    b'"suppressed_by":null}'
)
GOLDEN_SCORE = (
    b'{"schema":"weirguard.score/1","model":"m","model_version":"1","principal":"p","occurred_at":1.0,"queries":3,'
    b'"score":1.5,"flagged":true,"signals":{"prada":0.9},"answered":null,"judged":null,"repeats":null,"unjudged":{},'
    b'"dropped":{}}'
)


@pytest.mark.parametrize(("golden", "record"), [(GOLDEN_ALERT, ALERT), (GOLDEN_SCORE, SCORE)])
def test_records_of_builds_without_revisions_and_calibrated_are_read(golden: bytes, record: Any) -> None:
    read = decode(type(record), golden)
    assert read == record
    assert read.calibrated is None


@pytest.mark.parametrize(("record", "change", "reason"), WRONG)
def test_what_no_reader_takes_is_not_written(record: Any, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRecord) as refusal:
        encode(replace(record, **change))
    assert refusal.value.reason == reason


def test_a_record_of_another_kind_or_version_is_refused() -> None:
    for value in (encode(SCORE), encode(ALERT).replace(b"alert/1", b"alert/2"), b'{"schema":"weirguard.alert/9"}'):
        with pytest.raises(InvalidRecord) as refusal:
            decode(Alert, value)
        assert refusal.value.reason == "schema"


def test_a_null_value_is_refused_as_empty() -> None:
    with pytest.raises(InvalidRecord, match="empty"):
        decode(Decision, None)


def test_a_field_of_a_later_minor_version_is_skipped() -> None:
    fields = json.loads(encode(DECISION)) | {"colour": {"deep": [1]}}
    assert decode(Decision, json.dumps(fields).encode()) == DECISION


def test_the_key_of_a_decision_is_a_json_array_without_spaces() -> None:
    assert decision_key("m", 'kunde "ß"') == '["m","kunde \\"ß\\""]'.encode()
    assert decision_key("*", "*") == KILL_SWITCH_KEY == b'["*"]'
    assert decision_key("*", "detector") == HEARTBEAT_KEY == b'["*","detector"]'


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(RECORDS[:6]), st.data())
def test_a_damaged_record_is_refused_or_read_by_the_rules(record: Any, data: st.DataObject) -> None:
    value = bytearray(encode(record))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(value)))
        stop = data.draw(st.integers(start, min(len(value), start + 8)))
        value[start:stop] = data.draw(st.binary(max_size=8))
    found, reason = _attempt(type(record), bytes(value))
    assert reason in {None, *REASONS}
    assert found is None or decode(type(record), encode(found)) == found


def _attempt(kind: Any, value: bytes) -> tuple[Any, str | None]:
    try:
        return decode(kind, value), None
    except InvalidRecord as error:
        return None, error.reason


def test_a_group_with_the_most_and_longest_names_fits_into_a_message() -> None:
    members = tuple(GroupMember("\U0001f600" * NAME_CHARACTERS, 1e-300 / 3, 2**63 - 1) for _ in range(MEMBERS_SHOWN))
    group = GroupAlert("g", 1, 1.0, "m", "1", "high", 2.0, 1e-9, 10_000, members, (), "c", "p")
    assert len(encode(group)) < 900_000
