"""A slow ledger that looks at every event in turn and keeps everything: the obvious reading of the rules."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from detector.contracts.findings import Action, Command
from detector.policy.config import Policy
from detector.policy.ladder import Case

Published = tuple[Any, ...]


@dataclass
class Row:
    time: float
    principal: str
    version: str
    flagged: bool
    found: tuple[str, ...] = ()
    learning: bool = False
    unjudged: str = ""
    """Why the engine could not judge the row; empty if it did."""
    score: float = 1.0


@dataclass
class Uncharted:
    """A count: queries without features."""

    time: float
    principal: str
    kind: str
    queries: int
    learning: bool = False


@dataclass
class Order:
    time: float
    command: Command


Item = Row | Uncharted | Order


HARSHER = ("none", "slow", "round", "label_only", "refuse")


@dataclass
class Wish:
    action: Action
    mode: str
    until: float

    def force(self) -> tuple[bool, int, float]:
        name = self.action.name if self.action.graded is None else self.action.graded.name
        rate = None if self.action.graded else self.action.queries_per_second
        return self.mode == "enforce", HARSHER.index(name), -math.inf if rate is None else -rate


@dataclass
class Person:
    # (version, signal) -> [episode, lifted, severity of its alert or None, revision, who released it, exempt then]
    latches: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    wishes: dict[str, Wish] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    published: tuple[Any, ...] | None = None
    queries: int = 0
    episode: int = -1
    seen: float = 0.0
    cools_at: float = -math.inf
    # group -> [issued_at, lifted, left_at or None, accounts]
    groups: dict[str, list[Any]] = field(default_factory=dict)

    def flagging(self) -> dict[str, str]:
        """Origin -> signal of all that was not lifted."""
        found = {"signal:" + signal: signal for (_, signal), latch in self.latches.items() if not latch[1]}
        return found | {f"group:{group}": "group" for group in self.in_groups() if not self.groups[group][1]}

    def in_groups(self) -> list[str]:
        return [group for group, (_, _, left_at, _) in self.groups.items() if left_at is None]

    def suspect(self) -> bool:
        return bool(self.latches or self.in_groups())


class OracleAccounts:
    """The recent answered queries of each account, one by one in lists."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.people: dict[str, OracleAccount] = {}
        self.model: list[tuple[str, bool]] = []

    def take(self, item: Row | Uncharted) -> bool | None:
        """True if the query is unjudged and its sender a suspect, False if it releases the sender, else None."""
        kind, reason = ("judged", "") if isinstance(item, Row) else (item.kind, item.kind)
        if isinstance(item, Row) and item.unjudged:
            kind, reason = "unjudged", item.unjudged
        queries = item.queries if isinstance(item, Uncharted) else 1
        if kind == "refused" or (kind == "judged" and item.principal not in self.people):
            if kind == "judged":
                self._see(item.principal, False)
            return None
        account = self.people.setdefault(item.principal, OracleAccount())
        if kind == "dropped":
            account.dropped[reason] += queries
            return None
        odd = kind == "unjudged"
        self._see(item.principal, odd)
        before = account.accused
        if odd:
            account.unjudged[reason] += queries
        account.answer(odd, queries, self.limit)
        if odd and (account.accused or account.recent >= self.limit):
            account.accused = not self._deployment()
        if account.accused:
            return True if odd else None
        return False if before else None

    def _see(self, principal: str, odd: bool) -> None:
        self.model.append((principal, odd))
        if not any(is_odd for _, is_odd in self.model[-2_000:]):
            self.model = []

    def _deployment(self) -> bool:
        odd, clean = set(), set()
        for name in {name for name, _ in self.model}:
            own = [is_odd for who, is_odd in self.model if who == name]
            lately = own[-10:]
            if len(lately) == 10 and not any(lately):
                clean.add(name)
            elif any(own):
                odd.add(name)
        return len(odd) >= 4 and len(odd) > 2 * len(clean)


@dataclass
class OracleAccount:
    halves: list[list[bool]] = field(default_factory=lambda: [[], []])
    accused: bool = False
    unjudged: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def recent(self) -> int:
        return sum(map(sum, self.halves))

    def answer(self, odd: bool, queries: int, limit: int) -> None:
        if not (odd or self.recent or self.accused):
            self.halves = [[], []]
            return
        self.halves[1] += [odd] * queries
        if len(self.halves[1]) >= 150:
            self.halves = [self.halves[1], []]
            if self.recent < limit / 2:
                self.accused = False


