"""The ledger of one partition: its suspects, the causes against them and the decisions published."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.limits import is_time
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Action, Alert, Audit, Cause, Command, Decision
from detector.contracts.principals import NAME_CHARACTERS
from detector.policy.accounting import Accounting
from detector.policy.activity import Activity, Counted, Effects, Key, Place, Section
from detector.policy.config import Policy, check_action
from detector.policy.entry import ActiveCause, Changes, Entry, decode_changes, encode_changes
from detector.policy.principal import PrincipalPolicy
from detector.policy.records import command_audit, missing_audit, shortened
from detector.policy.timeline import Timeline, timelines

Record = Alert | Decision | Audit

_OPERATOR = "operator:"

_STALE_DROPS = 1_000
"""Outdated times of dropping, beyond as many as there are entries, that may wait."""

MOST_CAUSES = 32
"""Causes against one principal at most: a decision carries all of them, and records have a limit."""


class Ledger:
    """Turns activity and commands into alerts, decisions and audit records.

    What it publishes depends on the stream alone: not on how it is cut into micro-batches, nor on the queries of
    other principals. It has entries only for suspects and for principals under a command, and drops each when it has
    no effect any more. ``configuration``: hash of the detection settings, for the alerts (by default the policy's
    version). ``accounting``: the queries that were not judged; its state is a separate section.
    """

    def __init__(self, policy: Policy, configuration: str | None = None) -> None:
        self._policy = policy
        self._configuration = policy.version if configuration is None else configuration
        self.accounting = Accounting(policy.unjudged_queries)
        self._entries: dict[Key, Entry] = {}
        self._nbytes = 0
        self._drops: list[tuple[float, Key]] = []
        self._drop_at: dict[Key, float] = {}

    # -- live

    def observe(self, activity: Activity) -> Effects:
        """Applies a micro-batch; the effects hold the delta of the ledger."""
        emitted = _missing(activity.counts)
        accounted = self.accounting.take(activity)
        changes: Changes = {}
        for timeline in timelines(activity, self._entries.keys(), accounted.turns):
            case = self._case(timeline.key)
            emitted += _walk(case, timeline)
            if case.entry != case.before:
                changes[timeline.key] = case.entry
        emitted.sort(key=lambda placed: placed[0])
        effects = self._conclude((record for _, record in emitted), changes, activity.ends_at)
        effects.accounting, effects.excused = accounted.section, accounted.excused
        effects.forgotten = accounted.forgotten
        return effects

    def command(self, command: Command, now: float) -> Effects:
        """Applies a command at policy time ``now``, seconds. A refused command is audited with the reason."""
        key = command.model, command.principal
        case = self._case(key)
        summary, refused = self._carry_out(case, command, now)
        audit = command_audit(command, now, summary, refused)
        changes: Changes = {key: case.entry} if case.entry != (case.before or Entry()) else {}
        effects = self._conclude([audit, *case.emitted], changes, now)
        if command.kind == "clear":
            effects.clear.append(key)
            effects.accounting = self.accounting.forget(key)
        return effects

    def active(self, now: float) -> list[Decision]:
        """The published decisions, releases included, that have not expired at ``now``, exactly as published.

        A new owner publishes them again, because a former owner may have written a stale record over them.
        """
        decisions = (entry.decision for entry in self._entries.values())
        return [decision for decision in decisions if decision is not None and decision.expires_at > now]

    # -- state

    def absorb(self, section: Section) -> None:
        """Applies a delta; applying it twice changes nothing. Raises NewerStateLog, StateLogError."""
        self._apply(decode_changes(section))

    def keys(self) -> list[Key]:
        """(model, principal) of each entry, in order of insertion."""
        return list(self._entries)

    def dump(self, keys: Iterable[Key]) -> Section:
        """The complete entries of ``keys``; a key without an entry is recorded as dropped."""
        return encode_changes({key: self._entries.get(key) for key in keys})

    def load(self, section: Section) -> None:
        """Replaces the entries that a dump names by its content. Raises NewerStateLog, StateLogError."""
        self._apply(decode_changes(section))

    @property
    def nbytes(self) -> int:
        """Memory of the entries in bytes, to within a third."""
        return self._nbytes

    # -- inside

    def _case(self, key: Key) -> PrincipalPolicy:
        return PrincipalPolicy(key, self._entries.get(key), self._policy, self._configuration)

    def _conclude(self, records: Iterable[Record], changes: Changes, now: float) -> Effects:
        self._apply(changes)
        dropped = self._dropped(now)
        self._apply(dropped)
        changes |= dropped
        effects = Effects(section=encode_changes(changes) if changes else None)
        for record in records:
            effects.emit(record)
        return effects

    def _dropped(self, now: float) -> Changes:
        """The entries that have no effect any more at ``now``."""
        gone: Changes = {}
        while self._drops and self._drops[0][0] <= now:
            at, key = heapq.heappop(self._drops)
            if self._drop_at.get(key) == at:
                gone[key] = None
        return gone

    def _apply(self, changes: Changes) -> None:
        for key, entry in changes.items():
            before = self._entries.pop(key, None) if entry is None else self._entries.get(key)
            self._nbytes -= before.nbytes if before is not None else 0
            if entry is None:
                self._drop_at.pop(key, None)
                continue
            self._entries[key] = entry
            self._nbytes += entry.nbytes
            if self._drop_at.get(key) != entry.droppable_at:
                self._drop_at[key] = entry.droppable_at
                heapq.heappush(self._drops, (entry.droppable_at, key))
        if len(self._drops) > 2 * len(self._drop_at) + _STALE_DROPS:
            self._drops = [(at, key) for key, at in self._drop_at.items()]
            heapq.heapify(self._drops)

    def _carry_out(self, case: PrincipalPolicy, command: Command, now: float) -> tuple[str, bool]:
        """Returns a summary of the result, and whether the command was refused."""
        if command.kind == "add":
            return self._add(case, command, now)
        if command.kind == "clear":
            case.clear(now)
            return "cleared: causes, latches and detection state", False
        gone = case.lift(command.cause_id, now)
        if not gone:
            wanted = "no cause" if command.cause_id is None else f"no cause {command.cause_id}"
            return f"nothing deleted: there is {wanted} against the principal", True
        return shortened("deleted: " + ", ".join(f"{cause.origin} ({cause.id})" for cause in gone)), False

    def _add(self, case: PrincipalPolicy, command: Command, now: float) -> tuple[str, bool]:
        action, duration = command.action, command.duration_seconds
        case.expire(now)
        if action is None or duration is None or not (duration > 0 and is_time(now + duration)):
            return f"not added: it needs an action and a duration above 0, not {action} for {duration}", True
        obstacle = _obstacle(action, command.issuer, len(case.entry.active_causes))
        if obstacle is not None:
            return obstacle, True
        cause = Cause(command.id, _OPERATOR + command.issuer, now + duration, command.reason)
        mode = command.mode or self._policy.mode_of(command.model)
        case.impose(ActiveCause(cause, action, mode), now)
        return f"added: {action.name} ({mode}) for {duration:g} seconds", False


def _obstacle(action: Action, issuer: str, causes: int) -> str | None:
    """Returns why ``issuer`` may not impose ``action`` on a principal with ``causes`` causes, or None."""
    if len(_OPERATOR + issuer) > NAME_CHARACTERS:
        return f"not added: the issuer's name is longer than {NAME_CHARACTERS - len(_OPERATOR)} characters"
    if causes >= MOST_CAUSES:
        return f"not added: the principal already has {MOST_CAUSES} causes; delete some first"
    try:
        check_action(action, "not added")
    except ConfigurationError as error:
        return str(error)
    return None


def _walk(case: PrincipalPolicy, timeline: Timeline) -> list[tuple[Place, Record]]:
    """Applies the events that can change ``case``, counts the others, and returns the records with their positions."""
    emitted: list[tuple[Place, Record]] = []
    at, end = 0 if case.before is not None else _next(case, timeline, 0), len(timeline)
    while at < end:
        already = len(case.emitted)
        case.observe(timeline.event(at))
        emitted += [(timeline.place_of(at), record) for record in case.emitted[already:]]
        following = _next(case, timeline, at + 1)
        if case.entry.latches:
            case.count(int(timeline.queries[at + 1 : following].sum()))
        at = following
    return emitted


def _next(case: PrincipalPolicy, timeline: Timeline, start: int) -> int:
    """The first event from ``start`` on that can change ``case``; the end if there is none."""
    if start >= len(timeline):
        return start
    rest = slice(start, None)
    latched = case.latched_versions()
    is_latched = np.array([version in latched for version in timeline.versions] + [False])[timeline.version[rest]]
    is_row = timeline.version[rest] >= 0
    rises = case.scores_that_rise()
    rise_at = np.array([rises.get(version, np.inf) for version in timeline.versions] + [np.inf])[timeline.version[rest]]
    matters: NDArray[np.bool_] = timeline.has_finding[rest] | (is_row & (timeline.flagged[rest] != is_latched))
    matters |= timeline.flagged[rest] & (timeline.score[rest] >= rise_at)
    matters |= timeline.time[rest] >= case.deadline(float(timeline.time[start - 1]) if start else -np.inf)
    matters |= np.cumsum(timeline.queries[rest]) >= case.queries_to_next_step()
    if case.awaits_enforcement():
        matters |= ~timeline.learning[rest]
    return start + int(matters.argmax()) if matters.any() else len(timeline)


def _missing(counts: Iterable[Counted]) -> list[tuple[Place, Record]]:
    """Audit records of the queries that the logger dropped, with their positions."""
    return [((2 * one.at_row, at), missing_audit(one)) for at, one in enumerate(counts) if one.count.kind == "dropped"]
