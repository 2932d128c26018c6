"""One suite over all actions: each is ordered, can be sent, is refused if it is wrong, and has a fallback."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from detector.contracts.actions import (
    ACTIONS,
    HARSHNESS,
    RATE,
    RESPONSE,
    describe_action,
    graded_of,
    is_release,
    make_action,
    name_of,
    rate_of,
)
from detector.contracts.codecs import decode, encode
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Action, Decision, Graded
from detector.policy.ladder import strength
from tests.contracts.older_gate import OlderDecision, decode_as_before

IMPOSED = [name for name in ACTIONS if name != "none"]
GRADED = [name for name in IMPOSED if ACTIONS[name].fallback is not None]
PAGE = (Path(__file__).parents[2] / "docs" / "enforcement.md").read_text(encoding="utf-8")


def usual(name: str) -> Action:
    return make_action(name, {RATE: 2.0} if name == "slow" else {})


def decision(action: Action) -> Decision:
    return Decision("d", "m", "p", action, "enforce", (4, 2), 1.0, 60.0, (), "v")


@pytest.mark.parametrize("name", IMPOSED)
def test_an_action_is_what_it_is_called_and_comes_back_from_the_wire(name: str) -> None:
    action = usual(name)
    assert (name_of(action), is_release(action)) == (name, False)
    assert describe_action(action).startswith(name)
    assert decode(Decision, encode(decision(action))).action == action


@pytest.mark.parametrize("name", IMPOSED)
def test_the_page_names_each_action_its_effect_and_its_cost(name: str) -> None:
    kind = ACTIONS[name]
    assert f"| `{name}` | {kind.effect} | {kind.cost} |" in PAGE


@pytest.mark.parametrize(("milder", "harsher"), [*pairwise(IMPOSED)])
def test_actions_are_in_order_of_harshness(milder: str, harsher: str) -> None:
    assert strength("enforce", usual(milder)) < strength("enforce", usual(harsher))
    assert strength("observe", usual(harsher)) < strength("enforce", usual(milder))


@pytest.mark.parametrize("name", IMPOSED)
def test_a_gate_of_the_version_before_does_what_every_gate_knows(name: str) -> None:
    read: OlderDecision = decode_as_before(encode(decision(usual(name))))
    meant = ACTIONS[name].fallback or name
    assert read.action.name == meant
    assert (read.action.queries_per_second is None) == (meant != "slow")
    assert HARSHNESS[meant] <= HARSHNESS[name]


@pytest.mark.parametrize("name", GRADED)
def test_a_rate_holds_for_the_fallback_too_and_a_fallback_can_be_chosen(name: str) -> None:
    if RATE in ACTIONS[name].takes:
        limited = make_action(name, {RATE: 0.25})
        assert (limited.queries_per_second, rate_of(limited)) == (0.25, 0.25)
        assert strength("enforce", usual(name)) < strength("enforce", limited)
    chosen = make_action(name, {}, "refuse")
    assert (chosen.name, name_of(chosen), rate_of(chosen)) == ("refuse", name, None)


@pytest.mark.parametrize("name", [name for name in GRADED if ACTIONS[name].is_response])
def test_a_response_has_a_name_and_numbers_of_its_own(name: str) -> None:
    action = make_action(name, {RESPONSE: "modelguard_w", "epsilon": 0.5})
    assert describe_action(action) == f"{name} (response modelguard_w, epsilon 0.5)"
    assert strength("enforce", action) != strength("enforce", usual(name))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("none", {}),
        ("slow", {}),
        ("slow", {RATE: 0.0}),
        ("slow", {RATE: "fast"}),
        ("slow", {RATE: 1.0, "digits": 2.0}),
        ("refuse", {RATE: 1.0}),
        ("ban", {}),
        ("tag", {"digits": 2.0}),
        ("tag", {RATE: 1.0}),
        ("round", {"digits": "two"}),
        ("round", {RATE: -1.0}),
        ("round", {RESPONSE: 3.0}),
        ("round", {"digits": float("nan")}),
        ("perturb", {RESPONSE: "a\nb"}),
        ("perturb", {f"p{number}": 1.0 for number in range(17)}),
    ],
)
def test_a_wrong_action_is_refused(name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=name if name != "none" else "imposed"):
        make_action(name, parameters)


@pytest.mark.parametrize("graded", [Graded("proof_of_work"), Graded("refuse"), Graded("tag", {"digits": 1.0})])
def test_an_action_that_this_version_does_not_know_is_its_fallback(graded: Graded) -> None:
    action = Action("slow", 3.0, graded)
    read = decode(Decision, encode(decision(action))).action
    assert (name_of(read), rate_of(read), graded_of(read)) == ("slow", 3.0, None)
    assert describe_action(read) == "slow to 3/s"
