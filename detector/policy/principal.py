"""Enforcement state machine of one principal of one model: how an event changes it, and which event can change it next.

It is level-triggered: each event of a suspect compares the decision that should hold with the one published last, and
publishes the difference. So a lost entry, a changed setting or an expired decision is corrected at the suspect's next
query.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Container, Iterable
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.contracts.actions import is_release
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import (
    SIGNAL_ORIGIN,
    Action,
    Alert,
    Audit,
    Cause,
    Decision,
    Evidence,
    Family,
    Finding,
    Mode,
)
from detector.policy.activity import Accusation, Affiliation, Key
from detector.policy.allowlist import CommandedExemptions, Exemption
from detector.policy.budgets import BUDGET, STEPS
from detector.policy.causes import Plan, flagging, plan_of, weight_of
from detector.policy.config import LATCHED, Policy
from detector.policy.entry import DAY, IDLE_SECONDS, ActiveCause, Entry, LatchedAlert, Membership
from detector.policy.ladder import encoded_action, strength
from detector.policy.records import (
    COUNTED,
    content_id,
    decision_audit,
    family_audit,
    first_alert,
    released,
    risen,
    withheld_audit,
)
from detector.policy.timeline import PolicyEvent, Timeline

Record = Alert | Decision | Audit

MOST_CAUSES = 32
"""Causes against one principal at most: a decision carries all of them, and records have a limit."""
MOST_GROUPS = 16
"""Groups that one principal can be a member of; of those that they left, the last are remembered."""


class PrincipalPolicy:
    """Works on a copy of ``entry``; ``emitted`` collects the records to publish, in order."""

    def __init__(
        self, key: Key, entry: Entry | None, policy: Policy, configuration: str, exemptions: CommandedExemptions
    ) -> None:
        self.key = key
        self.before = entry
        self.entry = Entry() if entry is None else copy.copy(entry)
        self.emitted: list[Record] = []
        self._policy = policy
        self._configuration = configuration
        self._exemptions = exemptions

    # -- what happens

    def run(self, timeline: Timeline) -> list[tuple[int, Record]]:
        """Applies the events that can change the state, counts the others, and returns the records with the positions
        of their events."""
        emitted: list[tuple[int, Record]] = []
        at = 0 if self.before is not None else self._next_event(timeline, 0)
        while at < len(timeline):
            event, already = timeline.event(at), len(self.emitted)
            self._observe(event)
            emitted += [(event.position, record) for record in self.emitted[already:]]
            following = self._next_event(timeline, at + 1)
            if self.entry.is_suspect:
                self._count(int(timeline.events["queries"][at + 1 : following].sum()))
            at = following
        return emitted

    def expire(self, now: float) -> None:
        """Drops causes, decision, cool-down, latches and memberships that have expired at ``now``."""
        entry = self.entry
        entry.active_causes = tuple(active for active in entry.active_causes if active.cause.expires_at > now)
        if entry.decision is not None and entry.decision.expires_at <= now:
            entry.decision = None
        if entry.cools_at <= now:
            entry.cools_at = -math.inf
        entry.groups = tuple(group for group in entry.groups if group.droppable_at > now)
        if entry.is_suspect and now >= entry.seen + IDLE_SECONDS:
            entry.groups = tuple(group for group in entry.groups if group.left_at is not None)
            self._set_latches(())

    def impose(self, active: ActiveCause, now: float) -> None:
        """Adds a command's cause; it replaces an earlier one of the same origin."""
        self.expire(now)
        self._replace_cause(active)
        self._publish_decision(now)

    def lift(self, cause_id: str | None, by: str, now: float) -> tuple[Cause, ...]:
        """Removes the cause with the id or origin ``cause_id``, or all, and returns them. Latches of a removed signal
        give no new cause, and their alerts are over."""
        self.expire(now)
        entry = self.entry
        lifted = tuple(
            active.cause for active in entry.active_causes if cause_id in (None, active.cause.id, active.cause.origin)
        )
        origins = None if cause_id is None else {cause.origin for cause in lifted}
        self._keep_causes(active for active in entry.active_causes if active.cause not in lifted)
        self._release_alerts(origins, by, now)
        entry.latches, entry.groups = _lift(entry.latches, origins), _lift(entry.groups, origins)
        self._publish_decision(now)
        return lifted

    def clear(self, by: str, now: float) -> None:
        """Removes all causes and latches, whose alerts are over; the principal leaves all groups."""
        self.expire(now)
        self._release_alerts(None, by, now)
        self._keep_causes(())
        self.entry.exposure, self.entry.cools_at = 0.0, -math.inf
        self.entry.groups = tuple(_left(group, now) for group in self.entry.groups)
        self._set_latches(())
        self._publish_decision(now)

    def reconsider(self, now: float) -> None:
        """Applies a changed allowlist at once."""
        self.expire(now)
        for origin in flagging(self.entry):
            self._audit_if_withheld(origin.removeprefix(SIGNAL_ORIGIN), now)
        if self.entry.is_suspect:
            self._update_causes(now, learning=False)
        self._publish_decision(now)

    def join(self, joined: Membership, now: float) -> bool:
        """Makes the principal a member of a group, with a decision at once unless they are one already. Returns whether
        that is news. Raises ConfigurationError for too many groups or causes."""
        self.expire(now)
        entry, known = self.entry, self._group(joined.group)
        is_news = known is None or joined.issued_at > known.issued_at
        if is_news and known in entry.members:
            self._put_group(msgspec.structs.replace(joined, episode=known.episode, lifted=known.lifted))
            if known.family != joined.family:
                self._update_causes(now, learning=False)
        elif is_news:
            if len(entry.members) >= MOST_GROUPS or len(entry.active_causes) >= MOST_CAUSES:
                raise ConfigurationError(
                    f"not joined: the principal is in {len(entry.members)} groups, and has {len(entry.active_causes)} "
                    f"causes; at most {MOST_GROUPS} and {MOST_CAUSES} are kept"
                )
            self._put_group(msgspec.structs.replace(joined, episode=self._start_episode(now)))
            self._note_seen(now)
            self._audit_if_withheld(joined.origin, now)
            self._update_causes(now, learning=False)
        self._publish_decision(now)
        return is_news

    def leave(self, group: str, issued_at: float, now: float) -> bool:
        """Ends a membership; its cause stays until it expires. Returns whether there was one as of ``issued_at``."""
        self.expire(now)
        known = self._group(group)
        was_member = known in self.entry.members and issued_at >= known.issued_at
        if known is None or issued_at >= known.issued_at:
            self._put_group(Membership(group, issued_at, left_at=now))
            self._set_latches(self.entry.latches)
        self._publish_decision(now)
        return was_member

    def _group(self, name: str) -> Membership | None:
        return next((group for group in self.entry.groups if group.group == name), None)

    def _put_group(self, changed: Membership) -> None:
        """Replaces what is known of the group; drops the memberships that ended first where there are too many."""
        others = [group for group in self.entry.groups if group.group != changed.group]
        ended = sorted((group for group in others if group.left_at is not None), key=lambda group: group.droppable_at)
        excess = ended[: max(0, len(others) + 1 - MOST_GROUPS)]
        self.entry.groups = (*(group for group in others if group not in excess), changed)

    def _observe(self, event: PolicyEvent) -> None:
        self.expire(event.time)
        suspect_before = self.entry.is_suspect
        if event.affiliation is not None and (suspect_before or event.accuses):
            self.entry.affiliation = event.affiliation
        self._update_latches(event)
        if event.family is not None:
            self._add_family(event.model_version, event.family, event.time)
        for accusation in event.accusations:
            self._apply_accusation(accusation, event.time)
        if self.entry.is_suspect:
            if suspect_before:
                self._count(event.queries)
            self._note_seen(event.time)
            self.entry.exposure = max(self.entry.exposure, self._policy.exposure_step(event.exposure))
            self._update_causes(event.time, event.learning)
        self._publish_decision(event.time)

    def _note_seen(self, now: float) -> None:
        if now >= self.entry.seen + DAY:
            self.entry.seen = now

    def _count(self, queries: int) -> None:
        """Counts further queries of a suspect, up to the last rung of the ladder."""
        self.entry.queries = min(self.entry.queries + queries, self._policy.steps[-1] if self._policy.steps else 0)

    # -- when the next event can matter

    def _next_event(self, timeline: Timeline, start: int) -> int:
        """Returns the first event from ``start`` on that can change the state; the end if there is none."""
        if start >= len(timeline):
            return start
        rest, rises = timeline.events[start:], self._rising_scores()
        version, flagged = rest["version"], rest["flagged"]
        latched = np.array([*(name in rises for name in timeline.versions), False])[version]
        rise_at = np.array([*(rises.get(name, math.inf) for name in timeline.versions), math.inf])[version]
        matters: NDArray[np.bool_] = timeline.has_finding[start:] | ((version >= 0) & (flagged != latched))
        matters |= flagged & (rest["score"] >= rise_at)
        matters |= rest["time"] >= self._deadline(float(timeline.events["time"][start - 1]) if start else -math.inf)
        if self.entry.is_suspect:
            matters |= self._reaches_next_rung(rest) | self._changes_affiliation(
                timeline.affiliations, rest["affiliation"]
            )
        if self.entry.by_content_alone:
            matters |= timeline.has_family[start:]
        if self._awaits_enforcement():
            matters |= ~rest["learning"]
        return start + int(matters.argmax()) if matters.any() else len(timeline)

    def _reaches_next_rung(self, rest: NDArray[np.void]) -> NDArray[np.bool_]:
        """Returns which events bring a suspect to the next step of a rule, or the next exposure that one asks for."""
        entry = self.entry
        most = min(self._queries_to_next_rung(weight) for weight in {1, *map(weight_of, entry.members)})
        exposure = next((step for step in self._policy.exposures if step > entry.exposure), math.inf)
        climbs: NDArray[np.bool_] = (np.cumsum(rest["queries"]) >= most) | (rest["exposure"] >= exposure)
        return climbs

    def _queries_to_next_rung(self, weight: int) -> float:
        """Returns how many further queries, each of ``weight``, bring a suspect to the next step of a rule."""
        step = self._policy.next_step(self.entry.queries * weight)
        return math.inf if step is None else math.ceil(step / weight) - self.entry.queries

    def _changes_affiliation(self, known: list[Affiliation], index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Returns which events have another affiliation than the last; ``index`` into the ``known`` ones, -1 for
        none."""
        last = known.index(self.entry.affiliation) if self.entry.affiliation in known else len(known)
        changes: NDArray[np.bool_] = (index >= 0) & (index != last)
        return changes

    def _rising_scores(self) -> dict[str, float]:
        """Returns, by model version with a latched verdict of the engine, the score that raises an alert's severity."""
        rising: dict[str, float] = {}
        for latch in self.entry.latches:
            if latch.signal not in COUNTED:
                rising[latch.model_version] = min(latch.rises_at, rising.get(latch.model_version, math.inf))
        return rising

    def _deadline(self, now: float) -> float:
        """Returns the policy time from which an event can matter even if it changes no verdict."""
        entry = self.entry
        times = [active.cause.expires_at for active in entry.active_causes]
        if entry.decision is not None:
            times.append(entry.decision.expires_at)
        if entry.cools_at > -math.inf:
            times.append(entry.cools_at)
        times.extend(group.droppable_at for group in entry.groups)
        if entry.is_suspect:
            times.append(entry.seen + DAY)
            exemption = self._exemption(now)
            if exemption is not None:
                times.append(exemption.expires_at)
            plans = self._plans(learning=False)
            times.extend(plans[origin].renew_at(active) for origin, active in self._standing_causes(plans).items())
        return min(times, default=math.inf)

    def _awaits_enforcement(self) -> bool:
        """Returns whether a cause is in ``observe`` only because it was given while learning."""
        plans = self._plans(learning=False)
        standing = self._standing_causes(plans)
        return any(active.mode == "observe" and plans[origin].mode == "enforce" for origin, active in standing.items())

    # -- verdicts

    def _update_latches(self, event: PolicyEvent) -> None:
        version, entry = event.model_version, self.entry
        if version is None:
            return
        if not (event.flagged or event.findings):
            self._set_latches(tuple(x for x in entry.latches if x.model_version != version or x.signal in COUNTED))
            return
        for finding in event.findings:
            if not any(x.model_version == version and x.signal == finding.signal for x in entry.latches):
                self._publish_first_alert(finding, self._latch(version, finding.signal, event.time), event.time)
        if version not in self._rising_scores():
            self._latch(version, LATCHED, event.time)
            self._audit_if_withheld(LATCHED, event.time)
        for latch in entry.latches:
            if latch.model_version == version and latch.signal not in COUNTED and latch.alert is not None:
                self._raise_alert(latch, event.score, event.query_index, latch.alert.evidence, event.time)

    def _add_family(self, version: str | None, family: Family, now: float) -> None:
        """Notes that evidence of ``family`` has joined that of content, on which a verdict rested alone."""
        latches = self.entry.latches
        for latch in latches:
            if latch.model_version == version and latch.family == "content":
                changed = msgspec.structs.replace(latch, later_family=family)
                self.entry.latches = tuple(changed if old is latch else old for old in self.entry.latches)
                self.emitted.append(family_audit(self.key, latch.signal, latch.episode, family, now))

    def _apply_accusation(self, accusation: Accusation, now: float) -> None:
        """Applies a change of what is counted, whatever the engine's verdict is. A release takes effect at once."""
        finding, signal = accusation.finding, accusation.signal
        latch = next((latch for latch in self.entry.latches if latch.signal == signal), None)
        if finding is None:
            self._release(signal, now)
            return
        is_notice = signal == BUDGET and finding.score < 1
        if signal == BUDGET:
            self.entry.budget_left = max(0, 100 - math.floor(finding.score * STEPS) * 100 // STEPS)
            if latch is not None and is_notice == (latch.alert is not None):
                self._release(signal, now)
                latch = None
        if latch is not None:
            self._raise_alert(latch, finding.score, finding.query_index, finding.evidence, now)
        elif is_notice:
            self._latch(finding.model_version, signal, now)
        else:
            self._publish_first_alert(finding, self._latch(finding.model_version, signal, now), now)

    def _release(self, signal: str, now: float) -> None:
        """Removes latch and cause of ``signal``, whose alert is over."""
        self._release_alerts({SIGNAL_ORIGIN + signal}, "policy", now)
        self._set_latches(tuple(latch for latch in self.entry.latches if latch.signal != signal))
        self._keep_causes(
            active for active in self.entry.active_causes if active.cause.origin != SIGNAL_ORIGIN + signal
        )

    def _set_latches(self, latches: tuple[LatchedAlert, ...]) -> None:
        self.entry.latches = latches
        if not self.entry.is_suspect:
            self.entry.seen = -math.inf

    def _latch(self, version: str, signal: str, now: float) -> LatchedAlert:
        """Adds a latch."""
        latch = LatchedAlert(version, signal, self._start_episode(now))
        self.entry.latches = (*self.entry.latches, latch)
        return latch

    def _start_episode(self, now: float) -> int:
        """Returns the number of a new episode: at least the policy time in seconds, so that none repeats after an entry
        is dropped. The ladder starts again if nothing else holds against the principal."""
        entry = self.entry
        others = flagging(entry) or any(active.automatic for active in entry.active_causes)
        if not others and now >= entry.cools_at:
            entry.queries, entry.exposure = 0, 0.0
        entry.episode = max(entry.episode + 1, math.floor(now))
        return entry.episode

    def _publish_first_alert(self, finding: Finding, latch: LatchedAlert, now: float) -> None:
        alert = first_alert(finding, latch.episode, now, self._configuration, self._suppressed_by(now))
        self._publish_alert(latch, alert)
        self._audit_if_withheld(finding.signal, now)

    def _raise_alert(
        self, latch: LatchedAlert, score: float, query_index: int, evidence: tuple[Evidence, ...], now: float
    ) -> None:
        """Publishes the next revision of the alert of ``latch`` if ``score`` raises its severity."""
        if latch.alert is not None and score >= latch.rises_at:
            self._publish_alert(latch, risen(latch.alert, now, score, query_index, self._suppressed_by(now), evidence))

    def _release_alerts(self, origins: Container[str] | None, by: str, now: float) -> None:
        """Publishes that the alerts of the latches of ``origins``, or all, are over."""
        for latch in self.entry.latches:
            chosen = origins is None or latch.origin in origins
            if chosen and latch.alert is not None and latch.alert.released_by is None:
                self._publish_alert(latch, released(latch.alert, now, by))

    def _publish_alert(self, latch: LatchedAlert, alert: Alert) -> None:
        published = msgspec.structs.replace(latch, alert=alert)
        self.entry.latches = tuple(published if old is latch else old for old in self.entry.latches)
        self.emitted.append(alert)

    def _audit_if_withheld(self, signal: str, now: float) -> None:
        exemption = self._exemption(now)
        if exemption is not None:
            self.emitted.append(withheld_audit(self.key, signal, self.entry.episode, exemption, now))

    def _suppressed_by(self, now: float) -> str | None:
        exemption = self._exemption(now)
        return None if exemption is None else str(exemption)

    def _exemption(self, now: float) -> Exemption | None:
        return self._exemptions.covering(*self.key, now, self.entry.affiliation)

    # -- the causes that follow from them

    def _update_causes(self, now: float, learning: bool) -> None:
        """Adds, renews or removes the causes of the signals and groups that make the principal a suspect."""
        entry = self.entry
        if self._exemption(now) is not None:
            self._keep_causes(active for active in entry.active_causes if not active.automatic)
            return
        plans = self._plans(learning)
        current = self._standing_causes(plans)
        if not any(plan.is_due(current.get(origin), now) for origin, plan in plans.items()):
            return
        for origin, plan in sorted(plans.items()):
            known, name = current.get(origin), origin.removeprefix(SIGNAL_ORIGIN)
            number = known.cause.id if known else content_id("cause", *self.key, name, plan.episode, size=8)
            ends = now + plan.seconds if known is None or not plan.outlived else known.cause.expires_at
            self._replace_cause(ActiveCause(Cause(number, origin, ends, plan.reason), plan.action, plan.mode))

    def _plans(self, learning: bool) -> dict[str, Plan]:
        """Returns what should follow from each suspicion that a rule matches, by origin."""
        plans = ((latch, plan_of(self._policy, self.key[0], self.entry, latch, learning)) for latch in self._latches())
        return {latch.origin: plan for latch, plan in plans if plan is not None}

    def _latches(self) -> Collection[LatchedAlert | Membership]:
        return flagging(self.entry).values()

    def _standing_causes(self, plans: Container[str]) -> dict[str, ActiveCause]:
        """Returns the current causes of ``plans``, by origin."""
        return {active.cause.origin: active for active in self.entry.active_causes if active.cause.origin in plans}

    def _keep_causes(self, kept: Iterable[ActiveCause]) -> None:
        """Removes all other causes; without any of a signal or group left, the cool-down ends too."""
        before, self.entry.active_causes = self.entry.active_causes, tuple(kept)
        removed = any(active.automatic for active in before if active not in self.entry.active_causes)
        if removed and not any(active.automatic for active in self.entry.active_causes):
            self.entry.cools_at = -math.inf

    def _replace_cause(self, new: ActiveCause) -> None:
        if new.automatic:
            cools_at = new.cause.expires_at + self._policy.cool_down_seconds
            self.entry.cools_at = max(self.entry.cools_at, cools_at)
        others = (active for active in self.entry.active_causes if active.cause.origin != new.cause.origin)
        self.entry.active_causes = (*others, new)

    # -- the decision that follows from the causes

    def _publish_decision(self, now: float) -> None:
        """Publishes the decision that should hold, if it differs from the one published last."""
        active_causes, current = self.entry.active_causes, self.entry.decision
        if not active_causes:
            if current is not None and not is_release(current.action):
                self._issue(Action("none"), current.mode, (), now, current.expires_at)
            return
        strongest = max(strength(active.mode, active.action) for active in active_causes)
        effective = [active for active in active_causes if strength(active.mode, active.action) == strongest]
        action, mode = effective[0].action, effective[0].mode
        expires_at = max(active.cause.expires_at for active in effective)
        causes = tuple(active.cause for active in active_causes)
        if current is None or (action, mode, expires_at, causes) != (
            current.action,
            current.mode,
            current.expires_at,
            tuple(cause for cause in current.causes if cause.expires_at > now),
        ):
            self._issue(action, mode, causes, now, expires_at)

    def _issue(self, action: Action, mode: Mode, causes: tuple[Cause, ...], now: float, expires_at: float) -> None:
        reasons = [[cause.id, cause.origin, cause.expires_at] for cause in causes]
        effect = [*encoded_action(action), mode, now, expires_at]
        decision = Decision(
            id=content_id("decision", *self.key, effect, reasons),
            model=self.key[0],
            principal=self.key[1],
            action=action,
            mode=mode,
            epoch=(0, 0),
            issued_at=now,
            expires_at=expires_at,
            causes=causes,
            policy_version=self._policy.version,
        )
        self.entry.decision = decision
        self.emitted += [decision, decision_audit(decision)]


_Latch = TypeVar("_Latch", LatchedAlert, Membership)


def _lift(latches: tuple[_Latch, ...], origins: Container[str] | None) -> tuple[_Latch, ...]:
    """Marks those of ``origins``, or all, as lifted."""
    return tuple(
        msgspec.structs.replace(latch, lifted=True) if origins is None or latch.origin in origins else latch
        for latch in latches
    )


def _left(group: Membership, now: float) -> Membership:
    return group if group.left_at is not None else Membership(group.group, group.issued_at, left_at=now)
