"""Random streams of activity and commands, cut into micro-batches at given places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from detector.contracts.findings import Action, Alert, Audit, Command, Decision, Evidence, Finding, severity_of
from detector.contracts.queries import Count
from detector.policy.activity import Activity, Counted, Effects, UnjudgedRow
from detector.policy.ledger import Ledger

from .oracle import Item, Order, Published, Row, Uncharted

MODEL = "digits"


@dataclass(frozen=True, slots=True)
class Who:
    model: str
    model_version: str
    principal: str


def finding(row: int, principal: str, version: str = "1", signal: str = "prada", score: float = 1.2) -> Finding:
    evidence = (Evidence("w", 0.81, "1", 0.95),)
    return Finding(row, MODEL, version, principal, signal, severity_of(score), score, 0.81, 0.95, 10, evidence)


def activity(items: Sequence[Row | Uncharted]) -> Activity:
    """The micro-batch of ``items``."""
    rows = [item for item in items if isinstance(item, Row)]
    keys = list(dict.fromkeys(Who(MODEL, row.version, row.principal) for row in rows))
    findings = [
        finding(at, row.principal, row.version, signal, row.score)
        for at, row in enumerate(rows)
        for signal in row.found
    ]
    counts, passed = [], 0
    for item in items:
        if isinstance(item, Row):
            passed += 1
            continue
        kind: Any = item.kind
        counts.append(
            Counted(Count(MODEL, item.principal, kind, item.queries, item.time), item.time, passed, item.learning)
        )
    return Activity(
        time=np.array([row.time for row in rows], dtype=np.float64),
        keys=keys,
        key_index=np.array([keys.index(Who(MODEL, r.version, r.principal)) for r in rows], dtype=np.int32),
        flagged=np.array([row.flagged for row in rows], dtype=np.bool_),
        findings=findings,
        learning=np.array([row.learning for row in rows], dtype=np.bool_),
        counts=counts,
        judged=np.array([not row.unjudged for row in rows], dtype=np.bool_),
        unjudged={at: UnjudgedRow(row.unjudged, row.version) for at, row in enumerate(rows) if row.unjudged},
        score=np.array([row.score for row in rows], dtype=np.float64),
        index=np.array([row.time for row in rows], dtype=np.int64),
    )


def drive(ledger: Ledger, items: Sequence[Item], cuts: Iterable[int] = ()) -> Iterator[Effects]:
    """Feeds ``items`` with a cut before each index in ``cuts``; each command is a batch of its own."""
    edges = set(cuts)
    part = 0
    labels = []
    for at, item in enumerate(items):
        part += at in edges
        labels.append((part, at if isinstance(item, Order) else None))
    for _, numbered in groupby(enumerate(items), key=lambda pair: labels[pair[0]]):
        batch = [item for _, item in numbered]
        if isinstance(batch[0], Order):
            yield ledger.command(batch[0].command, batch[0].time)
        else:
            yield ledger.observe(activity([item for item in batch if not isinstance(item, Order)]))


def published(effects: Iterable[Effects]) -> list[Published]:
    """The published records in the form of the oracle, in stream order within each kind."""
    found: list[Published] = []
    for one in effects:
        found += [_as_published(alert) for alert in one.alerts]
        found += [_as_published(decision) for decision in one.decisions]
        found += [_as_published(audit) for audit in one.audits if audit.kind not in ("decision", "release")]
    return found


def _as_published(record: Alert | Decision | Audit) -> Published:
    if isinstance(record, Alert):
        exempt = record.suppressed_by is not None
        return (
            "alert",
            record.occurred_at,
            record.principal,
            record.model_version,
            record.signal,
            record.episode,
            exempt,
            record.severity,
            record.revision,
            record.released_by,
        )
    if isinstance(record, Decision):
        causes = tuple(
            sorted((c.origin, c.expires_at, c.id if c.origin.startswith("operator:") else "") for c in record.causes)
        )
        return (
            "decision",
            record.issued_at,
            record.principal,
            record.action,
            record.mode,
            record.expires_at,
            causes,
        )
    if record.kind == "queries_missing":
        return "missing", record.occurred_at, record.principal, record.detail["queries"]
    if record.kind == "decision_withheld":
        return "withheld", record.occurred_at, record.principal, record.detail["signal"]
    return "command", record.occurred_at, record.principal, record.detail["command"], record.kind == "command_refused"


def by_kind(records: Iterable[Published]) -> dict[str, list[Published]]:
    kinds: dict[str, list[Published]] = {}
    for one in records:
        kinds.setdefault(one[0], []).append(one)
    return kinds


PRINCIPALS = ("ada", "bob", "partner")
_WAITS = (*6 * (0, 0.25, 1, 3, 10), *2 * (40, 50, 60), 110, 2 * 86_400, 31 * 86_400)


def _stream(seed: int, length: int) -> list[Item]:
    """A random stream; a shorter one of the same seed is the beginning of a longer one."""
    dice = Random(seed)
    time, learning = 1000.0, dice.random() < 0.5
    items: list[Item] = []
    latched: dict[tuple[str, str], set[str]] = {}
    for number in range(length):
        time += dice.choice(_WAITS)
        learning = learning != (dice.random() < 0.15)
        principal = dice.choice(PRINCIPALS)
        what = dice.randrange(20)
        if what < 2:
            order = _command if dice.random() < 0.6 else _group_command
            items.append(Order(time, command := order(dice, str(number), principal, items)))
            if command.kind == "clear":
                latched = {who: signals for who, signals in latched.items() if who[0] != principal}
        elif what < 5:
            kind = dice.choice(["dropped", "refused", "unjudged"])
            items.append(Uncharted(time, principal, kind, dice.randint(1, 4), learning))
        elif what < 7:
            items.append(Row(time, principal, dice.choice("112"), False, (), learning, dice.choice(["dimension", "x"])))
        else:
            version = dice.choice("112")
            signals = latched.setdefault((principal, version), set())
            items.append(_row(dice, Row(time, principal, version, False, (), learning), signals))
    return items


streams = st.builds(_stream, st.integers(0, 2**32), st.integers(0, 80))
"""Rows whose verdicts latch and unlatch per model version and signal, counts, commands; policy time never falls."""


def _row(dice: Random, row: Row, signals: set[str]) -> Row:
    if dice.random() < 0.1:
        signals.clear()
    new = [signal for signal in ("margin", "prada") if signal not in signals and dice.random() < 0.15]
    signals.update(new)
    row.flagged, row.found = bool(signals), tuple(new)
    row.score = dice.choice([1.1, 1.2, 1.3, 1.4, 1.5, 1.7]) if signals else 1.6
    return row


def _command(dice: Random, number: str, principal: str, before: Sequence[Item]) -> Command:
    kind: Any = dice.choice(["add", "add", "delete", "delete", "clear"])
    earlier = [item.command.id for item in before if isinstance(item, Order)]
    adding = kind == "add"
    return Command(
        id=number,
        kind=kind,
        issued_at=0.0,
        issuer=dice.choice(["eve", "tom"]),
        model=MODEL,
        principal=principal,
        reason="because",
        action=dice.choice([Action("slow", 0.5), Action("slow", 1.0), Action("refuse")]) if adding else None,
        mode=dice.choice([None, "observe", "enforce"]) if adding else None,
        duration_seconds=dice.choice([5.0, 60.0, 40 * 86_400.0]) if adding else None,
        cause_id=dice.choice([None, None, *earlier]) if kind == "delete" else None,
    )


def _group_command(dice: Random, number: str, principal: str, before: Sequence[Item]) -> Command:
    """A command of one of two groups, perhaps late or repeated."""
    earlier = [item.command for item in before if isinstance(item, Order) and item.command.group is not None]
    own = [command for command in earlier if command.principal == principal]
    if own and dice.random() < 0.3:
        return dice.choice(own)
    group, issued_at = dice.choice("xy"), max(0.0, len(before) - dice.choice([0, 0, 0, 0, 3, 9]))
    kind: Any = dice.choice(["join", "join", "leave"])
    size = dice.choice([None, 1, 3, 12])
    issuer = f"group:{group}"
    return Command(number, kind, issued_at, issuer, MODEL, principal, "revision 2", group=group, group_size=size)
