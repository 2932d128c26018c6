"""Counts each answered query that is not judged, by principal and reason; too many of them raise the signal
``unjudged``.

Only principals with a dropped or unjudged query have counts: the engine counts judged queries. The result depends
on the stream alone, not on how it is cut into micro-batches.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

from detector.contracts.findings import Evidence, Finding, severity_of
from detector.contracts.principals import plain
from detector.policy.activity import Accusation, Activity, Key, RowsByKey, Section, decode_section

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


FORMAT = 1
UNJUDGED = "unjudged"
"""The signal of a principal that sends too many queries that cannot be judged."""

MOST_ACCOUNTS = 10_000
MOST_WATCHES = 64
_EVICTED_SHARE = 16
_UNKNOWN_VERSION = "unknown"
_REASON_CHARACTERS = 64

_Name = TypeVar("_Name")
_Counts = TypeVar("_Counts")

_decoder = msgspec.msgpack.Decoder(
    tuple[int, list[tuple[str, str, PrincipalCounts | None]], list[tuple[str, ModelWatch | None]]]
)


class _OddEvent(NamedTuple):
    """``queries`` of ``key`` to ``version`` that were "dropped" or "unjudged", after ``rows`` rows of the
    micro-batch."""

    position: int
    rows: int
    kind: str
    key: Key
    version: str
    queries: int
    reason: str


@dataclass(slots=True)
class Accounted:
    """The result of a micro-batch.

    ``accusations`` by position. ``excused``: by model, unjudged queries that accuse nobody because the deployment is at
    fault. ``forgotten``: principals whose counts were evicted because the limit was reached. ``section``: the state of
    the keys ``changed``, None where nothing changed.
    """

    accusations: dict[int, Accusation] = field(default_factory=dict)
    excused: Counter[str] = field(default_factory=Counter)
    forgotten: int = 0
    changed: dict[Key, None] = field(default_factory=dict)
    section: Section | None = None


class Accounting:
    """The counts of one partition, of ``most`` principals. ``limit``: recent unjudged queries that make a suspect.

    A key is (model, principal), or (model, "") for the watch over a model.
    """

    def __init__(self, limit: int, most: int = MOST_ACCOUNTS) -> None:
        self._limit = limit
        self._most = most
        self._events = 0
        self._accounts: dict[Key, PrincipalCounts] = {}
        self._watches: dict[str, ModelWatch] = {}
        self._watched: set[Key] = set()

    # -- live

    def take(self, activity: Activity) -> Accounted:
        """Applies a micro-batch; the result holds the change."""
        events, done = _odd_events(activity), Accounted()
        if not (events or self._watched):
            return done
        rows = _JudgedRows(activity)
        for event in events:
            self._events += 1
            if event.key not in self._accounts:
                self._make_room(event, rows, done)
            self._count(event, rows, done)
        for key in self._watched & rows.members.keys():
            self._catch_up(key, rows, len(activity), done)
        for key in done.changed:
            self._update_watched(key)
        done.section = self.dump(done.changed) if done.changed else None
        return done

    def of(self, key: Key) -> PrincipalCounts | None:
        """Returns the counts of a principal, or None."""
        return self._accounts.get(key)

    @property
    def known(self) -> Container[Key]:
        """The principals with counts."""
        return self._accounts

    def accused(self) -> set[Key]:
        """The principals that are suspects because of unjudged queries."""
        return {key for key in self._watched if key[1] and self._accounts[key].accused}

    def forget(self, key: Key) -> Section | None:
        """Drops the counts of a principal; returns the change, or None if there are none."""
        if self._accounts.pop(key, None) is None:
            return None
        self._update_watched(key)
        return self.dump([key])

    # -- state

    def absorb(self, section: Section) -> None:
        """Applies a change or a dump. Raises NewerStateLog, StateLogError."""
        events, accounts, watches = decode_section("accounting", section, FORMAT, _decoder)
        self._events = max(self._events, events)
        for model, principal, account in accounts:
            _put(self._accounts, (model, principal), account)
            self._update_watched((model, principal))
        for model, watch in watches:
            _put(self._watches, model, watch)
            self._update_watched((model, ""))

    def keys(self) -> list[Key]:
        """The keys with state."""
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
        return sum(one.nbytes for held in (self._accounts, self._watches) for one in held.values())

    # -- inside

    def _count(self, event: _OddEvent, rows: _JudgedRows, done: Accounted) -> None:
        """Counts one event of a principal, and records whether it makes them a suspect."""
        account = self._accounts.setdefault(event.key, PrincipalCounts())
        account.touched = self._events
        done.changed[event.key] = None
        if event.kind == "dropped":
            account.drop(event.reason, event.queries)
            return
        self._catch_up(event.key, rows, event.rows, done)
        watch, was_accused = self._watch(event, rows, done), account.accused
        account.refuse(event.reason, event.queries, self._limit)
        if account.accused or account.recent >= self._limit:
            account.accused = not watch.deployment()
            if not account.accused:
                done.excused[event.key[0]] += event.queries
        if was_accused or account.accused:
            finding = self._finding(event, account) if account.accused else None
            done.accusations[event.position] = Accusation(event.key, finding)
        self._update_watched(event.key)

    def _watch(self, event: _OddEvent, rows: _JudgedRows, done: Accounted) -> ModelWatch:
        """Returns the watch over the event's model, after counting the event."""
        model = event.key[0]
        if model not in self._watches:
            if len(self._watches) >= MOST_WATCHES:
                oldest = min(self._watches, key=lambda name: self._watches[name].touched)
                del self._watches[oldest]
                done.changed[oldest, ""] = None
                self._update_watched((oldest, ""))
            self._watches[model] = ModelWatch()
        watch = self._watches[model]
        watch.touched = self._events
        self._catch_up((model, ""), rows, event.rows, done)
        watch.refuse(event.key[1])
        self._update_watched((model, ""))
        return watch

    def _catch_up(self, key: Key, rows: _JudgedRows, before: int, done: Accounted) -> None:
        """Counts the judged rows of ``key`` before the row ``before``."""
        done.changed[key] = None
        model, principal = key
        own = rows.take(key, before)
        if not principal:
            if self._watches[model].watched:
                self._watches[model].judge([rows.principal(row) for row in own])
            return
        released = self._accounts[key].judge(len(own), self._limit)
        if released is not None:
            done.accusations[int(rows.positions[own[released]])] = Accusation(key, None)

    def _make_room(self, event: _OddEvent, rows: _JudgedRows, done: Accounted) -> None:
        """Evicts principals if the limit is reached: the unaccused first, and of these the longest unchanged first."""
        if len(self._accounts) < self._most:
            return
        for key in self._watched & rows.members.keys():
            if key[1]:
                self._catch_up(key, rows, event.rows, done)
        order = sorted(self._accounts, key=lambda key: (self._accounts[key].accused, self._accounts[key].touched))
        evicted = order[: max(self._most // _EVICTED_SHARE, 1)]
        for key in evicted:
            del self._accounts[key]
            done.changed[key] = None
            self._update_watched(key)
        done.forgotten += len(evicted)

    def _update_watched(self, key: Key) -> None:
        """Notes whether judged queries change the state of ``key``."""
        state = self._accounts.get(key) if key[1] else self._watches.get(key[0])
        (self._watched.add if state is not None and state.watched else self._watched.discard)(key)

    def _finding(self, event: _OddEvent, account: PrincipalCounts) -> Finding:
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


class _JudgedRows:
    """The judged rows of an activity, by key; each is returned once."""

    def __init__(self, activity: Activity) -> None:
        self.positions = activity.row_positions()
        self.members: dict[Key, list[int]] = {}
        self._activity = activity
        self._by_key = RowsByKey(activity)
        self._rows: dict[Key, list[int]] = {}
        self._taken: dict[Key, int] = {}
        for at, key in enumerate(activity.keys):
            self.members.setdefault((key.model, key.principal), []).append(at)
            self.members.setdefault((key.model, ""), []).append(at)

    def take(self, key: Key, before: int) -> list[int]:
        """Returns the next judged rows of ``key`` before the row ``before``."""
        if key not in self._rows:
            own = (self._by_key[at] for at in self.members.get(key, ()))
            rows = np.sort(np.concatenate([np.empty(0, np.int64), *own]))
            judged = self._activity.judged
            self._rows[key] = (rows if judged is None else rows[judged[rows]]).tolist()
        known, start = self._rows[key], self._taken.get(key, 0)
        end = self._taken[key] = bisect_left(known, before, start)
        return known[start:end]

    def principal(self, row: int) -> str:
        """Returns the principal of ``row``."""
        name: str = self._activity.keys[self._activity.key_index[row]].principal
        return name


def _odd_events(activity: Activity) -> list[_OddEvent]:
    """Returns all unjudged and dropped queries of a micro-batch, in log order."""
    events = []
    positions = activity.row_positions() if activity.unjudged else np.empty(0)
    for row, why in activity.unjudged.items():
        name = activity.keys[activity.key_index[row]]
        key = name.model, name.principal
        events.append(_OddEvent(int(positions[row]), row, "unjudged", key, why.model_version, 1, why.reason))
    for position, counted in zip(activity.count_positions(), activity.counts, strict=True):
        count, rows = counted.count, counted.at_row
        if count.kind != "refused":
            # The reason comes from outside: a record may be unable to hold it.
            reason = (count.reason if plain(count.reason, _REASON_CHARACTERS) else OTHER) or count.kind
            key = count.model, count.principal
            events.append(_OddEvent(position, rows, count.kind, key, _UNKNOWN_VERSION, count.queries, reason))
    return sorted(events)


def _put(states: dict[_Name, _Counts], name: _Name, state: _Counts | None) -> None:
    if state is None:
        states.pop(name, None)
    else:
        states[name] = state
