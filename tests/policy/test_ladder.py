"""The ladder as an owner writes it in the settings: what each option does, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detector.contracts.actions import describe_action
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Command, Finding
from detector.policy.activity import Effects
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.runtime.settings import Settings
from detector.stream.detection_config import policy_config

from .oracle import Row, Uncharted
from .streams import MODEL, activity

SLOW: dict[str, Any] = {"action": "slow", "parameters": {"queries_per_second": 1}}
REFUSE: dict[str, Any] = {"action": "refuse"}
TAG: dict[str, Any] = {"action": "tag"}


def rule(*rungs: dict[str, Any], name: str = "mine", **fields: Any) -> dict[str, Any]:
    return {"name": name, "rungs": rungs or (REFUSE,), **fields}


def ledger(*rules: dict[str, Any], **policy: Any) -> Ledger:
    own: dict[str, Any] = {"mode": "enforce", "enforce_uncalibrated": True, **policy}
    return Ledger(policy_config(Settings(policy=own | ({"ladder": rules} if rules else {}))))


def queries(
    *times: float,
    found: Sequence[str] = ("prada",),
    flagged: bool = True,
    score: float = 1.2,
    exposure: float = float("nan"),
    **finding: Any,
) -> Any:
    """The thief's queries; the first one makes them a suspect."""
    rows = [
        Row(time, "thief", "1", flagged, tuple(found) if at == 0 else (), score=score) for at, time in enumerate(times)
    ]
    whole = activity(rows)
    changed: list[Finding] = [replace(one, **finding) for one in whole.findings]
    return replace(whole, findings=changed, exposure=np.full(len(rows), exposure))


def join(size: int, issued_at: float = 1.0) -> Command:
    return Command("j", "join", issued_at, "group:g", MODEL, "thief", "revision 1", group="g", group_size=size)


def said(effects: Effects) -> list[str]:
    return [f"{describe_action(one.action)} {one.mode}" for one in effects.decisions]


MATCHES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"models": [MODEL]}, {}, {"model": "other"}),
    ({"signals": ["prada"]}, {}, {"found": ["margin"]}),
    ({"families": ["structure", "outputs"]}, {"family": "outputs"}, {"family": "content"}),
    ({"severities": ["high"]}, {"score": 1.6}, {"score": 1.2}),
    ({"exposure_percent": 40.0}, {"exposure": 40.0}, {"exposure": 39.0}),
    ({"calibrated": True}, {"profile": "a1"}, {"profile": None}),
    ({"calibrated": False}, {"profile": None}, {"profile": "a1"}),
]


@pytest.mark.parametrize(("fields", "fits", "differs"), MATCHES)
def test_a_rule_holds_for_what_it_names_and_for_nothing_else(
    fields: dict[str, Any], fits: dict[str, Any], differs: dict[str, Any]
) -> None:
    rules = (rule(**fields), rule(TAG, name="others"))
    assert said(ledger(*rules).observe(queries(1000.0, **fits))) == ["refuse enforce"]
    if "model" in differs:
        rules = (rule(models=["another"]), rule(TAG, name="others"))
        differs = {}
    assert said(ledger(*rules).observe(queries(1000.0, **differs))) == ["tag enforce"]


def test_a_rule_may_ask_for_a_group_of_some_size() -> None:
    rules = (rule(signals=["group"], group_size=10), rule(TAG, name="others"))
    assert said(ledger(*rules).command(join(10), 1000.0)) == ["refuse enforce"]
    assert said(ledger(*rules).command(join(9), 1000.0)) == ["tag enforce"]
    grows = ledger(*rules)
    grows.command(join(9), 1000.0)
    grows.command(join(12, issued_at=2.0), 1001.0)
    assert said(grows.observe(queries(1002.0, found=(), flagged=False))) == ["refuse enforce"]


def test_the_first_rule_that_matches_holds_and_without_one_there_is_no_decision() -> None:
    first = rule(TAG, families=["structure"], name="first")
    assert said(ledger(first, rule(name="second")).observe(queries(1000.0))) == ["tag enforce"]
    effects = ledger(rule(families=["content"])).observe(queries(1000.0))
    assert (said(effects), len(effects.alerts)) == ([], 1)


