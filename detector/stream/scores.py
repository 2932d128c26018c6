"""The latest score of each principal, for people to read: rate-limited, and no part of any state."""

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
from detector.core.engine import Observation
from detector.policy.activity import Key
from detector.stream.judge import Hearing, Judge
from detector.stream.record import Message

SECONDS_BETWEEN = 1.0
"""The least policy time between two scores of one principal, unless the verdict changes."""

LEAST_QUERIES = 20
"""Principals with fewer queries than this may wait, except suspects and those with unjudged queries: when too many
wait, they have no record before their next query."""

_REMEMBERED = 100_000
_MOST_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class _Seen:
    """The scores of n principals as of the last query of each, at policy ``time``: lists of n. ``values`` float64 (n,
    m): those of the signals ``names``."""

    keys: list[Key]
    versions: list[str]
    time: list[float]
    queries: list[int]
    score: list[float]
    flagged: list[bool]
    calibrated: list[bool | None]
    names: list[str]
    values: NDArray[np.float64]

    def alone(self, at: int) -> _Seen:
        """Returns principal ``at`` without the others, which a score that waits would keep in memory."""
        return _Seen(
            [self.keys[at]],
            [self.versions[at]],
            [self.time[at]],
            [self.queries[at]],
            [self.score[at]],
            [self.flagged[at]],
            [self.calibrated[at]],
            self.names,
            self.values[at : at + 1].copy(),
        )


