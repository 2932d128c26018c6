"""The ladder: rules that say what follows from a suspicion, rung after rung. The first rule that matches it holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

from detector.contracts.actions import HARSHNESS, NOTICE, check_action, make_action, name_of, rate_of
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Action, Family, Mode, Severity
from detector.contracts.principals import is_name
from detector.policy.budgets import BUDGET

Strength = tuple[bool, int, float, str]


def strength(mode: Mode, action: Action) -> Strength:
    """Returns the sort key of an action: enforced before observed, then by harshness, then the lower rate. Parameters
    come last, only so that the order of two actions is always the same."""
    rate = rate_of(action)
    parameters = "" if action.graded is None else repr(sorted(action.graded.parameters.items()))
    return mode == "enforce", HARSHNESS[name_of(action)], -math.inf if rate is None else -rate, parameters


def is_harsher(action: Action, than: Action) -> bool:
    """Returns whether ``action`` is harsher than ``than``, whatever their parameters."""
    return strength("enforce", action)[:3] > strength("enforce", than)[:3]


def encoded_action(action: Action) -> list[object]:
    """Returns ``action`` as the part of an id."""
    graded = action.graded
    parameters = [] if graded is None else [graded.name, sorted(graded.parameters.items())]
    return [action.name, action.queries_per_second, *parameters]


@dataclass(frozen=True, slots=True)
class Rung:
    """``action`` applies after ``after_queries`` further queries of a suspect. Its decisions last ``seconds``; None: as
    long as the policy's."""

    after_queries: int
    action: Action
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One reason to suspect a principal, as rules match it.

    ``signal``: ``group`` for a group of ``group_size`` accounts. ``exposure``: percent of the model that the principal
    has learned, as far as a rule asks. ``calibrated``: whether a profile judged; None where it is unknown.
    """

    model: str
    signal: str
    family: Family | None = None
    severity: Severity | None = None
    group_size: int = 0
    exposure: float = 0.0
    calibrated: bool | None = None


@dataclass(frozen=True, slots=True)
class LadderRule:
    """The ``rungs`` for cases that match all fields. An empty field matches any case, except that empty ``signals`` do
    not match a used-up budget: to have learned much does not make a thief.

    ``group_size`` and ``exposure`` (percent) are minimums; ``calibrated`` None matches both. With ``mode`` observe,
    gates do not act. ``review``: decisions ask for a reviewer.
    """

    name: str
    rungs: tuple[Rung, ...]
    models: tuple[str, ...] = ()
    signals: tuple[str, ...] = ()
    families: tuple[Family, ...] = ()
    severities: tuple[Severity, ...] = ()
    group_size: int = 0
    exposure: float = 0.0
    calibrated: bool | None = None
    mode: Mode = "enforce"
    review: bool = False

    @property
    def lists(self) -> tuple[tuple[str, ...], ...]:
        return self.models, self.signals, self.families, self.severities

    @property
    def matches_all(self) -> bool:
        return not any(self.lists) and not (self.group_size or self.exposure) and self.calibrated is None

    def matches(self, case: Case) -> bool:
        values = (case.model, case.signal, case.family, case.severity)
        return (
            all(not wanted or value in wanted for wanted, value in zip(self.lists, values, strict=True))
            and case.group_size >= self.group_size
            and case.exposure >= self.exposure
            and self.calibrated in (None, case.calibrated)
            and (case.signal != BUDGET or BUDGET in self.signals)
        )

    def rung_after(self, queries: int) -> Rung:
        """Returns the rung after ``queries`` further queries of a suspect."""
        return [rung for rung in self.rungs if rung.after_queries <= queries][-1]

    def encoded(self) -> list[object]:
        """Returns the rule as the part of an id."""
        rungs = [[rung.after_queries, rung.seconds, *encoded_action(rung.action)] for rung in self.rungs]
        return [self.name, rungs, *self.lists, self.group_size, self.exposure, self.calibrated, self.mode, self.review]


NOTICE_RULE = LadderRule("notice", (Rung(0, make_action(NOTICE)),), signals=(BUDGET,))
"""What follows where a budget is nearly used up, whatever the ladder is."""


def plain_ladder(*rungs: Rung) -> tuple[LadderRule, ...]:
    """Returns one rule for all cases."""
    return (LadderRule("all", rungs),)


def default_ladder(queries_per_second: float = 1.0, refuse_after_queries: int = 50) -> tuple[LadderRule, ...]:
    """Slows everyone; refuses those whose evidence is more than unusual content, which may be a new device, a fault of
    an integration or honest images of another kind, or than an exposure budget."""
    slow = Rung(0, Action("slow", queries_per_second))
    return (
        LadderRule("budget", (slow,), signals=(BUDGET,), review=True),
        LadderRule("content", (slow,), families=("content",), review=True),
        LadderRule("default", (slow, Rung(refuse_after_queries, Action("refuse")))),
    )


def check_rules(rules: Sequence[LadderRule], decision_seconds: float) -> None:
    """Raises ConfigurationError for rules that are wrong, or never apply."""
    names = [rule.name for rule in rules]
    for rule in rules:
        if not is_name(rule.name) or names.count(rule.name) > 1:
            raise ConfigurationError(f"policy: the ladder's rules need different names, not {rule.name!r}")
        where = f"policy: the ladder's rule {rule.name!r}"
        _check_fields(rule, where)
        _check_rungs(rule.rungs, where)
        _check_order(rule.rungs, where, decision_seconds)
    for earlier, later in pairwise(rules):
        if earlier.matches_all:
            raise ConfigurationError(
                f"policy: the ladder's rule {later.name!r} never applies: {earlier.name!r} matches all cases before"
            )


def _check_fields(rule: LadderRule, where: str) -> None:
    for what, values, known in (
        ("mode", (rule.mode,), get_args(Mode)),
        ("family", rule.families, get_args(Family)),
        ("severity", rule.severities, get_args(Severity)),
    ):
        if unknown := sorted(set(values) - set(known)):
            raise ConfigurationError(f"{where}: there is no {what} {unknown[0]!r}; there are {', '.join(known)}")
    if rule.group_size < 0 or not 0 <= rule.exposure <= 100:
        raise ConfigurationError(f"{where}: use a group_size from 0 on, and an exposure from 0 to 100 percent")


def _check_rungs(rungs: Sequence[Rung], where: str) -> None:
    if not rungs or rungs[0].after_queries != 0:
        raise ConfigurationError(f"{where}: it must begin with a step after 0 queries")
    for rung in rungs:
        try:
            check_action(rung.action)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None
        if rung.seconds is not None and not 0 < rung.seconds < math.inf:
            raise ConfigurationError(f"{where}: seconds is {rung.seconds}; use a number above 0")


def _check_order(rungs: Sequence[Rung], where: str, decision_seconds: float) -> None:
    for lower, upper in pairwise(rungs):
        if lower.after_queries >= upper.after_queries:
            raise ConfigurationError(f"{where}: each step must come after more queries than the one before")
        if not is_harsher(upper.action, lower.action):
            raise ConfigurationError(f"{where}: each step must be harsher than the one before")
        if (lower.seconds or decision_seconds) > (upper.seconds or decision_seconds):
            raise ConfigurationError(f"{where}: no step may last shorter than the one before")
