"""The policy for suspects: modes, ladder, durations, allowlist."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import get_args

from detector.contracts.actions import HARSHNESS, check_action, name_of, rate_of
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Action, Mode
from detector.policy.accounting import HALF
from detector.policy.allowlist import Allowlist
from detector.policy.entry import GROUP
from detector.policy.records import content_id

LATCHED = "latched"
"""The signal of a principal that the engine has latched while the ledger has no latch for them."""

UNJUDGED_QUERIES = 30


@dataclass(frozen=True, slots=True)
class Rung:
    """A rung of the ladder: ``action`` applies after ``after_queries`` further queries of a suspect."""

    after_queries: int
    action: Action


Strength = tuple[bool, int, float, str]


def strength(mode: Mode, action: Action) -> Strength:
    """Returns the sort key of an action: enforced ones above observed ones, then by harshness, then the lower rate.
    Equal ones are the same action: of two that differ in parameters alone, one always counts as the stronger."""
    rate = rate_of(action)
    parameters = "" if action.graded is None else repr(sorted(action.graded.parameters.items()))
    return mode == "enforce", HARSHNESS[name_of(action)], -math.inf if rate is None else -rate, parameters


def encoded_action(action: Action) -> list[object]:
    """Returns ``action`` as the part of an id."""
    graded = action.graded
    own = [] if graded is None else [graded.name, sorted(graded.parameters.items())]
    return [action.name, action.queries_per_second, *own]


@dataclass(frozen=True)
class Policy:
    """The policy of a deployment. Of the modes that apply, ``observe`` wins.

    ``decision_seconds``: how long a decision lasts after the suspect's last query; it is renewed at half of that.
    ``unjudged_queries``: recent unjudged queries that make a principal a suspect. Raises ConfigurationError for an
    invalid ladder, mode or number.
    """

    mode: Mode = "observe"
    model_modes: Mapping[str, Mode] = field(default_factory=dict)
    signal_modes: Mapping[str, Mode] = field(default_factory=dict)
    ladder: tuple[Rung, ...] = (Rung(0, Action("slow", 1.0)), Rung(50, Action("refuse")))
    decision_seconds: float = 3600.0
    unjudged_queries: int = UNJUDGED_QUERIES
    allowlist: Allowlist = field(default_factory=Allowlist)

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
        _check_ladder(self.ladder)

    @cached_property
    def version(self) -> str:
        """Twelve hexadecimal digits that change with any part of the policy."""
        ladder = [[rung.after_queries, *encoded_action(rung.action)] for rung in self.ladder]
        exemptions = [asdict(exemption) for exemption in self.allowlist.exemptions]
        modes = [self.mode, sorted(self.model_modes.items()), sorted(self.signal_modes.items())]
        # A setting added later counts only where it is not the default: its addition must not change the version.
        later = [] if self.unjudged_queries == UNJUDGED_QUERIES else [self.unjudged_queries]
        return content_id("policy", modes, ladder, self.decision_seconds, exemptions, *later, size=6)

    def mode_of(self, model: str, signal: str | None = None) -> Mode:
        """Returns ``observe`` if the deployment, ``model`` or ``signal`` has that mode, else ``enforce``; ``group``
        stands for all groups."""
        modes = {self.mode, self.model_modes.get(model, self.mode)}
        if signal == LATCHED:
            modes.update(mode for name, mode in self.signal_modes.items() if name != GROUP)
        elif signal is not None and signal in self.signal_modes:
            modes.add(self.signal_modes[signal])
        return "observe" if "observe" in modes else "enforce"

    def action_after(self, queries: int) -> Action:
        """Returns the ladder's action after ``queries`` further queries of a suspect."""
        return [rung.action for rung in self.ladder if rung.after_queries <= queries][-1]

    def next_rung(self, queries: int) -> int | None:
        """Returns the number of further queries at the next rung of the ladder after ``queries``; None at its end."""
        return next((rung.after_queries for rung in self.ladder if rung.after_queries > queries), None)


def _check_ladder(ladder: tuple[Rung, ...]) -> None:
    if not ladder or ladder[0].after_queries != 0:
        raise ConfigurationError("policy: the ladder must begin with a step after 0 queries")
    for rung in ladder:
        try:
            check_action(rung.action)
        except ConfigurationError as error:
            raise ConfigurationError(f"policy: {error}") from None
    for lower, upper in pairwise(ladder):
        if lower.after_queries >= upper.after_queries:
            raise ConfigurationError("policy: each step of the ladder must come after more queries than the one before")
        if strength("enforce", lower.action) >= strength("enforce", upper.action):
            raise ConfigurationError("policy: each step of the ladder must be harsher than the one before")