class ScoreBoard:
    """Decides which scores are due; remembers the principals it published in the last second, up to 100,000. Early
    scores wait."""

    def __init__(self, topics: Topics, partition: int, judge: Judge) -> None:
        self._topic = topics.scores
        self._partition = partition
        self._engine = judge.engine
        self._accounting = judge.ledger.accounting
        self._calibrated = {(own.model, own.model_version) for own in judge.engine.config.judging}
        self._published: OrderedDict[int, tuple[float, bool]] = OrderedDict()
        self._waiting: dict[Key, _Seen] = {}

    def due(self, observation: Observation, last: Sequence[int], hearing: Hearing) -> Iterator[Message]:
        """Yields score records for ``last``, the last rows of the principals in ``observation``, and for principals
        with unjudged queries, where one is due."""
        if len(hearing.times):
            self._forget(float(hearing.times[0]))
        for seen in self._seen(observation, last, hearing):
            for at, key in enumerate(seen.keys):
                if self._is_newcomer(seen, at):
                    if len(self._waiting) < _MOST_WAITING or key in self._waiting:
                        self._waiting[key] = seen.alone(at)
                elif self._is_due(key, seen.time[at], seen.flagged[at]):
                    self._waiting.pop(key, None)
                    yield self._message(seen, at)
                else:
                    self._waiting[key] = seen.alone(at)
        while len(self._waiting) > _MOST_WAITING:
            yield self._message(self._waiting.pop(next(iter(self._waiting))), 0)

    def _seen(self, observation: Observation, last: Sequence[int], hearing: Hearing) -> Iterator[_Seen]:
        yield self._judged(observation, last, hearing)
        if observation.refused or hearing.counts:
            yield self._unjudged(observation, last, hearing)

    def waiting(self) -> Iterator[Message]:
        """Yields the scores that were not due when they came, as of now."""
        while self._waiting:
            yield self._message(self._waiting.popitem()[1], 0)

    def _judged(self, observation: Observation, last: Sequence[int], hearing: Hearing) -> _Seen:
        held, accused = observation.keys, self._accounting.accused()
        rows = np.array(last, np.int64)
        owners = observation.key_index[rows].tolist()
        keys = [(held[at].model, held[at].principal) for at in owners]
        calibrated = [(own.model, own.model_version) in self._calibrated for own in held]
        flagged = observation.flagged[rows].tolist()
        if accused:
            flagged = [one or key in accused for one, key in zip(flagged, keys, strict=True)]
        return _Seen(
            keys,
            hearing.versions(rows),
            hearing.times[rows].tolist(),
            (observation.index[rows] + 1).tolist(),
            observation.score[rows].tolist(),
            flagged,
            [calibrated[at] for at in owners],
            list(observation.signals),
            np.stack([column[rows] for column in observation.signals.values()], axis=1),
        )

    def _unjudged(self, observation: Observation, last: Sequence[int], hearing: Hearing) -> _Seen:
        """Returns the principals without a judged row."""
        judged = {_key(observation, row) for row in last}
        odd = {key: said for key, said in _odd(observation, hearing).items() if key not in judged}
        standing = [self._engine.status(*key) for key in odd]
        accused = self._accounting.accused()
        return _Seen(
            list(odd),
            [version for version, _ in odd.values()],
            [time for _, time in odd.values()],
            [own.queries for own in standing],
            [own.score for own in standing],
            [own.flagged or key in accused for key, own in zip(odd, standing, strict=True)],
            [None] * len(odd),
            [],
            np.empty((len(odd), 0)),
        )

    def _is_newcomer(self, seen: _Seen, at: int) -> bool:
        return seen.queries[at] < LEAST_QUERIES and not seen.flagged[at] and seen.keys[at] not in self._accounting.known

    def _is_due(self, key: Key, time: float, flagged: bool) -> bool:
        number = hash(key)
        last = self._published.get(number)
        if last is not None and last[1] == flagged and time < last[0] + SECONDS_BETWEEN:
            return False
        self._published[number] = (time, flagged)
        self._published.move_to_end(number)
        if len(self._published) > _REMEMBERED:
            self._published.popitem(last=False)
        return True

    def _forget(self, now: float) -> None:
        """Forgets what was published so long ago that it delays nothing from ``now`` on."""
        published = self._published
        while published and now >= next(iter(published.values()))[0] + SECONDS_BETWEEN:
            published.popitem(last=False)

    def _message(self, seen: _Seen, at: int) -> Message:
        key, score = seen.keys[at], seen.score[at]
        standing, account = self._engine.status(*key), self._accounting.of(key)
        unjudged, dropped = (dict(account.unjudged), dict(account.dropped)) if account is not None else ({}, {})
        signals = zip(seen.names, seen.values[at].tolist(), strict=True)
        record = Score(
            model=key[0],
            model_version=seen.versions[at],
            principal=key[1],
            occurred_at=seen.time[at],
            queries=seen.queries[at],
            score=None if isnan(score) else score,
            flagged=seen.flagged[at],
            signals={name: value for name, value in signals if not isnan(value)},
            answered=standing.queries + sum(unjudged.values()) + sum(dropped.values()),
            judged=standing.queries - standing.repeats,
            repeats=standing.repeats,
            unjudged=unjudged,
            dropped=dropped,
            calibrated=seen.calibrated[at],
        )
        return Message(self._topic, self._partition, decision_key(*key), encode(record))


def last_rows(observation: Observation) -> list[int]:
    """Returns the last row of each principal, in no order; refused rows do not count."""
    taken = np.flatnonzero(observation.index >= 0)
    last = np.full(len(observation.keys), -1)
    last[observation.key_index[taken]] = taken
    rows: list[int] = last[last >= 0].tolist()
    return rows


def _key(observation: Observation, row: int) -> Key:
    key = observation.keys[observation.key_index[row]]
    return key.model, key.principal


def _odd(observation: Observation, hearing: Hearing) -> dict[Key, tuple[str, float]]:
    """Returns, of principals with an unjudged query, the version and the policy time of the last one."""
    counts = [counted for counted in hearing.counts if counted.count.kind != "refused"]
    found = {(one.count.model, one.count.principal): ("unknown", one.time) for one in counts}
    rows = [bad.row for bad in observation.refused]
    for row, version in zip(rows, hearing.versions(rows), strict=True):
        found[_key(observation, row)] = version, float(hearing.times[row])
    return found