class OracleLedger:
    def __init__(self, policy: Policy, model: str) -> None:
        self.policy = policy
        self.model = model
        self.people: dict[str, Person] = {}
        self.accounts = OracleAccounts(policy.unjudged_queries)

    def feed(self, item: Item) -> list[Published]:
        if isinstance(item, Order):
            return self._order(item.time, item.command)
        records: list[Published] = []
        if isinstance(item, Uncharted) and item.kind == "dropped":
            records.append(("missing", item.time, item.principal, item.queries))
        person = self.people.setdefault(item.principal, Person())
        self._forget(person, item.time)
        before = person.suspect()
        turn = self.accounts.take(item)
        exempt = self.policy.allowlist.covering(self.model, item.principal, item.time) is not None
        if isinstance(item, Row) and not item.unjudged:
            records += self._verdict(person, item, exempt)
        records += self._accuse(person, item, exempt, turn)
        if person.suspect():
            person.seen = item.time
            person.queries += (item.queries if isinstance(item, Uncharted) else 1) if before else 0
            self._wish(person, item.time, item.learning, exempt)
        return records + self._decide(person, item.principal, item.time)

    def _forget(self, person: Person, now: float) -> None:
        person.wishes = {origin: wish for origin, wish in person.wishes.items() if wish.until > now}
        if person.published is not None and person.published[2] <= now:
            person.published = None
        if now - person.seen >= 30 * 86_400:
            person.latches = {}
            person.groups = {group: one for group, one in person.groups.items() if one[2] is not None}
        person.groups = {group: one for group, one in person.groups.items() if one[2] is None or now < one[2] + 86_400}

    def _verdict(self, person: Person, row: Row, exempt: bool) -> list[Published]:
        records: list[Published] = []
        if not row.flagged:
            person.latches = {
                at: latch for at, latch in person.latches.items() if at[0] != row.version or at[1] == "unjudged"
            }
            return records
        found = list(row.found)
        if not found and not any(version == row.version and signal != "unjudged" for version, signal in person.latches):
            found = ["latched"]
        for signal in found:
            if (row.version, signal) in person.latches:
                continue
            self._latch(person, row.version, signal, row.time)
            if signal != "latched":
                records.append(self._alert(person, row, row.version, signal, row.score, exempt))
            if exempt:
                records.append(("withheld", row.time, row.principal, signal))
        return records + [
            self._alert(person, row, row.version, signal, row.score, exempt)
            for version, signal in person.latches
            if version == row.version and signal != "unjudged" and self._rises(person, version, signal, row.score)
        ]

    def _rises(self, person: Person, version: str, signal: str, score: float) -> bool:
        return person.latches[version, signal][2] == "medium" and score >= 1.5

    def _alert(
        self, person: Person, item: Row | Uncharted, version: str, signal: str, score: float, exempt: bool
    ) -> Published:
        latch = person.latches[version, signal]
        latch[2:] = ["high" if score >= 1.5 else "medium", latch[3] + 1, None, exempt]
        return ("alert", item.time, item.principal, version, signal, latch[0], exempt, *latch[2:5])

    def _over(self, person: Person, principal: str, at: tuple[str, str], time: float, by: str) -> list[Published]:
        latch = person.latches[at]
        if latch[2] is None or latch[4] is not None:
            return []
        latch[3:5] = [latch[3] + 1, by]
        return [("alert", time, principal, *at, latch[0], latch[5], *latch[2:5])]

    def _begin(self, person: Person, time: float) -> None:
        held = person.flagging() or any(not origin.startswith("operator:") for origin in person.wishes)
        if not held and time >= person.cools_at:
            person.queries = 0
        person.episode = max(person.episode + 1, math.floor(time))

    def _latch(self, person: Person, version: str, signal: str, time: float) -> None:
        self._begin(person, time)
        person.latches[version, signal] = [person.episode, False, None, 0, None, False]

    def _accuse(self, person: Person, item: Row | Uncharted, exempt: bool, turn: bool | None) -> list[Published]:
        latched = [at for at in person.latches if at[1] == "unjudged"]
        over: list[Published] = []
        if turn is False:
            self._remove(person, ["signal:unjudged"])
            for at in latched:
                over += self._over(person, item.principal, at, item.time, "policy")
                del person.latches[at]
        if not turn:
            return over
        score = self.accounts.people[item.principal].recent / self.policy.unjudged_queries
        if latched:
            ((version, signal),) = latched
            rises = self._rises(person, version, signal, score)
            return [self._alert(person, item, version, signal, score, exempt)] if rises else []
        version = item.version if isinstance(item, Row) else "unknown"
        self._latch(person, version, "unjudged", item.time)
        records: list[Published] = [self._alert(person, item, version, "unjudged", score, exempt)]
        return records + ([("withheld", item.time, item.principal, "unjudged")] if exempt else [])

    def _wish(self, person: Person, time: float, learning: bool, exempt: bool) -> None:
        if exempt:
            self._remove(person, [origin for origin in person.wishes if origin[:9] != "operator:"])
            return
        wishes, renew = {}, False
        for origin, signal in person.flagging().items():
            case = self._case(person, origin, signal)
            rule = next((rule for rule in self.policy.ladder if rule.matches(case)), None)
            if rule is None:
                continue
            count = person.queries * (person.groups[origin[6:]][3] if signal == "group" else 1)
            rung = next(rung for rung in reversed(rule.rungs) if count >= rung.after_queries)
            old, life = person.wishes.get(origin), rung.seconds or self.policy.decision_seconds
            doubtful = case.calibrated is False and not self.policy.enforce_uncalibrated
            mode = "observe" if doubtful or rule.mode == "observe" else self.policy.mode_of(self.model, signal)
            if learning and (old is None or old.mode == "observe"):
                mode = "observe"
            wishes[origin] = wish = Wish(rung.action, mode, time + life)
            if old is None:
                renew = True
            elif old.force()[1:] > wish.force()[1:]:
                wishes[origin] = Wish(old.action, mode, old.until)
                renew |= old.mode != mode
            else:
                renew |= (old.action, old.mode) != (rung.action, mode) or old.until - time <= life / 2
        if renew:
            person.wishes |= wishes
            life = self.policy.cool_down_seconds
            person.cools_at = max([person.cools_at, *(wish.until + life for wish in wishes.values())])

    def _case(self, person: Person, origin: str, signal: str) -> Case:
        if signal == "group":
            return Case(self.model, signal)
        severity = next(
            latch[2] for (_, own), latch in person.latches.items() if "signal:" + own == origin and not latch[1]
        )
        if severity is None:
            return Case(self.model, signal)
        if signal == "unjudged":
            return Case(self.model, signal, "protocol", severity)
        return Case(self.model, signal, "structure", severity, calibrated=False)

    def _remove(self, person: Person, origins: list[str]) -> None:
        gone = [origin for origin in origins if person.wishes.pop(origin, None) is not None]
        left = [origin for origin in (*gone, *person.wishes) if origin[:9] != "operator:"]
        if left and not any(origin in person.wishes for origin in left):
            person.cools_at = -math.inf

    def _decide(self, person: Person, principal: str, now: float) -> list[Published]:
        if not person.wishes:
            if person.published is None or person.published[0].name == "none":
                return []
            return self._publish(person, principal, now, (Action("none"), person.published[1], person.published[2], ()))
        best = max(person.wishes.values(), key=Wish.force)
        until = max(wish.until for wish in person.wishes.values() if wish.force() == best.force())
        causes = tuple(
            sorted((origin, wish.until, person.names.get(origin, "")) for origin, wish in person.wishes.items())
        )
        decision = (best.action, best.mode, until, causes)
        if person.published is not None:
            standing = tuple(cause for cause in person.published[3] if cause[1] > now)
            if (*person.published[:3], standing) == decision:
                return []
        return self._publish(person, principal, now, decision)

    def _publish(self, person: Person, principal: str, now: float, decision: tuple[Any, ...]) -> list[Published]:
        person.published = decision
        return [("decision", now, principal, *decision)]

    def _order(self, now: float, command: Command) -> list[Published]:
        person = self.people.setdefault(command.principal, Person())
        self._forget(person, now)
        refused, over = False, list[Published]()
        if command.kind == "add":
            assert command.action is not None
            assert command.duration_seconds is not None
            mode = command.mode or self.policy.mode_of(self.model)
            origin = "operator:" + command.issuer
            person.names[origin] = command.id
            person.wishes[origin] = Wish(command.action, mode, now + command.duration_seconds)
        elif command.kind == "clear":
            for at in person.latches:
                over += self._over(person, command.principal, at, now, command.issuer)
            person.latches, person.wishes, person.cools_at = {}, {}, -math.inf
            person.groups = {
                group: [issued, False, now if left is None else left, size]
                for group, (issued, _, left, size) in person.groups.items()
            }
            self.accounts.people.pop(command.principal, None)
        elif command.kind in ("join", "leave"):
            return self._group(person, now, command)
        else:
            gone = [
                origin
                for origin in person.wishes
                if command.cause_id is None or person.names.get(origin) == command.cause_id
            ]
            self._remove(person, gone)
            for at, latch in person.latches.items():
                if command.cause_id is None or "signal:" + at[1] in gone:
                    latch[1] = True
                    over += self._over(person, command.principal, at, now, command.issuer)
            for group, one in person.groups.items():
                one[1] |= one[2] is None and (command.cause_id is None or "group:" + group in gone)
            refused = not gone
        records: list[Published] = [("command", now, command.principal, command.id, refused), *over]
        return records + self._decide(person, command.principal, now)

    def _group(self, person: Person, now: float, command: Command) -> list[Published]:
        records: list[Published] = [("command", now, command.principal, command.id, False)]
        assert command.group is not None
        known, size = person.groups.get(command.group, [-1.0, False, 0.0, 1]), command.group_size or 1
        if command.kind == "leave" and command.issued_at >= known[0]:
            person.groups[command.group] = [command.issued_at, False, now, size]
        elif command.kind == "join" and command.issued_at > known[0] and known[2] is None:
            known[0], known[3] = command.issued_at, size
        elif command.kind == "join" and command.issued_at > known[0]:
            exempt = self.policy.allowlist.covering(self.model, command.principal, now) is not None
            self._begin(person, now)
            person.groups[command.group] = [command.issued_at, False, None, size]
            person.seen = now
            self._wish(person, now, False, exempt)
            records += [("withheld", now, command.principal, "group:" + command.group)] if exempt else []
        return records + self._decide(person, command.principal, now)
