"""The latest score of each principal, for people to read: rate-limited, and no part of any state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from math import isnan
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.records import decision_key, encode
from detector.contracts.findings import Score
from detector.contracts.topics import Topics
from detector.core.engine import Observation
from detector.policy.activity import Key
from detector.stream.detector import DetectionInput, Detector
from detector.stream.state_log import Message

SECONDS_BETWEEN = 1.0
"""The least policy time between two scores of one principal, unless the verdict changes."""

LEAST_QUERIES = 20
"""Principals with fewer queries than this may wait, except suspects and those with unjudged queries: when too many
wait, they have no record before their next query."""

_REMEMBERED = 100_000
_MOST_WAITING = 10_000


class _Latest(NamedTuple):
    """The score of one principal as of their last query, at policy ``time``. ``values`` float64 (m,): the statistics of
    the signals ``names``. ``calibrated`` is None for a principal without a judged row."""

    key: Key
    version: str
    time: float
    queries: int
    score: float
    flagged: bool
    calibrated: bool | None
    names: Sequence[str]
    values: NDArray[np.float64]


class ScoreBoard:
    """Decides which scores are due; remembers the principals it published in the last second, up to 100,000. Early
    scores wait."""

    def __init__(self, topics: Topics, partition: int, detector: Detector) -> None:
        self._topic = topics.scores
        self._partition = partition
        self._engine = detector.engine
        self._accounting = detector.ledger.accounting
        self._calibrated = {(profile.model, profile.model_version) for profile in detector.engine.config.judging}
        self._published: OrderedDict[int, tuple[float, bool]] = OrderedDict()
        self._waiting: dict[Key, _Latest] = {}

    def due(self, observation: Observation, last: Sequence[int], queries: DetectionInput) -> Iterator[Message]:
        """Yields score records for ``last``, the last rows of the principals in ``observation``, and for principals
        with unjudged queries, where one is due."""
        if len(queries.times):
            self._forget(float(queries.times[0]))
        for latest in (*self._judged(observation, last, queries), *self._unjudged(observation, last, queries)):
            key = latest.key
            if latest.queries < LEAST_QUERIES and not latest.flagged and key not in self._accounting.known:
                if len(self._waiting) < _MOST_WAITING or key in self._waiting:
                    self._waiting[key] = latest
            elif self._is_due(key, latest.time, latest.flagged):
                self._waiting.pop(key, None)
                yield self._message(latest)
            else:
                self._waiting[key] = latest
        while len(self._waiting) > _MOST_WAITING:
            yield self._message(self._waiting.pop(next(iter(self._waiting))))

    def waiting(self) -> Iterator[Message]:
        """Yields the scores that were not due when they came, as of now."""
        while self._waiting:
            yield self._message(self._waiting.popitem()[1])

    def _judged(self, observation: Observation, last: Sequence[int], queries: DetectionInput) -> Iterator[_Latest]:
        accused, names = self._accounting.accused(), list(observation.signals)
        rows = np.array(last, np.int64)
        columns = zip(
            observation.key_index[rows].tolist(),
            queries.versions(rows),
            queries.times[rows].tolist(),
            (observation.index[rows] + 1).tolist(),
            observation.score[rows].tolist(),
            observation.flagged[rows].tolist(),
            np.stack([column[rows] for column in observation.signals.values()], axis=1),
            strict=True,
        )
        calibrated = [(key.model, key.model_version) in self._calibrated for key in observation.keys]
        for at, version, time, count, score, flagged, values in columns:
            key = observation.keys[at].model, observation.keys[at].principal
            flagged = flagged or key in accused  # noqa: PLW2901
            yield _Latest(key, version, time, count, score, flagged, calibrated[at], names, values.copy())

    def _unjudged(self, observation: Observation, last: Sequence[int], queries: DetectionInput) -> Iterator[_Latest]:
        """Yields the principals with an unjudged query and without a judged row."""
        if not (observation.refused or queries.counts):
            return
        found = {
            (counted.count.model, counted.count.principal): ("unknown", counted.time)
            for counted in queries.counts
            if counted.count.kind != "refused"
        }
        rows = [bad.row for bad in observation.refused]
        for row, version in zip(rows, queries.versions(rows), strict=True):
            found[_key(observation, row)] = version, float(queries.times[row])
        judged, accused = {_key(observation, row) for row in last}, self._accounting.accused()
        for key, (version, time) in found.items():
            if key not in judged:
                status = self._engine.status(*key)
                flagged = status.flagged or key in accused
                yield _Latest(key, version, time, status.queries, status.score, flagged, None, [], np.empty(0))

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

    def _message(self, latest: _Latest) -> Message:
        status, account = self._engine.status(*latest.key), self._accounting.of(latest.key)
        unjudged, dropped = (dict(account.unjudged), dict(account.dropped)) if account is not None else ({}, {})
        signals = zip(latest.names, latest.values.tolist(), strict=True)
        record = Score(
            model=latest.key[0],
            model_version=latest.version,
            principal=latest.key[1],
            occurred_at=latest.time,
            queries=latest.queries,
            score=None if isnan(latest.score) else latest.score,
            flagged=latest.flagged,
            signals={name: value for name, value in signals if not isnan(value)},
            answered=status.queries + sum(unjudged.values()) + sum(dropped.values()),
            judged=status.queries - status.repeats,
            repeats=status.repeats,
            unjudged=unjudged,
            dropped=dropped,
            calibrated=latest.calibrated,
        )
        return Message(self._topic, self._partition, decision_key(*latest.key), encode(record))


def last_rows(observation: Observation) -> list[int]:
    """Returns the last row of each principal, in no order; refused rows do not count."""
    judged = np.flatnonzero(observation.index >= 0)
    last = np.full(len(observation.keys), -1)
    last[observation.key_index[judged]] = judged
    rows: list[int] = last[last >= 0].tolist()
    return rows


def _key(observation: Observation, row: int) -> Key:
    key = observation.keys[observation.key_index[row]]
    return key.model, key.principal
