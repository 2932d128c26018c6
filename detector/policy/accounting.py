"""Counts each answered query that is not judged, by principal and reason; too many of them raise the signal
``unjudged``.

Only principals with a dropped or unjudged query have counts: the engine counts judged queries. The result depends
on the stream alone, not on how it is cut into micro-batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

from detector.contracts.findings import Evidence, Finding, severity_of
from detector.contracts.principals import is_plain
from detector.policy.activity import Accusation, Activity, Key, Section, decode_section

HALF = 150
"""Answered queries in each half of a principal's recent ones; the older half is dropped when the newer one is full."""
MOST_REASONS = 16
"""Reasons counted separately for each principal; further ones count as ``OTHER``."""
OTHER = "other"
_MAX_COUNT = 1 << 53
"""Upper bound of each count, so that a record can hold the sum of dozens of them."""

QUIET_QUERIES = 2_000
"""Judged queries in a row to a model after which its earlier unjudged ones no longer count."""
MOST_ACTIVE = 128
"""Principals watched at most for each model and kind; the most recent stay."""
CLEAN_QUERIES = 10
"""Queries in a row that must be judged before a principal is clean."""
LEAST_FAILING, MOST_FAILING = 4, 2
"""The deployment is at fault if at least ``LEAST_FAILING`` principals send queries that cannot be judged, and more
than ``MOST_FAILING`` for each clean principal."""


class PrincipalCounts(msgspec.Struct, array_like=True):
    """The unjudged and dropped queries of one principal of one model.

    ``unjudged`` and ``dropped``: queries by reason. ``touched``: the number of the last event that changed these.

    ``new_answered`` and ``new_unjudged``: answered and unjudged queries in the newer half of the recent ones;
    ``old_answered`` and ``old_unjudged``: the same in the older half. All are 0 while no recent query was unjudged.
    ``accused``: whether the unjudged queries make the principal a suspect.
    """

    unjudged: dict[str, int] = msgspec.field(default_factory=dict)
    dropped: dict[str, int] = msgspec.field(default_factory=dict)
    touched: int = 0
    new_answered: int = 0
    new_unjudged: int = 0
    old_answered: int = 0
    old_unjudged: int = 0
    accused: bool = False

    @property
    def recent(self) -> int:
        """Unjudged queries among the recent ones."""
        return self.new_unjudged + self.old_unjudged

    @property
    def share(self) -> float:
        """Unjudged queries as a share of the recent ones."""
        return self.recent / max(self.new_answered + self.old_answered, 1)

    @property
    def watched(self) -> bool:
        """Whether further judged queries change these counts."""
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
        self.new_answered += queries
        self.new_unjudged += queries
        if self.new_answered >= HALF:
            self._start_half(limit)

    def judge(self, limit: int) -> bool:
        """Counts a judged query; returns whether it ends the accusation."""
        if not self.watched:
            return False
        self.new_answered += 1
        return self.new_answered >= HALF and self._start_half(limit)

    def _start_half(self, limit: int) -> bool:
        """Starts a new half and drops the oldest; returns whether this ends the accusation, as few recent queries are
        unjudged."""
        self.old_answered, self.old_unjudged = self.new_answered, self.new_unjudged
        self.new_answered = self.new_unjudged = 0
        ends = self.accused and 2 * self.recent < limit
        if ends:
            self.accused = False
        if not self.watched:
            self.old_answered = 0
        return ends


class ModelWatch(msgspec.Struct, array_like=True):
    """The principals that query a model while some of its queries cannot be judged.

    Each kind has a separate limit, so that many made-up accounts of one kind cannot evict the others.

    ``failing``: principals with an unjudged query among their last ``CLEAN_QUERIES``, with the number of judged queries
    since, minus ``CLEAN_QUERIES``. ``starting``: principals with fewer queries since the watch began, all judged, with
    their number. ``clean``: principals whose last ``CLEAN_QUERIES`` were judged. ``quiet``: queries since the last
    unjudged one.
    """

    touched: int = 0
    quiet: int = 0
    failing: dict[str, int] = msgspec.field(default_factory=dict)
    starting: dict[str, int] = msgspec.field(default_factory=dict)
    clean: dict[str, int] = msgspec.field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return 700 + 150 * (len(self.failing) + len(self.starting) + len(self.clean))

    @property
    def watched(self) -> bool:
        """Whether a recent query was not judged; otherwise there is nothing to watch."""
        return bool(self.failing or self.starting or self.clean)

    def deployment(self) -> bool:
        """Returns whether the deployment is at fault, not the principals with unjudged queries: few others are clean.

        Made-up accounts do not change that others are clean.
        """
        return len(self.failing) >= LEAST_FAILING and len(self.failing) > MOST_FAILING * len(self.clean)

    def judge(self, principal: str) -> None:
        """Counts a judged query of ``principal``."""
        self.quiet += 1
        if self.quiet >= QUIET_QUERIES:
            self.quiet = 0
            self.failing, self.starting, self.clean = {}, {}, {}
            return
        run = self._pop_run(principal)
        self._put_run(principal, CLEAN_QUERIES if run in (-1, CLEAN_QUERIES) else run + 1)

    def refuse(self, principal: str) -> None:
        """Counts an unjudged query of ``principal``."""
        self.quiet = 0
        self._pop_run(principal)
        self._put_run(principal, -CLEAN_QUERIES)

    def _pop_run(self, principal: str) -> int:
        for kind in (self.clean, self.failing, self.starting):
            if principal in kind:
                return kind.pop(principal)
        return 0

    def _put_run(self, principal: str, run: int) -> None:
        kind = self.failing if run < 0 else self.clean if run == CLEAN_QUERIES else self.starting
        if len(kind) >= MOST_ACTIVE:
            del kind[next(iter(kind))]
        kind[principal] = run