def test_rungs_follow_by_queries_and_last_as_long_as_they_say() -> None:
    steps = (TAG, {**SLOW, "after_queries": 2, "seconds": 100}, {**REFUSE, "after_queries": 4, "seconds": 7200})
    effects = ledger(rule(*steps), decision_seconds=60.0).observe(queries(*[1000.0] * 6))
    assert said(effects) == ["tag enforce", "slow to 1/s enforce", "refuse enforce"]
    assert [one.expires_at - one.issued_at for one in effects.decisions] == [60.0, 100.0, 7200.0]


def test_a_rung_is_renewed_at_half_of_its_own_life() -> None:
    own = ledger(rule({**SLOW, "seconds": 100}))
    own.observe(queries(1000.0))
    assert said(own.observe(queries(1049.0, found=()))) == []
    assert said(own.observe(queries(1050.0, found=()))) == ["slow to 1/s enforce"]


def test_an_action_has_its_parameters_and_its_fallback() -> None:
    rung = {"action": "perturb", "parameters": {"response": "mad", "epsilon": 0.5}, "fallback": "refuse"}
    (decision,) = ledger(rule(rung)).observe(queries(1000.0)).decisions
    assert describe_action(decision.action) == "perturb (response mad, epsilon 0.5)"
    assert (decision.action.name, decision.action.queries_per_second) == ("refuse", None)


def test_a_rule_that_observes_is_the_most_cautious_mode() -> None:
    assert said(ledger(rule(mode="observe")).observe(queries(1000.0))) == ["refuse observe"]
    assert said(ledger(rule(mode="enforce"), mode="observe").observe(queries(1000.0))) == ["refuse observe"]


def test_uncalibrated_never_enforces_unless_told_so() -> None:
    assert said(ledger(enforce_uncalibrated=False).observe(queries(1000.0))) == ["slow to 1/s observe"]
    assert said(ledger(enforce_uncalibrated=True).observe(queries(1000.0))) == ["slow to 1/s enforce"]
    assert said(ledger(enforce_uncalibrated=False).observe(queries(1000.0, profile="a1"))) == ["slow to 1/s enforce"]
    assert Settings().policy.enforce_uncalibrated is False


def test_by_default_content_alone_goes_no_further_than_slow_and_asks_for_a_reviewer() -> None:
    content = ledger().observe(queries(*[1000.0] * 500, family="content", profile="a1"))
    assert said(content) == ["slow to 1/s enforce"]
    assert [cause.reason for cause in content.decisions[0].causes] == ["needs review"]
    for family in ("structure", "outputs", "protocol"):
        effects = ledger().observe(queries(*[1000.0] * 60, family=family, profile="a1"))
        assert said(effects) == ["slow to 1/s enforce", "refuse enforce"]
        assert [cause.reason for cause in effects.decisions[0].causes] == [""]


@pytest.mark.parametrize("cut", [False, True])
def test_a_suspect_for_content_who_shows_structure_later_is_refused_too(cut: bool) -> None:
    own = ledger()
    whole = queries(*(1000.0 + at for at in range(120)), family="content", profile="a1")
    assert said(own.observe(replace(whole, families={}))) == ["slow to 1/s enforce"]
    own = ledger()
    later = dict.fromkeys(range(60, 120), "structure")
    if not cut:
        effects = [own.observe(replace(whole, families=later))]
    else:
        effects = [own.observe(queries(1000.0, family="content", profile="a1"))]
        effects += [
            own.observe(replace(queries(1000.0 + at, found=()), families={0: later[at]} if at in later else {}))
            for at in range(1, 120)
        ]
    decisions = [decision for one in effects for decision in one.decisions]
    assert [f"{describe_action(one.action)} {one.issued_at:g}" for one in decisions] == [
        "slow to 1/s 1000",
        "refuse 1060",
    ]
    assert [cause.reason for cause in decisions[-1].causes] == [""]
    kinds = [audit.summary for one in effects for audit in one.audits if audit.kind == "evidence"]
    assert kinds == ["prada: evidence of structure has joined that of content"]


def test_review_is_asked_for_beside_doubt() -> None:
    (decision,) = ledger(rule(review=True)).observe(queries(1000.0)).decisions
    assert [cause.reason for cause in decision.causes] == ["uncalibrated; needs review"]


