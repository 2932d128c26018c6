"""Enforcement state of one principal of one model: how an event changes it, and which event can change it next.

It is level-triggered: each event of a suspect compares the decision that should hold with the one published last, and
publishes the difference. So a lost entry, a changed setting or an expired decision is corrected at the suspect's next
query.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from detector.contracts.findings import Action, Alert, Audit, Cause, Decision, Evidence, Finding, Mode
from detector.policy.accounting import UNJUDGED
from detector.policy.activity import Key, Turn
from detector.policy.allowlist import Exemption
from detector.policy.config import LATCHED, Policy, strength
from detector.policy.entry import DAY, IDLE_SECONDS, ActiveCause, Entry, LatchedAlert
from detector.policy.records import UNCALIBRATED, content_id, decision_audit, first_alert, risen, withheld_audit

_SIGNAL = "signal:"


def _doubt(latch: LatchedAlert) -> str:
    return UNCALIBRATED if latch.alert is not None and latch.alert.calibrated is False else ""


@dataclass(frozen=True, slots=True)
class PolicyEvent:
    """One row, or (``model_version`` None) ``queries`` without a verdict."""

    time: float
    model_version: str | None
    flagged: bool = False
    learning: bool = False
    queries: int = 1
    score: float = math.nan
    query_index: int = 0
    findings: Sequence[Finding] = ()
    turn: Turn | None = None


class PrincipalPolicy:
    """Works on a copy of ``entry``; ``emitted`` collects the records to publish, in order."""

    def __init__(self, key: Key, entry: Entry | None, policy: Policy, configuration: str) -> None:
        self.key = key
        self.before = entry
        self.entry = Entry() if entry is None else copy.copy(entry)
        self.emitted: list[Alert | Decision | Audit] = []
        self._policy = policy
        self._configuration = configuration

    # -- what happens

    def observe(self, event: PolicyEvent) -> None:
        """Applies one event of the principal."""
        self.expire(event.time)
        suspect_before = bool(self.entry.latches)
        self._update_latches(event)
        if event.turn is not None:
            self._apply_turn(event.turn, event.time)
        if self.entry.latches:
            if suspect_before:
                self.count(event.queries)
            if event.time >= self.entry.seen + DAY:
                self.entry.seen = event.time
            self._update_causes(event)
        self.publish(event.time)

    def count(self, queries: int) -> None:
        """Counts further queries of a suspect, up to the last step of the ladder."""
        self.entry.queries = min(self.entry.queries + queries, self._policy.ladder[-1].after_queries)

    def expire(self, now: float) -> None:
        """Drops causes, decision and latches that have expired at ``now``."""
        entry = self.entry
        entry.active_causes = tuple(active for active in entry.active_causes if active.cause.expires_at > now)
        if entry.decision is not None and entry.decision.expires_at <= now:
            entry.decision = None
        if entry.latches and now >= entry.seen + IDLE_SECONDS:
            self._unlatch(())

    def impose(self, active: ActiveCause, now: float) -> None:
        """Adds a command's cause; it replaces an earlier one of the same origin."""
        self.expire(now)
        self._replace({active.cause.origin: active})
        self.publish(now)

    def lift(self, cause_id: str | None, now: float) -> tuple[Cause, ...]:
        """Removes the cause ``cause_id``, or all, and returns them. Latches of a removed signal give no new cause."""
        self.expire(now)
        gone = tuple(s.cause for s in self.entry.active_causes if cause_id in (None, s.cause.id))
        origins = {cause.origin for cause in gone}
        self.entry.active_causes = tuple(s for s in self.entry.active_causes if s.cause not in gone)
        self.entry.latches = tuple(
            msgspec.structs.replace(latch, lifted=True)
            if cause_id is None or _SIGNAL + latch.signal in origins
            else latch
            for latch in self.entry.latches
        )
        self.publish(now)
        return gone

    def clear(self, now: float) -> None:
        """Removes all causes and latches."""
        self.expire(now)
        self.entry.active_causes = ()
        self._unlatch(())
        self.publish(now)

    # -- when the next event can matter

    def latched_versions(self) -> set[str]:
        """The model versions with a latched verdict of the engine."""
        return {latch.model_version for latch in self.entry.latches if latch.signal != UNJUDGED}

    def scores_that_rise(self) -> dict[str, float]:
        """The score at which an alert's severity rises, by model version."""
        rises = [(latch.model_version, latch.rises_at) for latch in self.entry.latches if latch.signal != UNJUDGED]
        return {version: min(at for own, at in rises if own == version) for version, _ in rises}

    def deadline(self, now: float) -> float:
        """The policy time from which an event can matter even if it changes no verdict."""
        entry = self.entry
        times = [active.cause.expires_at for active in entry.active_causes]
        if entry.decision is not None:
            times.append(entry.decision.expires_at)
        if entry.latches:
            times.append(entry.seen + DAY)
            exemption = self._exemption(now)
            if exemption is not None:
                times.append(exemption.expires_at)
            times.extend(self._renew_at(s) for s in self._signal_causes().values())
        return min(times, default=math.inf)

    def queries_to_next_step(self) -> float:
        """Further queries until the next step of the ladder; infinity at its end, or if not a suspect."""
        step = self._policy.next_step(self.entry.queries) if self.entry.latches else None
        return math.inf if step is None else step - self.entry.queries

    def awaits_enforcement(self) -> bool:
        """Whether a cause is in ``observe`` only because it was given while learning."""
        return any(
            active.mode == "observe" and self._policy.mode_of(self.key[0], signal) == "enforce"
            for signal, active in self._signal_causes().items()
        )

    # -- verdicts

    def _update_latches(self, event: PolicyEvent) -> None:
        version = event.model_version
        if version is None:
            return
        if not (event.flagged or event.findings):
            if version in self.latched_versions():
                self._keep_latches(lambda latch: latch.model_version != version or latch.signal == UNJUDGED)
            return
        for finding in event.findings:
            if not any(x.model_version == version and x.signal == finding.signal for x in self.entry.latches):
                self._alert(finding, self._new_latch(version, finding.signal, event.time), event.time)
        if version not in self.latched_versions():
            self._new_latch(version, LATCHED, event.time)
            self._audit_if_withheld(LATCHED, event.time)
        self._raise_alerts(event)

    def _apply_turn(self, turn: Turn, now: float) -> None:
        """Applies a change of the accounting, whatever the engine's verdict is. A release takes effect at once."""
        finding = turn.finding
        if finding is None:
            self._keep_latches(lambda latch: latch.signal != UNJUDGED)
            self.entry.active_causes = tuple(
                s for s in self.entry.active_causes if s.cause.origin != _SIGNAL + UNJUDGED
            )
            return
        latch = next((one for one in self.entry.latches if one.signal == UNJUDGED), None)
        if latch is None:
            self._alert(finding, self._new_latch(finding.model_version, UNJUDGED, now), now)
        else:
            self._raise_alert(latch, finding.score, finding.query_index, finding.evidence, now)

    def _keep_latches(self, stays: Callable[[LatchedAlert], bool]) -> None:
        self._unlatch(tuple(latch for latch in self.entry.latches if stays(latch)))

    def _unlatch(self, remaining: tuple[LatchedAlert, ...]) -> None:
        self.entry.latches = remaining
        if not remaining:
            self.entry.seen = -math.inf

    def _new_latch(self, version: str, signal: str, now: float) -> LatchedAlert:
        """Adds a latch. Its episode is at least the policy time in seconds: none repeats after an entry is dropped."""
        entry = self.entry
        held = any(not latch.lifted for latch in entry.latches)
        if not held and not any(active.cause.origin.startswith(_SIGNAL) for active in entry.active_causes):
            entry.queries = 0
        entry.episode = max(entry.episode + 1, math.floor(now))
        latch = LatchedAlert(version, signal, entry.episode)
        entry.latches = (*entry.latches, latch)
        return latch

    def _alert(self, finding: Finding, latch: LatchedAlert, now: float) -> None:
        withheld = self._withheld_by(now)
        self._publish_alert(latch, first_alert(finding, latch.episode, now, self._configuration, withheld))
        self._audit_if_withheld(finding.signal, now)

    def _raise_alerts(self, event: PolicyEvent) -> None:
        """Raises the severity of the alerts on this model version if the score has risen enough."""
        for latch in self.entry.latches:
            if latch.model_version == event.model_version and latch.signal != UNJUDGED and latch.alert is not None:
                self._raise_alert(latch, event.score, event.query_index, latch.alert.evidence, event.time)

    def _raise_alert(
        self, latch: LatchedAlert, score: float, query_index: int, evidence: tuple[Evidence, ...], now: float
    ) -> None:
        """Publishes the next revision of the alert of ``latch`` if ``score`` raises its severity."""
        if latch.alert is not None and score >= latch.rises_at:
            revised = risen(latch.alert, now, score, query_index, self._withheld_by(now), evidence)
            self._publish_alert(latch, revised)

    def _publish_alert(self, latch: LatchedAlert, alert: Alert) -> None:
        alerted = msgspec.structs.replace(latch, alert=alert)
        self.entry.latches = tuple(alerted if one is latch else one for one in self.entry.latches)
        self.emitted.append(alert)

    def _withheld_by(self, now: float) -> str | None:
        exemption = self._exemption(now)
        return None if exemption is None else str(exemption)

    # -- the causes that follow from them

    def _update_causes(self, event: PolicyEvent) -> None:
        """Adds, renews or removes the causes of the signals that flag the principal."""
        if self._exemption(event.time) is not None:
            self.entry.active_causes = tuple(
                s for s in self.entry.active_causes if not s.cause.origin.startswith(_SIGNAL)
            )
            return
        current = self._signal_causes()
        wanted = {latch.signal: latch for latch in reversed(self.entry.latches) if not latch.lifted}
        action = self._policy.action_after(self.entry.queries)
        modes = {signal: self._mode(signal, current.get(signal), event.learning) for signal in wanted}
        if any(self._is_due(current.get(signal), action, modes[signal], event.time) for signal in wanted):
            expires_at = event.time + self._policy.decision_seconds
            causes = {
                signal: Cause(self._cause_id(current.get(signal), latch), _SIGNAL + signal, expires_at, _doubt(latch))
                for signal, latch in sorted(wanted.items())
            }
            self._replace({c.origin: ActiveCause(c, action, modes[signal]) for signal, c in causes.items()})

    def _signal_causes(self) -> dict[str, ActiveCause]:
        """The current cause of each signal that flags the principal and was not lifted."""
        by_origin = {active.cause.origin: active for active in self.entry.active_causes}
        signals = {latch.signal for latch in self.entry.latches if not latch.lifted}
        return {signal: by_origin[_SIGNAL + signal] for signal in signals if _SIGNAL + signal in by_origin}

    def _mode(self, signal: str, active: ActiveCause | None, learning: bool) -> Mode:
        mode = self._policy.mode_of(self.key[0], signal)
        if learning and not (active is not None and active.mode == "enforce"):
            return "observe"
        return mode

    def _is_due(self, active: ActiveCause | None, action: Action, mode: Mode, now: float) -> bool:
        if active is None or active.action != action or active.mode != mode:
            return True
        return now >= self._renew_at(active)

    def _renew_at(self, active: ActiveCause) -> float:
        return active.cause.expires_at - self._policy.decision_seconds / 2

    def _cause_id(self, active: ActiveCause | None, latch: LatchedAlert) -> str:
        if active is not None:
            return active.cause.id
        return content_id("cause", *self.key, latch.signal, latch.episode, size=8)

    def _replace(self, active_causes: dict[str, ActiveCause]) -> None:
        others = (active for active in self.entry.active_causes if active.cause.origin not in active_causes)
        self.entry.active_causes = (*others, *active_causes.values())

    # -- what is published

    def publish(self, now: float) -> None:
        """Publishes the decision that follows from the causes, if it differs from the one published last."""
        entry, current = self.entry, self.entry.decision
        if not entry.active_causes:
            if current is not None and current.action.name != "none":
                self._issue(Action("none"), current.mode, (), now, current.expires_at)
            return
        strongest = max(strength(active.mode, active.action) for active in entry.active_causes)
        effective = [s for s in entry.active_causes if strength(s.mode, s.action) == strongest]
        expires_at = max(active.cause.expires_at for active in effective)
        causes = tuple(active.cause for active in entry.active_causes)
        action, mode = effective[0].action, effective[0].mode
        if current is None or (action, mode, expires_at, causes) != (
            current.action,
            current.mode,
            current.expires_at,
            tuple(cause for cause in current.causes if cause.expires_at > now),
        ):
            self._issue(action, mode, causes, now, expires_at)

    def _issue(self, action: Action, mode: Mode, causes: tuple[Cause, ...], now: float, expires_at: float) -> None:
        reasons = [[cause.id, cause.origin, cause.expires_at] for cause in causes]
        words = [action.name, action.queries_per_second, mode, now, expires_at]
        decision = Decision(
            id=content_id("decision", *self.key, words, reasons),
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

    def _audit_if_withheld(self, signal: str, now: float) -> None:
        exemption = self._exemption(now)
        if exemption is not None:
            self.emitted.append(withheld_audit(self.key, signal, self.entry.episode, exemption, now))

    def _exemption(self, now: float) -> Exemption | None:
        return self._policy.allowlist.covering(*self.key, now)