def _add(counts: dict[str, int], reason: str, queries: int) -> None:
    known = reason in counts or len(counts) < MOST_REASONS
    name = reason if known else OTHER
    counts[name] = min(counts.get(name, 0) + queries, _MAX_COUNT)


FORMAT = 1
UNJUDGED = "unjudged"
"""The signal of a principal that sends too many queries that cannot be judged."""

MOST_PRINCIPALS = 10_000
MOST_WATCHES = 64
_EVICTED_SHARE = 16
_UNKNOWN_VERSION = "unknown"
_REASON_CHARACTERS = 64

_Name = TypeVar("_Name")
_Counts = TypeVar("_Counts")

_decoder = msgspec.msgpack.Decoder(
    tuple[int, list[tuple[str, str, PrincipalCounts | None]], list[tuple[str, ModelWatch | None]]]
)


class _MissedQueries(NamedTuple):
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

    ``accusations`` by position. ``excused``: by model, unjudged queries that accuse no one because the deployment is at
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

    def __init__(self, limit: int, most: int = MOST_PRINCIPALS) -> None:
        self._limit = limit
        self._most = most
        self._events = 0
        self._principals: dict[Key, PrincipalCounts] = {}
        self._watches: dict[str, ModelWatch] = {}
        self._watched: set[Key] = set()

    # -- live

    def take(self, activity: Activity) -> Accounted:
        """Applies a micro-batch; the result holds the change."""
        events, done = _missed_queries(activity), Accounted()
        if not (events or self._watched):
            return done
        steps = [*((event.position, event.key, event) for event in events), *self._judged_steps(activity, events)]
        for position, key, event in sorted(steps, key=lambda step: step[0]):
            if event is not None:
                self._count(event, done)
            else:
                self._judge(position, key, done)
        for key in done.changed:
            self._update_watched(key)
        done.section = self.dump(done.changed) if done.changed else None
        return done

    def of(self, key: Key) -> PrincipalCounts | None:
        """Returns the counts of a principal, or None."""
        return self._principals.get(key)

    @property
    def known(self) -> Container[Key]:
        """The principals with counts."""
        return self._principals

    def accused(self) -> set[Key]:
        """Returns the principals that are suspects because of unjudged queries."""
        return {key for key in self._watched if key[1] and self._principals[key].accused}

    def forget(self, key: Key) -> Section | None:
        """Drops the counts of a principal; returns the change, or None if there are none."""
        if self._principals.pop(key, None) is None:
            return None
        self._update_watched(key)
        return self.dump([key])

    # -- state

    def absorb(self, section: Section) -> None:
        """Applies a change or a dump. Raises NewerStateLog, StateLogError."""
        events, principals, watches = decode_section("accounting", section, FORMAT, _decoder)
        self._events = max(self._events, events)
        for model, principal, counts in principals:
            _put(self._principals, (model, principal), counts)
            self._update_watched((model, principal))
        for model, watch in watches:
            _put(self._watches, model, watch)
            self._update_watched((model, ""))

    def keys(self) -> list[Key]:
        """Returns the keys with state."""
        return [*self._principals, *((model, "") for model in self._watches)]

    def dump(self, keys: Iterable[Key]) -> Section:
        """Returns the state of ``keys``; a key without state is recorded as deleted."""
        chosen = list(keys)
        principals = [(*key, self._principals.get(key)) for key in chosen if key[1]]
        watches = [(model, self._watches.get(model)) for model, name in chosen if not name]
        return FORMAT, msgspec.msgpack.encode((self._events, principals, watches))

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        return sum(state.nbytes for states in (self._principals, self._watches) for state in states.values())

    # -- inside

    def _judged_steps(
        self, activity: Activity, events: Sequence[_MissedQueries]
    ) -> Iterator[tuple[int, Key, _MissedQueries | None]]:
        """Yields position and key of the judged rows that can change a state."""
        models = {event.key[0] for event in events} | {model for model, principal in self._watched if not principal}
        keys = [(key.model, key.principal) for key in activity.keys]
        counts = np.array([key[0] in models or key in self._watched for key in keys], np.bool_)[activity.key_index]
        rows = np.flatnonzero(counts if activity.judged is None else counts & activity.judged)
        positions, indices = activity.row_positions()[rows], activity.key_index[rows]
        for position, index in zip(positions.tolist(), indices.tolist(), strict=True):
            yield position, keys[index], None

    def _judge(self, position: int, key: Key, done: Accounted) -> None:
        """Counts a judged row."""
        watch, counts = self._watches.get(key[0]), self._principals.get(key)
        if watch is not None and watch.watched:
            watch.judge(key[1])
            done.changed[key[0], ""] = None
        if counts is not None and counts.watched:
            done.changed[key] = None
            if counts.judge(self._limit):
                done.accusations[position] = Accusation(key, UNJUDGED, None)

    def _count(self, event: _MissedQueries, done: Accounted) -> None:
        """Counts an unjudged or dropped query, and records whether it makes the principal a suspect."""
        self._events += 1
        if event.key not in self._principals:
            self._make_room(done)
        counts = self._principals.setdefault(event.key, PrincipalCounts())
        counts.touched = self._events
        done.changed[event.key] = None
        if event.kind == "dropped":
            counts.drop(event.reason, event.queries)
            return
        watch, was_accused = self._watch(event.key, done), counts.accused
        counts.refuse(event.reason, event.queries, self._limit)
        if counts.accused or counts.recent >= self._limit:
            counts.accused = not watch.deployment()
            if not counts.accused:
                done.excused[event.key[0]] += event.queries
        if was_accused or counts.accused:
            finding = self._finding(event, counts) if counts.accused else None
            done.accusations[event.position] = Accusation(event.key, UNJUDGED, finding)

    def _watch(self, key: Key, done: Accounted) -> ModelWatch:
        """Returns the watch over the model of ``key``, after counting an unjudged query of the principal."""
        model, principal = key
        if model not in self._watches:
            if len(self._watches) >= MOST_WATCHES:
                oldest = min(self._watches, key=lambda name: self._watches[name].touched)
                del self._watches[oldest]
                done.changed[oldest, ""] = None
            self._watches[model] = ModelWatch()
        watch = self._watches[model]
        watch.touched = self._events
        watch.refuse(principal)
        done.changed[model, ""] = None
        return watch

    def _make_room(self, done: Accounted) -> None:
        """Evicts principals if the limit is reached: the unaccused first, and of these the longest unchanged first."""
        if len(self._principals) < self._most:
            return
        order = sorted(self._principals, key=lambda key: (self._principals[key].accused, self._principals[key].touched))
        evicted = order[: max(self._most // _EVICTED_SHARE, 1)]
        for key in evicted:
            del self._principals[key]
            done.changed[key] = None
        done.forgotten += len(evicted)

    def _update_watched(self, key: Key) -> None:
        """Notes whether judged queries change the state of ``key``."""
        state = self._principals.get(key) if key[1] else self._watches.get(key[0])
        (self._watched.add if state is not None and state.watched else self._watched.discard)(key)

    def _finding(self, event: _MissedQueries, counts: PrincipalCounts) -> Finding:
        score = counts.recent / self._limit
        reasons = sorted(counts.unjudged.items())
        return Finding(
            row=event.rows,
            model=event.key[0],
            model_version=event.version,
            principal=event.key[1],
            signal=UNJUDGED,
            severity=severity_of(score),
            score=score,
            statistic=float(counts.recent),
            threshold=float(self._limit),
            query_index=sum(counts.unjudged.values()) - 1,
            evidence=(
                Evidence("unjudged", float(counts.recent), "queries", float(self._limit)),
                Evidence("share", counts.share, "of the recent queries"),
                *(Evidence(f"unjudged: {reason}", float(queries), "queries") for reason, queries in reasons),
            ),
            family="protocol",
        )


def _missed_queries(activity: Activity) -> list[_MissedQueries]:
    """Returns all unjudged and dropped queries of a micro-batch, in log order."""
    events = []
    positions = activity.row_positions() if activity.unjudged else np.empty(0)
    for row, why in activity.unjudged.items():
        name = activity.keys[activity.key_index[row]]
        key = name.model, name.principal
        events.append(_MissedQueries(int(positions[row]), row, "unjudged", key, why.model_version, 1, why.reason))
    for position, counted in zip(activity.count_positions(), activity.counts, strict=True):
        count, rows = counted.count, counted.at_row
        if count.kind != "refused":
            # The reason comes from outside: a record may be unable to hold it.
            reason = (count.reason if is_plain(count.reason, _REASON_CHARACTERS) else OTHER) or count.kind
            key = count.model, count.principal
            events.append(_MissedQueries(position, rows, count.kind, key, _UNKNOWN_VERSION, count.queries, reason))
    return sorted(events)


def _put(states: dict[_Name, _Counts], name: _Name, state: _Counts | None) -> None:
    if state is None:
        states.pop(name, None)
    else:
        states[name] = state