def test_the_settings_of_before_set_the_default_ladder() -> None:
    own = ledger(slow_queries_per_second=2.0, refuse_after_queries=3)
    assert said(own.observe(queries(*[1000.0] * 5))) == ["slow to 2/s enforce", "refuse enforce"]


def test_members_of_a_group_climb_as_one() -> None:
    """Each query of a member counts as many times as the group has accounts."""
    own = ledger(refuse_after_queries=50)
    assert said(own.command(join(10), 1000.0)) == ["slow to 1/s enforce"]
    later: dict[str, Any] = {"found": (), "flagged": False}
    assert said(own.observe(queries(*[1001.0] * 4, **later))) == []
    assert said(own.observe(queries(1002.0, **later))) == ["refuse enforce"]


def test_a_group_that_grows_climbs_at_the_next_query() -> None:
    own = ledger(refuse_after_queries=50)
    own.command(join(3), 1000.0)
    later: dict[str, Any] = {"found": (), "flagged": False}
    assert said(own.observe(queries(*[1001.0] * 5, **later))) == []
    own.command(join(9, issued_at=2.0), 1002.0)
    assert said(own.observe(queries(1003.0, **later))) == ["refuse enforce"]


def test_a_harsher_action_stays_until_it_expires() -> None:
    """A suspect at the edge between two rules does not go up and down."""
    small = rule({**SLOW, "seconds": 100}, signals=["group"], group_size=10, name="large")
    own = ledger(small, rule({**TAG, "seconds": 100}, name="others"))
    own.command(join(10), 1000.0)
    own.command(join(9, issued_at=2.0), 1001.0)
    assert said(own.observe(queries(1002.0, found=(), flagged=False))) == []
    assert said(own.observe(queries(1099.0, found=(), flagged=False))) == []
    assert said(own.observe(queries(1100.0, found=(), flagged=False))) == ["tag enforce"]
    own.command(join(11, issued_at=3.0), 1101.0)
    assert said(own.observe(queries(1102.0, found=(), flagged=False))) == ["slow to 1/s enforce"]


def test_a_ladder_that_the_owner_softens_holds_from_the_next_query() -> None:
    harsh, soft = ledger(rule(REFUSE)), ledger(rule(TAG))
    harsh.observe(queries(1000.0))
    soft.absorb(harsh.dump(harsh.keys()))
    assert said(soft.observe(queries(1001.0, found=()))) == ["tag enforce"]


@pytest.mark.parametrize(("cool_down", "then"), [(0.0, "slow to 1/s"), (600.0, "refuse")])
def test_who_is_a_suspect_again_within_the_cool_down_goes_on_where_they_were(cool_down: float, then: str) -> None:
    own = ledger(decision_seconds=100.0, refuse_after_queries=2, cool_down_seconds=cool_down)
    own.command(join(1), 1000.0)
    assert said(own.observe(queries(1001.0, 1002.0, 1003.0, found=(), flagged=False))) == ["refuse enforce"]
    own.command(replace(join(1, issued_at=2.0), kind="leave", group_size=None), 1004.0)
    assert said(own.command(join(1, issued_at=3.0), 1500.0)) == [f"{then} enforce"]


def test_a_cool_down_ends_and_an_operator_ends_it_at_once() -> None:
    own = ledger(decision_seconds=100.0, refuse_after_queries=2, cool_down_seconds=600.0)
    own.command(join(1), 1000.0)
    own.observe(queries(1001.0, 1002.0, 1003.0, found=(), flagged=False))
    own.command(replace(join(1, issued_at=2.0), kind="leave", group_size=None), 1004.0)
    kept = own.dump(own.keys())
    assert said(own.command(join(1, issued_at=3.0), 1702.0)) == ["slow to 1/s enforce"]
    other = ledger(decision_seconds=100.0, refuse_after_queries=2, cool_down_seconds=600.0)
    other.absorb(kept)
    other.command(Command("d", "delete", 0.0, "eve", MODEL, "thief", "a mistake"), 1005.0)
    assert said(other.command(join(1, issued_at=3.0), 1006.0)) == ["slow to 1/s enforce"]


