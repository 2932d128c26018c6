"""The allowlist of a running detector: exemptions by command act at once, end on time and survive a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from detector.contracts.codecs import encode
from detector.contracts.errors import ConfigurationError, NewerStateLog
from detector.contracts.findings import Action, Command
from detector.policy import allowlist
from detector.policy.activity import UNAFFILIATED, Affiliation, Effects
from detector.policy.allowlist import MOST_SECONDS, Allowlist, Exemption, parse_allowlist
from detector.policy.config import Policy
from detector.policy.ledger import Ledger

from .oracle import Row
from .streams import MODEL, activity

ENFORCE = Policy(mode="enforce", enforce_uncalibrated=True)
DAY = 86_400.0


def allow(seconds: float = DAY, model: str = "*", principal: str = "ada", **fields: Any) -> Command:
    command = Command("a1", "allow", 0.0, "eve", model, principal, "load test", duration_seconds=seconds, owner="sales")
    return replace(command, **fields)


def disallow(model: str = "*", principal: str = "ada") -> Command:
    return Command("d1", "disallow", 0.0, "eve", model, principal, "test is over")


def queries(*times: float, found: bool = True, principal: str = "ada", origins: Any = None) -> Any:
    rows = [Row(time, principal, "1", True, ("prada",) if found and at == 0 else ()) for at, time in enumerate(times)]
    return replace(activity(rows), affiliations=[origins] * len(rows) if isinstance(origins, tuple) else origins)


def said(effects: Effects) -> list[tuple[str, str]]:
    return [(decision.action.name, decision.mode) for decision in effects.decisions]


def kinds(effects: Effects) -> list[str]:
    return [audit.kind for audit in effects.audits]


def test_an_exempt_principal_gets_alerts_that_say_so_and_no_decision() -> None:
    ledger = Ledger(ENFORCE)
    (audit,) = ledger.command(allow(), 1000.0).audits
    assert (audit.kind, audit.actor, audit.model, audit.summary) == (
        "command",
        "eve",
        "*",
        "allowed for 1 days (sales)",
    )
    assert (audit.detail["owner"], audit.detail["until"]) == ("sales", 1000.0 + DAY)
    assert encode(audit)
    effects = ledger.observe(queries(1001.0))
    assert [alert.suppressed_by for alert in effects.alerts] == ["allowlist: load test (sales)"]
    assert (effects.decisions, kinds(effects)) == ([], ["decision_withheld"])
    assert said(ledger.observe(queries(1001.0, principal="bob"))) == [("slow", "enforce")]


def test_it_releases_a_suspect_at_once_and_ends_at_once() -> None:
    ledger = Ledger(ENFORCE)
    ledger.observe(queries(1000.0))
    effects = ledger.command(allow(), 1001.0)
    assert (said(effects), kinds(effects)) == ([("none", "enforce")], ["command", "decision_withheld", "release"])
    assert said(ledger.observe(queries(1002.0, 5000.0, found=False))) == []
    effects = ledger.command(disallow(), 5001.0)
    assert (said(effects), kinds(effects)) == ([("slow", "enforce")], ["command", "decision"])


def test_it_ends_on_time_without_a_word() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(allow(100.0), 1000.0)
    assert said(ledger.observe(queries(1001.0, 1099.0, 1100.0))) == [("slow", "enforce")]


def test_it_may_hold_for_one_model_alone() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(allow(model="another"), 1000.0)
    assert said(ledger.observe(queries(1001.0))) == [("slow", "enforce")]
    assert said(ledger.command(allow(model=MODEL), 1002.0)) == [("none", "enforce")]
    ledger.command(disallow(model="another"), 1003.0)
    assert said(ledger.observe(queries(1004.0, found=False))) == []


def test_it_does_not_hold_against_an_operator_and_holds_against_groups() -> None:
    ledger = Ledger(ENFORCE)
    ledger.command(allow(), 1000.0)
    add = Command("c1", "add", 0.0, "eve", MODEL, "ada", "abuse", Action("refuse"), None, 600.0)
    assert said(ledger.command(add, 1001.0)) == [("refuse", "enforce")]
    join = Command("j1", "join", 1.0, "group:g", MODEL, "ada", "revision 1", group="g")
    assert kinds(ledger.command(join, 1002.0)) == ["command", "decision_withheld"]


@pytest.mark.parametrize("wrong", [allow(MOST_SECONDS + 1), disallow(), disallow("digits"), allow(reason="r" * 300)])
def test_what_cannot_be_carried_out_is_refused_and_changes_nothing(wrong: Command) -> None:
    ledger = Ledger(ENFORCE)
    effects = ledger.command(wrong, 1000.0)
    assert (kinds(effects), effects.allowlist) == (["command_refused"], None)
    assert said(ledger.observe(queries(1001.0))) == [("slow", "enforce")]


def test_a_second_command_replaces_the_first_and_the_file_stays() -> None:
    listed = Exemption("ada", "file owner", "contract", 2000.0)
    ledger = Ledger(replace(ENFORCE, allowlist=Allowlist((listed,))))
    ledger.command(allow(), 1000.0)
    ledger.command(allow(10.0), 1001.0)
    assert said(ledger.observe(queries(1500.0))) == []
    assert kinds(ledger.command(disallow(), 1501.0)) == ["command", "decision_withheld"]
    assert kinds(ledger.command(disallow(), 1502.0)) == ["command_refused"]
    assert said(ledger.observe(queries(2000.0, found=False))) == [("slow", "enforce")]


def test_it_survives_a_restart_from_changes_and_from_a_dump() -> None:
    ledger, changed, dumped = Ledger(ENFORCE), Ledger(ENFORCE), Ledger(ENFORCE)
    steps = [allow(), allow(principal="bob"), disallow(principal="bob"), allow(5.0, principal="eve")]
    for at, step in enumerate(steps):
        section = ledger.command(step, 1000.0 + at).allowlist
        assert section is not None
        changed.exemptions.absorb(section)
        changed.exemptions.absorb(section)
    whole = ledger.exemptions.dump()
    assert whole is not None
    dumped.exemptions.absorb(whole)
    assert changed.exemptions.dump() == dumped.exemptions.dump() == whole
    assert len(dumped.exemptions) == 2
    assert said(dumped.observe(queries(1010.0))) == []
    assert Ledger(ENFORCE).exemptions.dump() is None


GOLDEN = bytes.fromhex(
    "9194a97072696e636970616ca3616461c086a97072696e636970616ca3616461a56f776e6572a573616c6573a6726561736f"
    "6ea96c6f61642074657374aa657870697265735f6174cb40f5568000000000a56d6f64656cc0a573636f7065a97072696e63"
    "6970616c"
)


def test_a_section_of_this_version_can_always_be_read() -> None:
    """Golden bytes: if this fails, give the format a new number and keep reading the old one."""
    ledger = Ledger(ENFORCE)
    ledger.exemptions.absorb((1, GOLDEN))
    assert ledger.exemptions.dump() == (1, GOLDEN)
    assert ledger.exemptions.covering("any", "ada", 0.0, UNAFFILIATED) is not None
    with pytest.raises(NewerStateLog, match="format 2"):
        ledger.exemptions.absorb((2, GOLDEN))


def test_exemptions_are_bounded_and_those_that_have_expired_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowlist, "MOST_EXEMPTIONS", 3)
    ledger = Ledger(ENFORCE)
    for number in range(3):
        ledger.command(allow(100.0, principal=f"p{number}"), 1000.0)
    assert kinds(ledger.command(allow(principal="one more"), 1001.0)) == ["command_refused"]
    assert kinds(ledger.command(allow(principal="one more"), 1100.0)) == ["command"]
    assert len(ledger.exemptions) == 1


def test_while_the_list_cannot_be_read_nothing_is_enforced_but_an_operators_decision() -> None:
    ledger = Ledger(replace(ENFORCE, allowlist=Allowlist(unreadable="bad file")))
    assert said(ledger.observe(queries(1000.0))) == [("slow", "observe")]
    add = Command("c1", "add", 0.0, "eve", MODEL, "ada", "abuse", Action("refuse"), "enforce", 600.0)
    assert said(ledger.command(add, 1001.0)) == [("refuse", "enforce")]
    assert replace(ENFORCE, allowlist=Allowlist(unreadable="bad file")).version != ENFORCE.version


ACME: Affiliation = ("acme", "203.0.113.0/24")


@pytest.mark.parametrize(
    ("scope", "name", "covered"),
    [
        ("organisation", "acme", True),
        ("organisation", "acm", False),
        ("network", "203.0.113.0/24", True),
        ("network", "203.0.0.0/16", True),
        ("network", "203.0.113.0/25", False),
        ("network", "2001:db8::/32", False),
    ],
)
def test_an_organisation_and_a_network_are_exempt_by_the_place_of_the_query(
    scope: Any, name: str, covered: bool
) -> None:
    ledger = Ledger(ENFORCE)
    assert not ledger.exemptions.needs_affiliations
    assert kinds(ledger.command(allow(principal=name, scope=scope), 1000.0)) == ["command"]
    assert ledger.exemptions.needs_affiliations
    effects = ledger.observe(queries(1001.0, origins=ACME))
    assert (said(effects) == [], effects.alerts[0].suppressed_by is not None) == (covered, covered)
    assert said(ledger.observe(queries(1001.0, principal="bob", origins=("", "")))) == [("slow", "enforce")]
    assert said(ledger.observe(queries(1001.0, principal="eve", origins=("", "no network")))) == [("slow", "enforce")]


def test_a_suspect_who_comes_from_elsewhere_is_exempt_no_longer_whatever_the_cut() -> None:
    elsewhere: Affiliation = ("other", "198.51.100.0/24")
    affiliations = [ACME, ACME, elsewhere, elsewhere, ACME, UNAFFILIATED]
    whole = replace(queries(*(1000.0 + at for at in range(6))), affiliations=affiliations)
    expected = [("slow", "enforce"), ("none", "enforce"), ("slow", "enforce")]
    ledger, cut = Ledger(ENFORCE), Ledger(ENFORCE)
    for own in (ledger, cut):
        own.command(allow(principal="acme", scope="organisation"), 999.0)
    assert said(ledger.observe(whole)) == expected
    parts = [queries(1000.0 + at, found=at == 0, origins=[origin]) for at, origin in enumerate(affiliations)]
    assert [one for part in parts for one in said(cut.observe(part))] == expected
    assert ledger.dump(ledger.keys()) == cut.dump(cut.keys())


def test_exempting_an_organisation_releases_its_suspects_at_their_next_query_or_at_once_if_it_was_known() -> None:
    ledger = Ledger(ENFORCE)
    ledger.observe(queries(1000.0))
    acme = allow(principal="acme", scope="organisation")
    assert said(ledger.command(acme, 1001.0)) == []
    assert said(ledger.observe(queries(1002.0, found=False, origins=ACME))) == [("none", "enforce")]
    ended = replace(disallow(principal="acme"), scope="organisation")
    assert said(ledger.command(ended, 1003.0)) == [("slow", "enforce")]
    assert said(ledger.command(acme, 1004.0)) == [("none", "enforce")]


def test_a_network_that_is_none_is_refused() -> None:
    ledger = Ledger(ENFORCE)
    assert kinds(ledger.command(allow(principal="acme", scope="network"), 1000.0)) == ["command_refused"]


def test_the_file_may_name_organisations_and_networks() -> None:
    entry = '[[allow]]\n{} = "{}"\nowner = "o"\nreason = "r"\nexpires = 2999-01-01\n'
    text = entry.format("organisation", "acme") + entry.format("network", "203.0.113.0/24")
    listed = parse_allowlist(text)
    assert [(exemption.scope, exemption.principal) for exemption in listed.exemptions] == [
        ("organisation", "acme"),
        ("network", "203.0.113.0/24"),
    ]
    ledger = Ledger(replace(ENFORCE, allowlist=listed))
    assert said(ledger.observe(queries(1001.0, origins=ACME))) == []
    with pytest.raises(ConfigurationError, match="one of principal, organisation, network"):
        parse_allowlist(entry.format("principal", "a").replace("owner", 'network = "203.0.113.0/24"\nowner'))
