"""Counts the unjudged and dropped queries of one principal of one model, and the model's traffic around them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterable, KeysView, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import numpy as np

from detector.contracts.errors import NewerStateLog, StateLogError
from detector.contracts.findings import Evidence, Finding, severity_of
from detector.contracts.principals import plain
from detector.policy.activity import Activity, Key, Place, Section, Turn

HALF = 150
"""Answered queries in each half of a principal's recent ones; the older half is dropped when the newer one is full."""
MOST_REASONS = 16
"""Reasons counted separately for each principal; further ones count as ``OTHER``."""
OTHER = "other"
_MOST = 1 << 53
"""Upper bound of each count, so that a record can hold the sum of dozens of them."""

QUIET = 2_000
"""Judged queries in a row to a model after which its earlier unjudged ones no longer count."""
MOST_ACTIVE = 128
"""Principals watched at most for each model and kind; the most recent stay."""
CLEAN = 10
"""Queries in a row that must be judged before a principal is clean."""
LEAST_ODD, MOST_ODD = 4, 2
"""The deployment is at fault if at least ``LEAST_ODD`` principals send queries that cannot be judged, and more than
``MOST_ODD`` for each clean principal."""


class PrincipalCounts(msgspec.Struct, array_like=True):
    """The unjudged and dropped queries of one principal of one model.

    ``unjudged`` and ``dropped``: queries by reason. ``touched``: the number of the last event that changed these.

    ``answered`` and ``odd``: answered and unjudged queries in the newer half of the recent ones; ``answered_before``
    and ``odd_before``: the same in the older half. All are 0 while no recent query was unjudged. ``accused``: whether
    the unjudged queries make the principal a suspect.
    """

    unjudged: dict[str, int] = msgspec.field(default_factory=dict)
    dropped: dict[str, int] = msgspec.field(default_factory=dict)
    touched: int = 0
    answered: int = 0
    odd: int = 0
    answered_before: int = 0
    odd_before: int = 0
    accused: bool = False

    @property
    def recent(self) -> int:
        """Unjudged queries among the recent ones."""
        return self.odd + self.odd_before

    @property
    def share(self) -> float:
        """Unjudged queries as a share of the recent ones."""
        return self.recent / max(self.answered + self.answered_before, 1)

    @property
    def watched(self) -> bool:
        """Whether further judged queries change this account."""
        return self.accused or self.recent > 0

    @property
    def nbytes(self) -> int:
        return 500 + 150 * (len(self.unjudged) + len(self.dropped))

    def drop(self, reason: str, queries: int) -> None:
        """Counts queries that were lost before they were logged."""
        _add(self.dropped, reason, queries)

    def refuse(self, reason: str, queries: int, limit: int) -> None:
        """Counts answered queries that could not be judged."""
        _add(self.unjudged, reason, queries)
        self.answered += queries
        self.odd += queries
        if self.answered >= HALF:
            self.turn(limit)

    def judge(self, queries: int, limit: int) -> int | None:
        """Counts judged queries; returns the index of the one that ended the accusation, or None."""
        passed, released = 0, None
        while self.watched and queries - passed >= HALF - self.answered:
            passed += HALF - self.answered
            self.answered = HALF
            if self.turn(limit):
                released = passed - 1
        if self.watched:
            self.answered += queries - passed
        return released

    def turn(self, limit: int) -> bool:
        """Drops the older half; returns whether this ends the accusation, since few recent queries were unjudged."""
        self.answered_before, self.odd_before = self.answered, self.odd
        self.answered = self.odd = 0
        ends = self.accused and 2 * self.recent < limit
        if ends:
            self.accused = False
        if not self.watched:
            self.answered_before = 0
        return ends


