"""The ledger's entry of one principal of one model, and its form in the state log."""

from __future__ import annotations

import math

import msgspec

from detector.contracts.findings import (
    GROUP_ORIGIN,
    HIGH_SCORE,
    SIGNAL_ORIGIN,
    Action,
    Alert,
    Cause,
    Decision,
    Family,
    Mode,
)
from detector.policy.activity import UNAFFILIATED, Affiliation, Key, Section, decode_section
from detector.policy.budgets import BUDGET

FORMAT = 4
"""Format 2 adds the last alert to each latch, 3 the groups, 4 who released an alert, the evidence of groups and the
budget; all can be read."""
DAY = 86_400.0
IDLE_SECONDS = 30 * DAY
"""Suspects without a query for this long are dropped, so that a ledger cannot grow without a bound."""

GROUP = "group"
"""Stands for the signal of all groups in the modes of signals."""
MOST_LEARNED = "most-learned"
"""Stands for a group's id where accounts have learned too much together, which is answered as a used-up budget is."""


class LatchedAlert(msgspec.Struct, array_like=True, frozen=True):
    """A signal's latched verdict on one model version. ``lifted``: an operator deleted its cause. ``alert``: the last
    revision published; None if there was none, or if the entry was read from format 1.
    ``later_family``: evidence of another family than content, which alone counted at the verdict."""

    model_version: str
    signal: str
    episode: int
    lifted: bool = False
    alert: Alert | None = None
    later_family: Family | None = None

    @property
    def family(self) -> Family | None:
        """The family of the evidence so far; None if it is unknown."""
        return self.later_family or (None if self.alert is None else self.alert.family)

    @property
    def origin(self) -> str:
        return SIGNAL_ORIGIN + self.signal

    @property
    def rises_at(self) -> float:
        """The score at which its alert's severity rises; infinity without an alert or at the highest severity."""
        return HIGH_SCORE if self.alert is not None and self.alert.severity != "high" else math.inf

    @property
    def nbytes(self) -> int:
        """Memory in bytes, to within a third."""
        return 250 if self.alert is None else 1_400 + 250 * len(self.alert.evidence)


class Membership(msgspec.Struct, array_like=True, frozen=True):
    """Whether the principal is a member of ``group`` of ``size`` accounts (0: unknown), as the command says that was
    issued last, at ``issued_at``.

    ``left_at``: the policy time of leaving, None for a member; kept for a day, so that an earlier command that arrives
    late changes nothing. ``lifted``: an operator deleted its cause. ``family``: of the group's evidence.
    """

    group: str
    issued_at: float
    size: int = 0
    episode: int = -1
    lifted: bool = False
    left_at: float | None = None
    family: Family | None = None

    @property
    def origin(self) -> str:
        return GROUP_ORIGIN + self.group

    @property
    def signal(self) -> str:
        return BUDGET if self.group == MOST_LEARNED else GROUP

    @property
    def droppable_at(self) -> float:
        """The policy time from which a membership that ended has no effect; infinity for a member."""
        return math.inf if self.left_at is None else self.left_at + DAY


class ActiveCause(msgspec.Struct, array_like=True, frozen=True):
    """One active cause, with the action and mode that it requires."""

    cause: Cause
    action: Action
    mode: Mode

    @property
    def automatic(self) -> bool:
        """Whether a signal or a group is the cause, and no operator."""
        return self.cause.origin.startswith((SIGNAL_ORIGIN, GROUP_ORIGIN))


class Entry(msgspec.Struct, array_like=True):
    """One principal of one model; a suspect if flagged by a signal or a member of a group.

    ``decision``: the last one published, until it expires. ``queries``: the principal's queries as a suspect, up to
    the last rung of the ladder. ``episode``: the number of the last latch. ``seen``: the time of their last query as a
    suspect, to the day. ``exposure``: the largest that rules ask for which the suspect has reached.
    ``cools_at``: from then on a new suspicion begins at the first rung. ``affiliation``: that of their last query as a
    suspect, while an exemption asks for it. ``budget_left``: percent of the exposure budget. The parts are
    immutable, so that a shallow copy is enough.
    """

    latches: tuple[LatchedAlert, ...] = ()
    active_causes: tuple[ActiveCause, ...] = ()
    decision: Decision | None = None
    queries: int = 0
    episode: int = -1
    seen: float = -math.inf
    groups: tuple[Membership, ...] = ()
    exposure: float = 0.0
    cools_at: float = -math.inf
    affiliation: Affiliation = UNAFFILIATED
    budget_left: int = 100

    @property
    def members(self) -> tuple[Membership, ...]:
        """The groups that the principal is a member of."""
        return tuple(group for group in self.groups if group.left_at is None)

    @property
    def by_content_alone(self) -> bool:
        """Whether a verdict rests on content alone."""
        return any(latch.family == "content" for latch in self.latches)

    @property
    def is_suspect(self) -> bool:
        return bool(self.latches or self.members)

    @property
    def droppable_at(self) -> float:
        """The policy time from which this entry has no effect."""
        ends = [self.cools_at, *(active.cause.expires_at for active in self.active_causes)]
        if self.decision is not None:
            ends.append(self.decision.expires_at)
        if self.is_suspect:
            ends.append(self.seen + IDLE_SECONDS)
        ends.extend(group.droppable_at for group in self.groups if group.left_at is not None)
        return max([self.episode + 1.0, *ends])

    @property
    def nbytes(self) -> int:
        """Memory in bytes, to within a third."""
        causes = len(self.active_causes) + (len(self.decision.causes) if self.decision else 0)
        return 800 + 350 * causes + 300 * len(self.groups) + sum(latch.nbytes for latch in self.latches)


Changes = dict[Key, Entry | None]
"""New values of the entries that changed; None for a dropped one."""

_decoder = msgspec.msgpack.Decoder(list[tuple[str, str, Entry | None]])


def encode_changes(changes: Changes) -> Section:
    """Returns the section that :func:`decode_changes` turns back into ``changes``, in the same order."""
    return FORMAT, msgspec.msgpack.encode([(*key, entry) for key, entry in changes.items()])


def decode_changes(section: Section) -> Changes:
    """Decodes a section. Raises NewerStateLog for a later format and StateLogError for bytes that cannot be read."""
    rows = decode_section("policy", section, FORMAT, _decoder)
    return {(model, principal): entry for model, principal, entry in rows}