def test_a_suspect_climbs_when_their_exposure_does_whatever_the_cut() -> None:
    rules = (rule(exposure_percent=60, name="most"), rule(SLOW, exposure_percent=30, name="some"), rule(TAG, name="x"))
    whole, cut = ledger(*rules), ledger(*rules)
    parts = [queries(1000.0, exposure=10.0), *(queries(1001.0 + at, found=(), exposure=10.0 * at) for at in range(9))]
    together = replace(
        queries(*(1000.0 + at for at in range(10))), exposure=np.array([10.0, *(10.0 * at for at in range(9))])
    )
    expected = ["tag enforce", "slow to 1/s enforce", "refuse enforce"]
    assert said(whole.observe(together)) == expected
    assert [one for part in parts for one in said(cut.observe(part))] == expected
    assert whole.dump(whole.keys()) == cut.dump(cut.keys())


def test_queries_that_cannot_be_judged_follow_the_ladder_too() -> None:
    own = ledger(rule(TAG, signals=["unjudged"], families=["protocol"]), unjudged_queries=3)
    assert said(own.observe(activity([Uncharted(1000.0, "thief", "unjudged", 3)]))) == ["tag enforce"]


WRONG: list[tuple[tuple[dict[str, Any], ...], dict[str, Any], str]] = [
    ((rule(), rule()), {}, "different names"),
    ((rule(name="a"), rule(name="b")), {}, "'b' never applies: 'a'"),
    ((rule(signals=["prda"]),), {}, "no signal 'prda'; did you mean 'prada'"),
    ((rule({**REFUSE, "after_queries": 1}),), {}, "begin with a step after 0"),
    ((rule(REFUSE, {**SLOW, "after_queries": 1}),), {}, "harsher"),
    ((rule(SLOW, {**REFUSE, "after_queries": 0}),), {}, "more queries"),
    ((rule({**SLOW, "seconds": 100}, {**REFUSE, "after_queries": 1, "seconds": 99}),), {}, "shorter"),
    ((rule({**SLOW, "seconds": 4000}, {**REFUSE, "after_queries": 1}),), {}, "shorter"),
    ((rule({"action": "ban"}),), {}, "'ban'"),
    ((rule({"action": "tag", "parameters": {"digits": 1}}),), {}, "takes no digits"),
    ((rule({**REFUSE, "fallback": "none"}),), {}, "'refuse'"),
    ((rule({"action": "perturb", "parameters": {"response": "rnd"}}),), {}, "perturb has no response 'rnd'"),
    ((rule({"action": "round", "parameters": {"digits": 99}}),), {}, "digits of the response round is 99"),
    ((rule({"action": "spec_noise", "parameters": {"scale": 3}}),), {}, "scale of spec_noise is 3"),
    ((rule({"action": "spec_noise", "parameters": {"depth": 1}}),), {}, "no parameter 'depth'"),
]


@pytest.mark.parametrize(("rules", "policy", "message"), WRONG)
def test_a_ladder_that_cannot_be_meant_is_refused(
    rules: tuple[dict[str, Any], ...], policy: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ledger(*rules, **policy)


@pytest.mark.parametrize("old", ["slow_queries_per_second", "refuse_after_queries"])
def test_settings_of_before_beside_a_ladder_are_refused_and_told_how_to_be_rewritten(old: str) -> None:
    with pytest.raises(ValueError, match=f"{old} cannot stand beside ladder; write them into a rule's rungs"):
        Settings(policy={"ladder": [rule()], old: 5})


def test_the_version_changes_with_each_part_of_the_ladder() -> None:
    changes: list[dict[str, Any]] = [
        rule(),
        rule(name="other"),
        rule(TAG),
        rule({**REFUSE, "seconds": 5}),
        rule({"action": "round", "parameters": {"digits": 1}}),
        rule({"action": "round", "parameters": {"digits": 2}}),
        rule({"action": "round", "fallback": "refuse"}),
        *(rule(**fields) for fields, _, _ in MATCHES),
        rule(group_size=3),
        rule(mode="observe"),
        rule(review=True),
    ]
    versions = {policy_config(Settings(policy={"ladder": [one]})).version for one in changes}
    others: list[dict[str, Any]] = [{}, {"enforce_uncalibrated": True}, {"cool_down_seconds": 5.0}]
    versions |= {policy_config(Settings(policy=one)).version for one in others}
    assert len(versions) == len(changes) + len(others)
    assert Policy().version == policy_config(Settings()).version