class ModelWatch(msgspec.Struct, array_like=True):
    """The principals that query a model while some of its queries cannot be judged.

    Each kind has a limit of its own, so that many made-up accounts of one kind cannot evict the others.

    ``odd``: principals with an unjudged query among their last ``CLEAN``, with the number of judged queries since,
    minus ``CLEAN``. ``starting``: principals with fewer than ``CLEAN`` queries since the watch began, all judged, with
    their number. ``clean``: principals whose last ``CLEAN`` queries were judged. ``quiet``: queries since the last
    unjudged one.
    """

    touched: int = 0
    quiet: int = 0
    odd: dict[str, int] = msgspec.field(default_factory=dict)
    starting: dict[str, int] = msgspec.field(default_factory=dict)
    clean: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return 700 + 150 * (len(self.odd) + len(self.starting) + len(self.clean))

    @property
    def watched(self) -> bool:
        """Whether a recent query was not judged; otherwise there is nothing to watch."""
        return bool(self.odd or self.starting or self.clean)

    def deployment(self) -> bool:
        """Returns whether the deployment is at fault, not the principals with unjudged queries: few others are clean.

        Made-up accounts do not change that others are clean.
        """
        return len(self.odd) >= LEAST_ODD and len(self.odd) > MOST_ODD * len(self.clean)

    def judge(self, principals: Sequence[str]) -> None:
        """Counts judged queries of these principals, in log order."""
        if not self.watched:
            return
        left = QUIET - self.quiet
        if len(principals) >= left:
            self.quiet = 0
            self.odd, self.starting, self.clean = {}, {}, {}
            return
        self.quiet += len(principals)
        for principal in principals:
            self._put_run(principal, CLEAN if (run := self._pop_run(principal)) in (-1, CLEAN) else run + 1)

    def refuse(self, principal: str) -> None:
        """Counts an unjudged query of ``principal``."""
        self.quiet = 0
        self._pop_run(principal)
        self._put_run(principal, -CLEAN)

    def _pop_run(self, principal: str) -> int:
        for kind in (self.clean, self.odd, self.starting):
            if principal in kind:
                return kind.pop(principal)
        return 0

    def _put_run(self, principal: str, run: int) -> None:
        kind = self.odd if run < 0 else self.clean if run == CLEAN else self.starting
        if len(kind) >= MOST_ACTIVE:
            del kind[next(iter(kind))]
        kind[principal] = run


def _add(counts: dict[str, int], reason: str, queries: int) -> None:
    known = reason in counts or len(counts) < MOST_REASONS
    name = reason if known else OTHER
    counts[name] = min(counts.get(name, 0) + queries, _MOST)


_UNKNOWN_VERSION = "unknown"
_WORD_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class OddEvent:
    """``queries`` of ``key`` to ``version`` that were "dropped" or "unjudged", at ``place``, after ``rows`` rows of the
    micro-batch."""

    place: Place
    rows: int
    kind: str
    key: Key
    version: str
    queries: int
    reason: str


def odd_events(activity: Activity) -> list[OddEvent]:
    """All unjudged and dropped queries of a micro-batch, in log order."""
    events = []
    for row, why in activity.unjudged.items():
        identity = activity.keys[activity.key_index[row]]
        key = identity.model, identity.principal
        events.append(OddEvent((2 * row + 1, 0), row, "unjudged", key, why.model_version, 1, why.reason))
    for at, counted in enumerate(activity.counts):
        count, place = counted.count, (2 * counted.at_row, at)
        if count.kind != "refused":
            key = count.model, count.principal
            reason = _word(count.reason) or count.kind
            events.append(OddEvent(place, counted.at_row, count.kind, key, _UNKNOWN_VERSION, count.queries, reason))
    events.sort(key=lambda event: event.place)
    return events


def _word(reason: str) -> str:
    """``reason`` if a record can hold it, else ``OTHER``: it comes from outside."""
    return reason if plain(reason, _WORD_CHARACTERS) else OTHER


class JudgedRows:
    """The judged rows of an activity, by principal and by model; each row is returned once."""

    def __init__(self, activity: Activity) -> None:
        judged = np.arange(len(activity)) if activity.judged is None else np.flatnonzero(activity.judged)
        own = activity.key_index[judged]
        order = np.argsort(own, kind="stable")
        self._rows, self._own = judged[order], own[order]
        self._bounds = np.searchsorted(self._own, np.arange(len(activity.keys) + 1)).tolist()
        self._names = [identity.principal for identity in activity.keys]
        self._members: dict[Key, list[int]] = {}
        for at, identity in enumerate(activity.keys):
            self._members.setdefault((identity.model, identity.principal), []).append(at)
            self._members.setdefault((identity.model, ""), []).append(at)
        self._found: dict[Key, tuple[list[int], list[int]]] = {}
        self._taken: dict[Key, int] = {}

    @property
    def keys(self) -> KeysView[Key]:
        """The keys that can have rows; (model, "") is the key of all rows of a model."""
        return self._members.keys()

    def of(self, key: Key, before: int) -> list[int]:
        """The next rows of ``key`` up to the row ``before``."""
        start, end = self._next(key, before)
        return self._of(key)[0][start:end]

    def principals_of(self, model: str, before: int) -> list[str]:
        """The principals of the next rows of ``model`` up to the row ``before``."""
        start, end = self._next((model, ""), before)
        return [self._names[own] for own in self._of((model, ""))[1][start:end]]

    def pass_by(self, key: Key, before: int) -> None:
        """Skips the rows of ``key`` up to the row ``before``."""
        self._next(key, before)

    def _next(self, key: Key, before: int) -> tuple[int, int]:
        start = self._taken.get(key, 0)
        end = self._taken[key] = bisect_left(self._of(key)[0], before, start)
        return start, end

    def _of(self, key: Key) -> tuple[list[int], list[int]]:
        """The rows of ``key`` in order, and the index of each row's principal."""
        if key not in self._found:
            parts = [slice(self._bounds[at], self._bounds[at + 1]) for at in self._members.get(key, ())]
            rows = np.concatenate([self._rows[:0], *(self._rows[part] for part in parts)])
            own = np.concatenate([self._own[:0], *(self._own[part] for part in parts)])
            order = np.argsort(rows)
            self._found[key] = rows[order].tolist(), own[order].tolist()
        return self._found[key]


