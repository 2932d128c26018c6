"""What decisions in mode ``observe`` would have done: against which principals, for how long, why, and at what cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from detector.contracts.actions import ACTIONS, HARSHNESS
from detector.contracts.findings import Alert, Audit, Decision
from detector.explain.page import render
from detector.explain.tables import TextTable
from detector.explain.words import count
from detector.policy.records import causes_of, decision_audit
from detector.runtime.text import rfc3339

Key = tuple[str, str]
"""(model, principal)"""

_MOST_EVIDENCE = 3
_PUBLISHED, _RELEASING = ("decision", "release"), ("delete", "clear")


class Stretch(NamedTuple):
    """``action`` that a gate would have taken from ``start`` to ``end``, seconds UTC, because of ``causes``."""

    start: float
    end: float
    action: str
    causes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShadowedPrincipal:
    """``stretches`` in order of time, ``alerts`` the newest revision of each. ``released_since``: an operator has since
    deleted a cause or cleared the principal, which suggests that they are honest."""

    model: str
    principal: str
    stretches: tuple[Stretch, ...]
    alerts: tuple[Alert, ...]
    released_since: bool

    @property
    def seconds(self) -> dict[str, float]:
        """The time under each action, from the mildest to the harshest."""
        total: defaultdict[str, float] = defaultdict(float)
        for stretch in self.stretches:
            total[stretch.action] += stretch.end - stretch.start
        return {name: total[name] for name in ACTIONS if name in total}

    @property
    def harshest(self) -> str:
        return max((stretch.action for stretch in self.stretches), key=HARSHNESS.__getitem__)

    @property
    def causes(self) -> list[str]:
        return sorted({cause for stretch in self.stretches for cause in stretch.causes})

    @property
    def calibrated(self) -> bool:
        """Whether a verdict rests on a profile; without one, nothing is enforced unless the owner says so."""
        return any(alert.calibrated is not False for alert in self.alerts) or not self.alerts


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """``principals`` with the harshest action and the longest time first. ``known``: accounts with a score, by model.
    ``withheld``: accounts on the allowlist that would have had a decision."""

    since: float
    until: float
    principals: tuple[ShadowedPrincipal, ...]
    known: Mapping[str, int]
    withheld: tuple[Key, ...]


def shadow_report(
    audits: Iterable[Audit],
    current: Iterable[Decision],
    alerts: Iterable[Alert],
    known: Mapping[str, int],
    since: float,
    until: float,
) -> ShadowReport:
    """Returns the report from ``since`` to ``until``, seconds UTC. ``current``: decisions in force; some may be
    older than ``audits``."""
    by_key: defaultdict[Key, dict[str, Audit]] = defaultdict(dict)
    for audit in (*map(decision_audit, current), *audits):
        by_key[audit.model, audit.principal][audit.id] = audit
    alerts_of: defaultdict[Key, dict[str, Alert]] = defaultdict(dict)
    for alert in sorted(alerts, key=lambda alert: alert.revision):
        alerts_of[alert.model, alert.principal][alert.id] = alert
    principals, withheld = [], []
    for key, by_id in by_key.items():
        ordered = sorted(by_id.values(), key=lambda audit: audit.occurred_at)
        if any(audit.kind == "decision_withheld" for audit in ordered):
            withheld.append(key)
        if stretches := tuple(_stretches(ordered, since, until)):
            released_since = any(
                audit.kind == "command" and audit.detail.get("kind") in _RELEASING for audit in ordered
            )
            raised = tuple(sorted(alerts_of[key].values(), key=lambda alert: alert.occurred_at))
            principals.append(ShadowedPrincipal(*key, stretches, raised, released_since))
    principals.sort(
        key=lambda account: (
            -HARSHNESS[account.harshest],
            -sum(account.seconds.values()),
            account.model,
            account.principal,
        )
    )
    return ShadowReport(since, until, tuple(principals), dict(known), tuple(sorted(withheld)))


def _stretches(ordered: Sequence[Audit], since: float, until: float) -> Iterator[Stretch]:
    """Yields the stretches under observed decisions; each decision ends with the next one, or when it expires."""
    published = [audit for audit in ordered if audit.kind in _PUBLISHED]
    for number, audit in enumerate(published):
        action, ends = str(audit.detail.get("action")), audit.detail.get("expires_at")
        if audit.detail.get("mode") != "observe" or action not in ACTIONS or action == "none":
            continue
        following = published[number + 1].occurred_at if number + 1 < len(published) else until
        end = min(until, following, ends if isinstance(ends, float | int) else until)
        start = max(since, audit.occurred_at)
        if end > start:
            yield Stretch(start, end, action, causes_of(audit))


def headline(report: ShadowReport) -> str:
    """Returns the number of accounts, in a few words."""
    return f"{count(len(report.principals), 'account', 'accounts')} would have met an action"


def sentences(report: ShadowReport) -> Iterator[str]:
    """Yields what would have happened, and what it would have cost, in sentences."""
    yield f"From {rfc3339(report.since)} to {rfc3339(report.until)}, by decisions that only observe."
    for model, accounts in sorted(report.known.items()):
        touched = [account for account in report.principals if account.model == model]
        share = f"{len(touched) / accounts:.1%}"
        yield f"{model}: {len(touched):,} of {count(accounts, 'account', 'accounts')} with a score ({share})."
    for name, kind in ACTIONS.items():
        times = [account.seconds[name] for account in report.principals if name in account.seconds]
        if times:
            who = count(len(times), "account", "accounts")
            yield f"{name}: {who} for {duration(sum(times))} together; it would have cost them: {kind.cost}."
    released_since = [account for account in report.principals if account.released_since]
    if released_since:
        lost = sum(sum(account.seconds.values()) for account in released_since)
        who = count(len(released_since), "account", "accounts")
        yield f"An operator has released {who} of these since: {duration(lost)} that honest users would have lost."
    if report.withheld:
        yield f"The allowlist has spared {count(len(report.withheld), 'account', 'accounts')}."
    doubtful = sum(not account.calibrated for account in report.principals)
    if doubtful:
        yield (
            f"Judged without a profile: {count(doubtful, 'account', 'accounts')}. Nothing is enforced against them, "
            "whatever the mode, unless policy.enforce_uncalibrated is true."
        )


def duration(seconds: float) -> str:
    """Returns ``seconds`` as days, hours or minutes, whichever is the largest that fills one."""
    for size, unit in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def reasons_of(account: ShadowedPrincipal) -> str:
    """Returns causes, families of evidence and the evidence that adds most."""
    families = sorted({alert.family for alert in account.alerts if alert.family is not None})
    names = dict.fromkeys(item.name for alert in account.alerts for item in alert.evidence[:_MOST_EVIDENCE])
    parts = [", ".join(account.causes), f"evidence of {' and '.join(families)}" if families else "", ", ".join(names)]
    parts += [] if account.calibrated else ["uncalibrated"]
    return "; ".join(part for part in parts if part)


def table_of(report: ShadowReport) -> TextTable:
    """Returns a line for each principal."""
    head = ("principal", "model", "actions", "first", "last", "why", "released since")
    rows = [
        (
            account.principal,
            account.model,
            ", ".join(f"{name} {duration(seconds)}" for name, seconds in account.seconds.items()),
            rfc3339(account.stretches[0].start),
            rfc3339(account.stretches[-1].end),
            reasons_of(account),
            "yes" if account.released_since else "no",
        )
        for account in report.principals
    ]
    return TextTable(head, rows, len(head))


def as_json(report: ShadowReport) -> dict[str, Any]:
    """Returns the report as JSON values; times are RFC 3339."""
    return {
        "since": rfc3339(report.since),
        "until": rfc3339(report.until),
        "accounts_with_a_score": dict(sorted(report.known.items())),
        "withheld": [{"model": model, "principal": principal} for model, principal in report.withheld],
        "principals": [
            {
                "model": account.model,
                "principal": account.principal,
                "seconds": account.seconds,
                "first": rfc3339(account.stretches[0].start),
                "last": rfc3339(account.stretches[-1].end),
                "causes": account.causes,
                "families": sorted({alert.family for alert in account.alerts if alert.family is not None}),
                "alerts": [alert.id for alert in account.alerts],
                "calibrated": account.calibrated,
                "released_since": account.released_since,
                "costs": {name: ACTIONS[name].cost for name in account.seconds},
            }
            for account in report.principals
        ],
    }


def page(report: ShadowReport) -> str:
    """Returns the report as a page in HTML."""
    return render("shadow.html", heading=headline(report), sentences=sentences(report), table_of=table_of(report))
