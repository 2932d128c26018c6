"""Enforcement state machine of one principal of one model: how an event changes it, and which event can change it next.

It is level-triggered: each event of a suspect compares the decision that should hold with the one published last, and
publishes the difference. So a lost entry, a changed setting or an expired decision is corrected at the suspect's next
query.
"""

from __future__ import annotations

import copy
import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Action, Alert, Audit, Cause, Decision, Evidence, Finding, Mode
from detector.policy.accounting import UNJUDGED
from detector.policy.activity import Accusation, Key
from detector.policy.allowlist import Exemption
from detector.policy.config import LATCHED, Policy, strength
from detector.policy.entry import DAY, IDLE_SECONDS, ActiveCause, Entry, LatchedAlert
from detector.policy.records import UNCALIBRATED, content_id, decision_audit, first_alert, risen, withheld_audit
from detector.policy.timeline import PolicyEvent, Timeline

Record = Alert | Decision | Audit

_SIGNAL = "signal:"


class PrincipalPolicy:
    """Works on a copy of ``entry``; ``emitted`` collects the records to publish, in order."""

    def __init__(self, key: Key, entry: Entry | None, policy: Policy, configuration: str) -> None:
        self.key = key
        self.before = entry
        self.entry = Entry() if entry is None else copy.copy(entry)
        self.emitted: list[Record] = []
        self._policy = policy
        self._configuration = configuration

    # -- what happens

    def run(self, timeline: Timeline) -> list[tuple[int, Record]]:
        """Applies the events that can change the state, counts the others, and returns the records with the positions
        of their events."""
        placed: list[tuple[int, Record]] = []
        at = 0 if self.before is not None else self._next_event(timeline, 0)
        while at < len(timeline):
            event, already = timeline.event(at), len(self.emitted)
            self._observe(event)
            placed += [(event.position, record) for record in self.emitted[already:]]
            following = self._next_event(timeline, at + 1)
            if self.entry.latches:
                self._count(int(timeline.events["queries"][at + 1 : following].sum()))
            at = following
        return placed

    def expire(self, now: float) -> None:
        """Drops causes, decision and latches that have expired at ``now``."""
        entry = self.entry
        entry.active_causes = tuple(active for active in entry.active_causes if active.cause.expires_at > now)
        if entry.decision is not None and entry.decision.expires_at <= now:
            entry.decision = None
        if entry.latches and now >= entry.seen + IDLE_SECONDS:
            self._set_latches(())

    def impose(self, active: ActiveCause, now: float) -> None:
        """Adds a command's cause; it replaces an earlier one of the same origin."""
        self.expire(now)
        self._replace_cause(active)
        self._publish_decision(now)

    def lift(self, cause_id: str | None, now: float) -> tuple[Cause, ...]:
        """Removes the cause ``cause_id``, or all, and returns them. Latches of a removed signal give no new cause."""
        self.expire(now)
        entry = self.entry
        lifted = tuple(active.cause for active in entry.active_causes if cause_id in (None, active.cause.id))
        origins = {cause.origin for cause in lifted}
        entry.active_causes = tuple(active for active in entry.active_causes if active.cause not in lifted)
        entry.latches = tuple(
            msgspec.structs.replace(latch, lifted=True)
            if cause_id is None or _SIGNAL + latch.signal in origins
            else latch
            for latch in entry.latches
        )
        self._publish_decision(now)
        return lifted

    def clear(self, now: float) -> None:
        """Removes all causes and latches."""
        self.expire(now)
        self.entry.active_causes = ()
        self._set_latches(())
        self._publish_decision(now)

    def _observe(self, event: PolicyEvent) -> None:
        self.expire(event.time)
        suspect_before = bool(self.entry.latches)
        self._update_latches(event)
        if event.accusation is not None:
            self._apply_accusation(event.accusation, event.time)
        if self.entry.latches:
            if suspect_before:
                self._count(event.queries)
            if event.time >= self.entry.seen + DAY:
                self.entry.seen = event.time
            self._update_causes(event)
        self._publish_decision(event.time)

    def _count(self, queries: int) -> None:
        """Counts further queries of a suspect, up to the last rung of the ladder."""
        self.entry.queries = min(self.entry.queries + queries, self._policy.ladder[-1].after_queries)

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
        next_rung = self._policy.next_rung(self.entry.queries) if self.entry.latches else None
        if next_rung is not None:
            matters |= np.cumsum(rest["queries"]) >= next_rung - self.entry.queries
        if self._awaits_enforcement():
            matters |= ~rest["learning"]
        return start + int(matters.argmax()) if matters.any() else len(timeline)

    def _rising_scores(self) -> dict[str, float]:
        """Returns, by model version with a latched verdict of the engine, the score that raises an alert's severity."""
        rising: dict[str, float] = {}
        for latch in self.entry.latches:
            if latch.signal != UNJUDGED:
                rising[latch.model_version] = min(latch.rises_at, rising.get(latch.model_version, math.inf))
        return rising

    def _deadline(self, now: float) -> float:
        """Returns the policy time from which an event can matter even if it changes no verdict."""
        entry = self.entry
        times = [active.cause.expires_at for active in entry.active_causes]
        if entry.decision is not None:
            times.append(entry.decision.expires_at)
        if entry.latches:
            times.append(entry.seen + DAY)
            exemption = self._exemption(now)
            if exemption is not None:
                times.append(exemption.expires_at)
            times.extend(self._renew_at(active) for active in self._signal_causes().values())
        return min(times, default=math.inf)

    def _awaits_enforcement(self) -> bool:
        """Returns whether a cause is in ``observe`` only because it was given while learning."""
        return any(
            active.mode == "observe" and self._policy.mode_of(self.key[0], signal) == "enforce"
            for signal, active in self._signal_causes().items()
        )

    # -- verdicts

    def _update_latches(self, event: PolicyEvent) -> None:
        version, entry = event.model_version, self.entry
        if version is None:
            return
        if not (event.flagged or event.findings):
            self._set_latches(tuple(x for x in entry.latches if x.model_version != version or x.signal == UNJUDGED))
            return
        for finding in event.findings:
            if not any(x.model_version == version and x.signal == finding.signal for x in entry.latches):
                self._publish_first_alert(finding, self._latch(version, finding.signal, event.time), event.time)
        if version not in self._rising_scores():
            self._latch(version, LATCHED, event.time)
            self._audit_if_withheld(LATCHED, event.time)
        for latch in entry.latches:
            if latch.model_version == version and latch.signal != UNJUDGED and latch.alert is not None:
                self._raise_alert(latch, event.score, event.query_index, latch.alert.evidence, event.time)

    def _apply_accusation(self, accusation: Accusation, now: float) -> None:
        """Applies a change of the accounting, whatever the engine's verdict is. A release takes effect at once."""
        entry, finding = self.entry, accusation.finding
        latch = next((latch for latch in entry.latches if latch.signal == UNJUDGED), None)
        if finding is None:
            self._set_latches(tuple(latch for latch in entry.latches if latch.signal != UNJUDGED))
            entry.active_causes = tuple(active for active in entry.active_causes if _signal_of(active) != UNJUDGED)
        elif latch is None:
            self._publish_first_alert(finding, self._latch(finding.model_version, UNJUDGED, now), now)
        else:
            self._raise_alert(latch, finding.score, finding.query_index, finding.evidence, now)

    def _set_latches(self, latches: tuple[LatchedAlert, ...]) -> None:
        self.entry.latches = latches
        if not latches:
            self.entry.seen = -math.inf

    def _latch(self, version: str, signal: str, now: float) -> LatchedAlert:
        """Adds a latch. Its episode is at least the policy time in seconds: none repeats after an entry is dropped."""
        entry = self.entry
        if all(latch.lifted for latch in entry.latches) and all(
            _signal_of(active) is None for active in entry.active_causes
        ):
            entry.queries = 0
        entry.episode = max(entry.episode + 1, math.floor(now))
        latch = LatchedAlert(version, signal, entry.episode)
        entry.latches = (*entry.latches, latch)
        return latch

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

    def _publish_alert(self, latch: LatchedAlert, alert: Alert) -> None:
        published = msgspec.structs.replace(latch, alert=alert)
        self.entry.latches = tuple(published if one is latch else one for one in self.entry.latches)
        self.emitted.append(alert)

    def _audit_if_withheld(self, signal: str, now: float) -> None:
        exemption = self._exemption(now)
        if exemption is not None:
            self.emitted.append(withheld_audit(self.key, signal, self.entry.episode, exemption, now))

    def _suppressed_by(self, now: float) -> str | None:
        exemption = self._exemption(now)
        return None if exemption is None else str(exemption)

    def _exemption(self, now: float) -> Exemption | None:
        return self._policy.allowlist.covering(*self.key, now)

    # -- the causes that follow from them

    def _update_causes(self, event: PolicyEvent) -> None:
        """Adds, renews or removes the causes of the signals that flag the principal."""
        entry = self.entry
        if self._exemption(event.time) is not None:
            entry.active_causes = tuple(active for active in entry.active_causes if _signal_of(active) is None)
            return
        current, action = self._signal_causes(), self._policy.action_after(entry.queries)
        first = {latch.signal: latch for latch in reversed(entry.latches) if not latch.lifted}
        modes = {signal: self._mode(signal, current.get(signal), event.learning) for signal in first}
        if not any(self._is_due(current.get(signal), action, modes[signal], event.time) for signal in first):
            return
        expires_at = event.time + self._policy.decision_seconds
        for signal, latch in sorted(first.items()):
            known = current.get(signal)
            number = known.cause.id if known else content_id("cause", *self.key, signal, latch.episode, size=8)
            doubt = UNCALIBRATED if latch.alert is not None and latch.alert.calibrated is False else ""
            self._replace_cause(ActiveCause(Cause(number, _SIGNAL + signal, expires_at, doubt), action, modes[signal]))

    def _mode(self, signal: str, active: ActiveCause | None, learning: bool) -> Mode:
        if learning and not (active is not None and active.mode == "enforce"):
            return "observe"
        return self._policy.mode_of(self.key[0], signal)

    def _is_due(self, active: ActiveCause | None, action: Action, mode: Mode, now: float) -> bool:
        return active is None or (active.action, active.mode) != (action, mode) or now >= self._renew_at(active)

    def _renew_at(self, active: ActiveCause) -> float:
        return active.cause.expires_at - self._policy.decision_seconds / 2

    def _signal_causes(self) -> dict[str, ActiveCause]:
        """Returns the current cause of each signal that flags the principal and was not lifted."""
        flagging = {latch.signal for latch in self.entry.latches if not latch.lifted}
        by_signal = ((_signal_of(active), active) for active in self.entry.active_causes)
        return {signal: active for signal, active in by_signal if signal is not None and signal in flagging}

    def _replace_cause(self, new: ActiveCause) -> None:
        others = (active for active in self.entry.active_causes if active.cause.origin != new.cause.origin)
        self.entry.active_causes = (*others, new)

    # -- the decision that follows from the causes

    def _publish_decision(self, now: float) -> None:
        """Publishes the decision that should hold, if it differs from the one published last."""
        active_causes, current = self.entry.active_causes, self.entry.decision
        if not active_causes:
            if current is not None and current.action.name != "none":
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
        effect = [action.name, action.queries_per_second, mode, now, expires_at]
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


def _signal_of(active: ActiveCause) -> str | None:
    """Returns the signal that a cause comes from; None for an operator's."""
    origin = active.cause.origin
    return origin.removeprefix(_SIGNAL) if origin.startswith(_SIGNAL) else None