FORMAT = 1
UNJUDGED = "unjudged"
"""The signal of a principal that sends too many queries that cannot be judged."""

MOST_ACCOUNTS = 10_000
MOST_WATCHES = 64
_FORGOTTEN_SHARE = 16

_Name = TypeVar("_Name")
_Held = TypeVar("_Held")

_decoder = msgspec.msgpack.Decoder(
    tuple[int, list[tuple[str, str, PrincipalCounts | None]], list[tuple[str, ModelWatch | None]]]
)


@dataclass(slots=True)
class Accounted:
    """The result of a micro-batch.

    ``turns``: accusations and releases of each principal, in log order. ``excused``: by model, unjudged queries that
    accuse nobody because the deployment is at fault. ``forgotten``: accounts evicted because the limit was reached.
    ``section``: the state of the keys ``changed``, None where nothing changed.
    """

    turns: dict[Key, list[Turn]] = field(default_factory=dict)
    excused: Counter[str] = field(default_factory=Counter)
    forgotten: int = 0
    changed: dict[Key, None] = field(default_factory=dict)
    section: Section | None = None


class Accounting:
    """The accounts of one partition, ``most`` of them. ``limit``: recent unjudged queries that make a suspect."""

    def __init__(self, limit: int, most: int = MOST_ACCOUNTS) -> None:
        self._limit = limit
        self._most = most
        self._events = 0
        self._accounts: dict[Key, PrincipalCounts] = {}
        self._watches: dict[str, ModelWatch] = {}
        self._followed: set[Key] = set()

    # -- live

    def take(self, activity: Activity) -> Accounted:
        """Applies a micro-batch; the result holds the change."""
        events = odd_events(activity)
        done = Accounted()
        if not (events or self._followed):
            return done
        rows = JudgedRows(activity)
        for event in events:
            self._events += 1
            if event.key not in self._accounts:
                self._make_room(event, rows, done)
            self._event(event, rows, done)
        for key in self._followed & rows.keys:
            self._catch_up(key, rows, len(activity), done)
        for key in done.changed:
            self._follow(key)
        done.section = self.dump(done.changed) if done.changed else None
        return done

    def of(self, key: Key) -> PrincipalCounts | None:
        """Returns the account of a principal, or None."""
        return self._accounts.get(key)

    @property
    def known(self) -> Container[Key]:
        """The principals with an account."""
        return self._accounts

    def accused(self) -> set[Key]:
        """The principals that are suspects because of unjudged queries."""
        return {key for key in self._followed if key[1] and self._accounts[key].accused}

    def forget(self, key: Key) -> Section | None:
        """Drops the account of a principal; returns the change, or None if there is no account."""
        if self._accounts.pop(key, None) is None:
            return None
        self._follow(key)
        return self.dump([key])

    # -- state

    def absorb(self, section: Section) -> None:
        """Applies a change or a dump. Raises NewerStateLog, StateLogError."""
        version, data = section
        if version > FORMAT:
            raise NewerStateLog(
                f"accounting section: format {version} was written by a later Weirguard, this one reads up to "
                f"{FORMAT}; run that version or a later one"
            )
        try:
            events, accounts, watches = _decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise StateLogError(f"accounting section of {len(data)} bytes cannot be read: {error}") from error
        self._events = max(self._events, events)
        for model, principal, account in accounts:
            _put(self._accounts, (model, principal), account)
            self._follow((model, principal))
        for model, watch in watches:
            _put(self._watches, model, watch)
            self._follow((model, ""))

    def keys(self) -> list[Key]:
        """The principals with an account, and (model, "") for each watched model."""
        return [*self._accounts, *((model, "") for model in self._watches)]

    def dump(self, keys: Iterable[Key]) -> Section:
        """The state of ``keys``; a key without state is recorded as deleted."""
        chosen = list(keys)
        accounts = [(*key, self._accounts.get(key)) for key in chosen if key[1]]
        watches = [(model, self._watches.get(model)) for model, name in chosen if not name]
        return FORMAT, msgspec.msgpack.encode((self._events, accounts, watches))

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        accounts = sum(account.nbytes for account in self._accounts.values())
        return accounts + sum(watch.nbytes for watch in self._watches.values())

    # -- inside

    def _event(self, event: OddEvent, rows: JudgedRows, done: Accounted) -> None:
        """Counts one event of a principal, and records whether it makes them a suspect."""
        account = self._accounts.setdefault(event.key, PrincipalCounts())
        account.touched = self._events
        done.changed[event.key] = None
        if event.kind == "dropped":
            account.drop(event.reason, event.queries)
            return
        self._catch_up(event.key, rows, event.rows, done)
        watch, accused = self._watch(event, rows, done), account.accused
        account.refuse(event.reason, event.queries, self._limit)
        if account.accused or account.recent >= self._limit:
            account.accused = not watch.deployment()
            if not account.accused:
                done.excused[event.key[0]] += event.queries
        if accused or account.accused:
            _turn(done, event.key, event.place, self._finding(event, account) if account.accused else None)
        self._follow(event.key)

    def _watch(self, event: OddEvent, rows: JudgedRows, done: Accounted) -> ModelWatch:
        """Returns the watch over the event's model, after counting the event."""
        key = event.key[0], ""
        if key[0] not in self._watches:
            if len(self._watches) >= MOST_WATCHES:
                oldest = min(self._watches, key=lambda name: self._watches[name].touched)
                del self._watches[oldest]
                done.changed[oldest, ""] = None
                self._follow((oldest, ""))
            self._watches[key[0]] = ModelWatch()
        watch = self._watches[key[0]]
        watch.touched = self._events
        if key in self._followed:
            self._catch_up(key, rows, event.rows, done)
        else:
            rows.pass_by(key, event.rows)
        watch.refuse(event.key[1])
        done.changed[key] = None
        self._follow(key)
        return watch

    def _catch_up(self, key: Key, rows: JudgedRows, before: int, done: Accounted) -> None:
        """Counts the judged rows of the account or watch ``key`` up to the row ``before``."""
        done.changed[key] = None
        if not key[1]:
            self._watches[key[0]].judge(rows.principals_of(key[0], before))
            return
        account, own = self._accounts[key], rows.of(key, before)
        released = account.judge(len(own), self._limit)
        if released is not None:
            _turn(done, key, (2 * own[released] + 1, 0), None)

    def _make_room(self, event: OddEvent, rows: JudgedRows, done: Accounted) -> None:
        """Evicts accounts if the limit is reached: those without an accusation first, the longest unchanged first."""
        if len(self._accounts) < self._most:
            return
        for key in self._followed & rows.keys:
            if key[1]:
                self._catch_up(key, rows, event.rows, done)
        order = sorted(self._accounts, key=lambda key: (self._accounts[key].accused, self._accounts[key].touched))
        gone = order[: max(self._most // _FORGOTTEN_SHARE, 1)]
        for key in gone:
            del self._accounts[key]
            done.changed[key] = None
            self._follow(key)
        done.forgotten += len(gone)

    def _follow(self, key: Key) -> None:
        """Notes whether judged queries change the state of ``key``."""
        held = self._accounts.get(key) if key[1] else self._watches.get(key[0])
        (self._followed.add if held is not None and held.watched else self._followed.discard)(key)

    def _finding(self, event: OddEvent, account: PrincipalCounts) -> Finding:
        score = account.recent / self._limit
        reasons = sorted(account.unjudged.items())
        return Finding(
            row=event.rows,
            model=event.key[0],
            model_version=event.version,
            principal=event.key[1],
            signal=UNJUDGED,
            severity=severity_of(score),
            score=score,
            statistic=float(account.recent),
            threshold=float(self._limit),
            query_index=sum(account.unjudged.values()) - 1,
            evidence=(
                Evidence("unjudged", float(account.recent), "queries", float(self._limit)),
                Evidence("share", account.share, "of the recent queries"),
                *(Evidence(f"unjudged: {reason}", float(queries), "queries") for reason, queries in reasons),
            ),
        )


def _put(held: dict[_Name, _Held], key: _Name, value: _Held | None) -> None:
    if value is None:
        held.pop(key, None)
    else:
        held[key] = value


def _turn(done: Accounted, key: Key, place: Place, finding: Finding | None) -> None:
    done.turns.setdefault(key, []).append(Turn(place, finding))
