"""The ledger of one partition: its suspects, the causes against them and the decisions published."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from detector.contracts.actions import check_action, describe_action
from detector.contracts.codecs.limits import is_time
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import OPERATOR_ORIGIN, Alert, Cause, Command, Decision
from detector.contracts.principals import EVERYONE, NAME_CHARACTERS
from detector.policy.accounting import Accounting
from detector.policy.activity import Activity, Effects, Key, Section
from detector.policy.allowlist import CommandedExemptions, Exemption
from detector.policy.budgets import Budgets
from detector.policy.config import Policy
from detector.policy.entry import ActiveCause, Changes, Entry, Membership, decode_changes, encode_changes
from detector.policy.principal import MOST_CAUSES, PrincipalPolicy, Record
from detector.policy.records import command_audit, missing_audit, shortened
from detector.policy.timeline import timelines

_STALE_DROPS = 1_000
"""Outdated times of dropping, beyond as many as there are entries, that may wait."""


class Ledger:
    """Turns activity and commands into alerts, decisions and audit records.

    What it publishes depends on the stream alone: not on how it is cut into micro-batches, nor on the queries of
    other principals. It has entries only for suspects and for principals under a command, and drops each when it has
    no effect any more. ``configuration``: hash of the detection settings, for the alerts (by default the policy's
    version). ``accounting``: the queries that were not judged, and ``budgets``: what principals have learned; the state
    of each is a section of its own.
    """

    def __init__(self, policy: Policy, configuration: str | None = None) -> None:
        self._policy = policy
        self._configuration = policy.version if configuration is None else configuration
        self.accounting = Accounting(policy.unjudged_queries)
        self.budgets = Budgets(policy.budgets, policy.notice_percent)
        self.exemptions = CommandedExemptions(policy.allowlist)
        self._entries: dict[Key, Entry] = {}
        self._nbytes = 0
        self._drops: list[tuple[float, Key]] = []
        self._drop_at: dict[Key, float] = {}

    # -- live

    def observe(self, activity: Activity) -> Effects:
        """Applies a micro-batch; the effects hold the delta of the ledger."""
        counts = zip(activity.count_positions(), activity.counts, strict=True)
        emitted: list[tuple[int, Record]] = [
            (position, missing_audit(counted)) for position, counted in counts if counted.count.kind == "dropped"
        ]
        accounted, spent = self.accounting.take(activity), self.budgets.take(activity, self._group_of)
        accusations = {
            position: [made[position] for made in (accounted.accusations, spent.accusations) if position in made]
            for position in accounted.accusations | spent.accusations
        }
        changes: Changes = {}
        for timeline in timelines(activity, self._entries.keys(), accusations):
            principal = self._principal(timeline.key)
            emitted += principal.run(timeline)
            if principal.entry != principal.before:
                changes[timeline.key] = principal.entry
        emitted.sort(key=lambda emission: emission[0])
        effects = self._conclude((record for _, record in emitted), changes, activity.ends_at)
        effects.accounting, effects.excused = accounted.section, accounted.excused
        effects.budgets, effects.forgotten = spent.section, accounted.forgotten + spent.forgotten
        effects.budgets_used, effects.spends = spent.used, spent.spends
        return effects

    def command(self, command: Command, now: float) -> Effects:
        """Applies a command at policy time ``now``, seconds. A refused command is audited with the reason."""
        if command.kind in ("allow", "disallow"):
            return self._change_allowlist(command, now)
        if command.kind == "spend":
            effects = self._conclude((), {}, now)
            effects.budgets = self.budgets.hear(command)
            return effects
        key = command.model, command.principal
        principal = self._principal(key)
        try:
            audit = command_audit(command, now, self._carry_out(principal, command, now), refused=False)
        except ConfigurationError as refusal:
            audit = command_audit(command, now, str(refusal), refused=True)
        changes: Changes = {key: principal.entry} if principal.entry != (principal.before or Entry()) else {}
        effects = self._conclude([audit, *principal.emitted], changes, now)
        if command.kind == "clear":
            effects.clear.append(key)
            effects.accounting, effects.budgets = self.accounting.forget(key), self.budgets.forget(key)
        return effects

    def active(self, now: float) -> list[Decision]:
        """Returns the published decisions, releases included, that have not expired at ``now``, exactly as published.

        A new owner publishes them again, because a former owner may have written a stale record over them.
        """
        decisions = (entry.decision for entry in self._entries.values())
        return [decision for decision in decisions if decision is not None and decision.expires_at > now]

    def by_content_alone(self, key: Key) -> bool:
        """Returns whether a principal is a suspect by a verdict that rests on content alone."""
        entry = self._entries.get(key)
        return entry is not None and entry.by_content_alone

    # -- state

    def absorb(self, section: Section) -> None:
        """Applies a delta or a dump; applying it twice changes nothing. Raises NewerStateLog, StateLogError."""
        self._apply(decode_changes(section))

    def keys(self) -> list[Key]:
        """Returns (model, principal) of each entry, in order of insertion."""
        return list(self._entries)

    def dump(self, keys: Iterable[Key]) -> Section:
        """Returns the complete entries of ``keys``; a key without an entry is recorded as dropped."""
        return encode_changes({key: self._entries.get(key) for key in keys})

    @property
    def nbytes(self) -> int:
        """Memory of the entries in bytes, to within a third."""
        return self._nbytes

    # -- inside

    def _group_of(self, key: Key) -> str | None:
        """Returns the first group that a principal is a member of."""
        entry = self._entries.get(key)
        return entry.members[0].group if entry is not None and entry.members else None

    def _principal(self, key: Key) -> PrincipalPolicy:
        return PrincipalPolicy(key, self._entries.get(key), self._policy, self._configuration, self.exemptions)

    def _conclude(self, records: Iterable[Record], changes: Changes, now: float) -> Effects:
        self._apply(changes)
        dropped = self._dropped(now)
        self._apply(dropped)
        changes |= dropped
        effects = Effects(section=encode_changes(changes) if changes else None)
        for record in records:
            if isinstance(record, Alert):
                effects.alerts.append(record)
            elif isinstance(record, Decision):
                effects.decisions.append(record)
            else:
                effects.audits.append(record)
        return effects

    def _dropped(self, now: float) -> Changes:
        """Returns the entries that have no effect any more at ``now``, as dropped."""
        dropped: Changes = {}
        while self._drops and self._drops[0][0] <= now:
            at, key = heapq.heappop(self._drops)
            if self._drop_at.get(key) == at:
                dropped[key] = None
        return dropped

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

    def _carry_out(self, principal: PrincipalPolicy, command: Command, now: float) -> str:
        """Returns a summary of the result. Raises ConfigurationError with the reason if the command is refused."""
        if command.kind == "add":
            return self._add(principal, command, now)
        if command.kind == "clear":
            principal.clear(command.issuer, now)
            return "cleared: causes, latches and detection state"
        if command.kind in ("join", "leave"):
            return self._change_membership(principal, command, now)
        lifted = principal.lift(command.cause_id, command.issuer, now)
        if not lifted:
            wanted = "no cause" if command.cause_id is None else f"no cause {command.cause_id}"
            raise ConfigurationError(f"nothing deleted: there is {wanted} against the principal")
        return shortened("deleted: " + ", ".join(f"{cause.origin} ({cause.id})" for cause in lifted))

    def _change_membership(self, principal: PrincipalPolicy, command: Command, now: float) -> str:
        """Applies a group's command. One that was issued before the latest about the same group changes nothing."""
        group = command.group or ""
        if command.kind == "leave":
            changed = principal.leave(group, command.issued_at, now)
            return f"left the group {group}" if changed else f"unchanged: no member of the group {group} as of then"
        joined = Membership(group, command.issued_at, command.group_size or 0, family=command.family)
        changed = principal.join(joined, now)
        return f"joined the group {group}" if changed else f"unchanged: a later command of the group {group} holds"

    def _change_allowlist(self, command: Command, now: float) -> Effects:
        """Changes the exemptions of a principal, and what follows from that for those of them who are suspects."""
        model, scope = None if command.model == EVERYONE else command.model, command.scope or "principal"
        try:
            if command.kind == "allow":
                ends = now + (command.duration_seconds or 0.0)
                exempt = Exemption(command.principal, command.owner or "", command.reason, ends, model, scope)
                section = self.exemptions.allow(exempt, now)
                summary = f"allowed for {(command.duration_seconds or 0) / 86_400:.3g} days ({command.owner})"
            else:
                exempt, section = self.exemptions.disallow((scope, command.principal, model))
                summary = "no longer allowed"
        except ConfigurationError as refusal:
            return self._conclude([command_audit(command, now, str(refusal), refused=True)], {}, now)
        records: list[Record] = [command_audit(command, now, summary, refused=False)]
        changes: Changes = {}
        exempt_keys = [key for key, entry in self._entries.items() if exempt.covers(key[1], entry.affiliation)]
        for key in (key for key in exempt_keys if model in (None, key[0])):
            principal = self._principal(key)
            principal.reconsider(now)
            records += principal.emitted
            if principal.entry != principal.before:
                changes[key] = principal.entry
        effects = self._conclude(records, changes, now)
        effects.allowlist = section
        return effects

    def _add(self, principal: PrincipalPolicy, command: Command, now: float) -> str:
        action, duration, origin = command.action, command.duration_seconds, OPERATOR_ORIGIN + command.issuer
        principal.expire(now)
        if action is None or duration is None or not (duration > 0 and is_time(now + duration)):
            raise ConfigurationError(
                f"not added: it needs an action and a duration above 0, not {action} for {duration}"
            )
        if len(origin) > NAME_CHARACTERS:
            most = NAME_CHARACTERS - len(OPERATOR_ORIGIN)
            raise ConfigurationError(f"not added: the issuer's name is longer than {most} characters")
        if len(principal.entry.active_causes) >= MOST_CAUSES:
            raise ConfigurationError(f"not added: the principal already has {MOST_CAUSES} causes; delete some first")
        try:
            check_action(action)
        except ConfigurationError as error:
            raise ConfigurationError(f"not added: {error}") from None
        mode = command.mode or self._policy.mode_of(command.model)
        principal.impose(ActiveCause(Cause(command.id, origin, now + duration, command.reason), action, mode), now)
        return f"added: {describe_action(action)} ({mode}) for {duration:g} seconds"
