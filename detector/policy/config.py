"""The policy for suspects: modes, ladder, durations, allowlist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import get_args

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Mode
from detector.policy.accounting import HALF
from detector.policy.allowlist import Allowlist
from detector.policy.budgets import BUDGET, ExposureBudget, check_budgets
from detector.policy.entry import GROUP
from detector.policy.ladder import (
    NOTICE_RULE,
    Case,
    LadderRule,
    check_rules,
    default_ladder,
    encoded_action,
    plain_ladder,
)
from detector.policy.records import content_id

LATCHED = "latched"
"""The signal of a principal that the engine has latched while the ledger has no latch for them."""

UNJUDGED_QUERIES = 30


@dataclass(frozen=True)
class Policy:
    """The policy of a deployment. Of the modes that apply, ``observe`` wins.

    ``enforce_uncalibrated``: whether verdicts without a profile of honest traffic may enforce. ``decision_seconds``:
    how long a decision lasts after the suspect's last query; it is renewed at half of that. ``cool_down_seconds``: a
    principal who becomes a suspect again within this time after their last decision continues at the rung of then.
    ``unjudged_queries``: recent unjudged queries that make a principal a suspect. Of ``budgets`` of one kind of holder
    the first that covers an account holds; from ``notice_percent`` of it on the account is told. Raises
    ConfigurationError for an invalid ladder, budget, mode or number.
    """

    mode: Mode = "observe"
    model_modes: Mapping[str, Mode] = field(default_factory=dict)
    signal_modes: Mapping[str, Mode] = field(default_factory=dict)
    enforce_uncalibrated: bool = False
    ladder: tuple[LadderRule, ...] = default_ladder()
    decision_seconds: float = 3600.0
    cool_down_seconds: float = 0.0
    unjudged_queries: int = UNJUDGED_QUERIES
    allowlist: Allowlist = field(default_factory=Allowlist)
    budgets: tuple[ExposureBudget, ...] = ()
    notice_percent: float = 80.0

    def __post_init__(self) -> None:
        for mode in (self.mode, *self.model_modes.values(), *self.signal_modes.values()):
            if mode not in get_args(Mode):
                raise ConfigurationError(f"policy: the mode {mode!r} is unknown; use observe or enforce")
        if not 0 < self.decision_seconds < float("inf"):
            raise ConfigurationError(f"policy: decision_seconds is {self.decision_seconds}; use a number above 0")
        if not 1 <= self.unjudged_queries <= HALF:
            raise ConfigurationError(
                f"policy: unjudged_queries is {self.unjudged_queries}; use a number from 1 to {HALF}, half of the "
                "recent queries"
            )
        if not 0 <= self.cool_down_seconds < float("inf"):
            raise ConfigurationError(f"policy: cool_down_seconds is {self.cool_down_seconds}; use a number from 0 on")
        check_rules(self.ladder, self.decision_seconds)
        check_budgets(self.budgets, self.notice_percent)
        if self.budgets and not any(BUDGET in rule.signals for rule in self.ladder):
            raise ConfigurationError(
                "policy: there are exposure budgets, and no rule of the ladder says what happens above them; "
                f"add one with signals: [{BUDGET}]"
            )

    @cached_property
    def version(self) -> str:
        """Twelve hexadecimal digits that change with any part of the policy."""
        ladder: list[object] = [rule.encoded() for rule in self.ladder]
        rungs = self.ladder[0].rungs if self.ladder else ()
        if self.ladder == plain_ladder(*rungs) and all(rung.seconds is None for rung in rungs):  # as it used to be
            ladder = [[rung.after_queries, *encoded_action(rung.action)] for rung in rungs]
        exemptions = [asdict(exemption) for exemption in self.allowlist.exemptions]
        for exemption in exemptions:
            if exemption["scope"] == "principal":
                del exemption["scope"]
        modes = [self.mode, sorted(self.model_modes.items()), sorted(self.signal_modes.items())]
        # A setting added later counts only where it changes what happened before: its addition alone changes nothing.
        later: list[object] = [] if self.unjudged_queries == UNJUDGED_QUERIES else [self.unjudged_queries]
        later += [] if self.allowlist.unreadable is None else ["allowlist unreadable"]
        later += [] if self.enforce_uncalibrated else ["uncalibrated observes"]
        later += [] if self.cool_down_seconds == 0 else [["cool_down_seconds", self.cool_down_seconds]]
        if self.budgets:
            later += [["budgets", [budget.encoded() for budget in self.budgets], self.notice_percent]]
        return content_id("policy", modes, ladder, self.decision_seconds, exemptions, *later, size=6)

    def mode_of(self, model: str, signal: str | None = None) -> Mode:
        """Returns ``observe`` if the deployment, ``model`` or ``signal`` has that mode, else ``enforce``; ``group``
        stands for all groups. While the allowlist cannot be read, it is ``observe``."""
        modes = {self.mode, self.model_modes.get(model, self.mode)}
        if signal == LATCHED:
            modes.update(mode for name, mode in self.signal_modes.items() if name != GROUP)
        elif signal is not None and signal in self.signal_modes:
            modes.add(self.signal_modes[signal])
        return "observe" if "observe" in modes or self.allowlist.unreadable is not None else "enforce"

    def rule_of(self, case: Case) -> LadderRule | None:
        """Returns the first rule that matches ``case``; None for no decision. A budget that is not used up is
        announced."""
        if case.signal == BUDGET and case.severity is None:
            return NOTICE_RULE
        return next((rule for rule in self.ladder if rule.matches(case)), None)

    def mode_for(self, case: Case, rule: LadderRule) -> Mode:
        """Returns the most cautious mode of all that apply to ``case`` under ``rule``."""
        doubtful = case.calibrated is False and not self.enforce_uncalibrated
        return "observe" if doubtful or rule.mode == "observe" else self.mode_of(case.model, case.signal)

    @cached_property
    def steps(self) -> list[int]:
        """The numbers of queries at which some rule has a rung, ascending."""
        return sorted({rung.after_queries for rule in self.ladder for rung in rule.rungs})

    def next_step(self, queries: int) -> int | None:
        """Returns the first of ``steps`` after ``queries``; None at the end."""
        return next((step for step in self.steps if step > queries), None)

    @cached_property
    def exposures(self) -> list[float]:
        """The exposures that some rule asks for, ascending."""
        return sorted({rule.exposure for rule in self.ladder if rule.exposure})

    def exposure_step(self, exposure: float) -> float:
        """Returns the largest of ``exposures`` that ``exposure`` reaches; 0 for none, or NaN."""
        return max((step for step in self.exposures if exposure >= step), default=0.0)
