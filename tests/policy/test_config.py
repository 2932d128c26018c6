"""The policy refuses invalid settings, and different policies have different versions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Action
from detector.policy.allowlist import Allowlist, Exemption, parse_allowlist
from detector.policy.config import Policy
from detector.policy.ladder import Rung, plain_ladder

SLOW, REFUSE = Action("slow", 1.0), Action("refuse")


def test_the_default_observes() -> None:
    assert Policy().mode_of("any") == "observe"


def test_the_version_changes_with_any_part_and_only_then() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"mode": "enforce"},
        {"model_modes": {"a": "observe"}},
        {"signal_modes": {"a": "observe"}},
        {"ladder": plain_ladder(Rung(0, SLOW))},
        {"decision_seconds": 60.0},
        {"allowlist": Allowlist((Exemption("a", "b", "c", 1.0),))},
    ]
    versions = {replace(Policy(), **change).version for change in changes}
    assert len(versions) == len(changes)
    assert Policy().version == Policy().version


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "watch"}, "mode 'watch'"),
        ({"model_modes": {"m": "off"}}, "mode 'off'"),
        ({"decision_seconds": 0.0}, "decision_seconds"),
        ({"decision_seconds": float("nan")}, "decision_seconds"),
        ({"ladder": plain_ladder()}, "begin with a step"),
        ({"ladder": plain_ladder(Rung(1, SLOW))}, "begin with a step"),
        ({"ladder": plain_ladder(Rung(0, SLOW), Rung(0, REFUSE))}, "more queries"),
        ({"ladder": plain_ladder(Rung(0, REFUSE), Rung(5, SLOW))}, "harsher"),
        ({"ladder": plain_ladder(Rung(0, Action("slow")))}, "queries_per_second"),
        ({"ladder": plain_ladder(Rung(0, Action("none")))}, "cannot be imposed"),
    ],
)
def test_an_invalid_policy_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Policy(**wrong)


def test_an_allowlist_is_read_with_days_and_times() -> None:
    allowlist = parse_allowlist(
        """
        [[allow]]
        principal = "ada"
        model = "digits"
        owner = "sales"
        reason = "load test"
        expires = 1970-01-02
        [[allow]]
        principal = "bob"
        owner = "support"
        reason = "partner"
        expires = 1970-01-01T01:00:00+01:00
        """
    )
    assert [exemption.expires_at for exemption in allowlist.exemptions] == [86_400.0, 0.0]
    assert allowlist.covering("digits", "ada", 86_399.0) is not None
    assert allowlist.covering("digits", "ada", 86_400.0) is None
    assert allowlist.covering("other", "ada", 0.0) is None
    assert allowlist.covering("any", "bob", -1.0) is not None


def test_of_two_exemptions_the_longer_counts() -> None:
    short, long = Exemption("ada", "o", "r", 10.0, "digits"), Exemption("ada", "o", "r", 20.0)
    assert Allowlist((short, long)).covering("digits", "ada", 0.0) == long


ENTRY = '[[allow]]\nprincipal = "a"\nowner = "o"\nreason = "r"\nexpires = 2027-01-01\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "not valid TOML"),
        (ENTRY + "[deny]", "unknown keys"),
        (ENTRY.replace("[[allow]]", "[allow]"), "each entry"),
        ("allow = [1]", "entry 1 is not a table"),
        (ENTRY + "note = 1", "unknown \\['note'\\]"),
        (ENTRY.replace('reason = "r"\n', ""), "missing \\['reason'\\]"),
        (ENTRY.replace('"o"', '""'), "owner is ''"),
        (ENTRY.replace('"o"', "3"), "owner is 3"),
        (ENTRY.replace("2027-01-01", '"2027-01-01"'), "write a date"),
        (ENTRY.replace("2027-01-01", "2027-01-01T00:00:00"), "no offset"),
        (ENTRY.replace('"r"', f'"{"r" * 300}"'), "longer than"),
        (ENTRY.replace('"a"', '"*"'), "entry of '\\*'"),
        (ENTRY + ENTRY.replace('"a"', "1"), "entry 2"),
    ],
)
def test_an_invalid_allowlist_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_allowlist(text)
