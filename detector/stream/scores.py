"""The latest suspicion of each principal, for people to look at: rate-limited, and no part of any state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.records import decision_key, encode
from detector.contracts.findings import Score
from detector.contracts.topics import Topics
from detector.core.batch import Observation
from detector.policy.activity import Key
from detector.stream.judge import Hearing, Judge
from detector.stream.record import Message

SECONDS_BETWEEN = 1.0
"""Least policy time between two scores of one principal, unless the verdict changes."""

LEAST_QUERIES = 20
"""A principal with fewer queries than this has no score worth a record, unless some of theirs were not judged."""

_REMEMBERED = 100_000
_MOST_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class _Seen:
    """What there is to say of a principal as of the last query, at policy ``time``; ``values`` of ``names``."""

    version: str
    time: float
    queries: int
    score: float
    flagged: bool
    names: Sequence[str] = ()
    values: NDArray[np.float64] | None = None


class ScoreBoard:
    """Decides whose score is due; remembers the last 100,000 principals it published. What comes too early waits."""

    def __init__(self, topics: Topics, partition: int, judge: Judge) -> None:
        self._topic = topics.scores
        self._partition = partition
        self._engine = judge.engine
        self._accounting = judge.ledger.accounting
        self._published: OrderedDict[int, tuple[float, bool]] = OrderedDict()
        self._waiting: OrderedDict[Key, _Seen] = OrderedDict()

    def due(self, observation: Observation, last: Sequence[int], hearing: Hearing) -> Iterator[Message]:
        """Score records for ``last``, the last rows of the principals in ``observation``, and for those besides whose
        queries could not be judged, where one is due."""
        for key, seen in self._seen(observation, last, hearing):
            if self._is_due(key, seen):
                self._waiting.pop(key, None)
                yield self._message(key, seen)
                continue
            self._waiting[key] = seen
            if len(self._waiting) > _MOST_WAITING:
                yield self._message(*self._waiting.popitem(last=False))

    def waiting(self) -> Iterator[Message]:
        """Those that were not due when they came, as of now."""
        while self._waiting:
            yield self._message(*self._waiting.popitem(last=False))

    def _seen(self, observation: Observation, last: Sequence[int], hearing: Hearing) -> Iterator[tuple[Key, _Seen]]:
        rows = [row for row in last if self._worth_it(observation, row)]
        names = list(observation.signals)
        values = np.array([column[rows] for column in observation.signals.values()]).T.copy()
        versions, listed = hearing.versions(rows), set()
        for at, row in enumerate(rows):
            key = _key(observation, row)
            listed.add(key)
            time, queries = float(hearing.times[row]), int(observation.index[row]) + 1
            score, flagged = float(observation.score[row]), bool(observation.flagged[row]) or self._accused(key)
            yield key, _Seen(versions[at], time, queries, score, flagged, names, values[at])
        for key, (version, time) in _odd(observation, hearing).items():
            if key not in listed:
                standing = self._engine.standing(*key)
                flagged = standing.flagged or self._accused(key)
                yield key, _Seen(version, time, standing.queries, standing.score, flagged)

    def _worth_it(self, observation: Observation, row: int) -> bool:
        enough = bool(observation.index[row] + 1 >= LEAST_QUERIES)
        return enough or self._accounting.of(_key(observation, row)) is not None

    def _accused(self, key: Key) -> bool:
        account = self._accounting.of(key)
        return account is not None and account.accused

    def _is_due(self, key: Key, seen: _Seen) -> bool:
        number = hash(key)
        last = self._published.get(number)
        if last is not None and last[1] == seen.flagged and seen.time < last[0] + SECONDS_BETWEEN:
            return False
        self._published[number] = (seen.time, seen.flagged)
        self._published.move_to_end(number)
        if len(self._published) > _REMEMBERED:
            self._published.popitem(last=False)
        return True

    def _message(self, key: Key, seen: _Seen) -> Message:
        standing, account = self._engine.standing(*key), self._accounting.of(key)
        unjudged, dropped = (dict(account.unjudged), dict(account.dropped)) if account is not None else ({}, {})
        values = [] if seen.values is None else seen.values.tolist()
        record = Score(
            model=key[0],
            model_version=seen.version,
            principal=key[1],
            occurred_at=seen.time,
            queries=seen.queries,
            score=None if isnan(seen.score) else seen.score,
            flagged=seen.flagged,
            signals={name: value for name, value in zip(seen.names, values, strict=True) if not isnan(value)},
            answered=standing.queries + sum(unjudged.values()) + sum(dropped.values()),
            judged=standing.queries - standing.repeats,
            repeats=standing.repeats,
            unjudged=unjudged,
            dropped=dropped,
        )
        return Message(self._topic, self._partition, decision_key(*key), encode(record))


def last_rows(observation: Observation) -> list[int]:
    """The last row of each principal, in no order; refused rows do not count."""
    taken = np.flatnonzero(observation.index >= 0)
    last = np.full(len(observation.keys), -1)
    last[observation.key_index[taken]] = taken
    rows: list[int] = last[last >= 0].tolist()
    return rows


def _key(observation: Observation, row: int) -> Key:
    key = observation.keys[observation.key_index[row]]
    return key.model, key.principal


def _odd(observation: Observation, hearing: Hearing) -> dict[Key, tuple[str, float]]:
    """Who had a query that was not judged: the version it was for and its policy time, of the last one."""
    counts = [counted for counted in hearing.counts if counted.count.kind != "refused"]
    found = {(one.count.model, one.count.principal): ("unknown", one.time) for one in counts}
    rows = [bad.row for bad in observation.refused]
    for row, version in zip(rows, hearing.versions(rows), strict=True):
        found[_key(observation, row)] = version, float(hearing.times[row])
    return found
