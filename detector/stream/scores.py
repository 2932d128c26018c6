"""The latest suspicion of each principal, for people to look at: rate-limited, and no part of any state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from math import isnan

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.records import decision_key, encode
from detector.contracts.findings import Score
from detector.contracts.topics import Topics
from detector.core.batch import Observation
from detector.stream.record import Message

SECONDS_BETWEEN = 1.0
"""Least policy time between two scores of one principal, unless his verdict changes."""

LEAST_QUERIES = 20
"""A principal with fewer queries than this has no score worth a record."""

_REMEMBERED = 100_000


class ScoreBoard:
    """Decides whose score is due; remembers the last 100,000 principals it spoke of."""

    def __init__(self, topics: Topics, partition: int) -> None:
        self._topic = topics.scores
        self._partition = partition
        self._spoken: OrderedDict[int, tuple[float, bool]] = OrderedDict()

    def due(self, observation: Observation, last: Sequence[int], times: NDArray[np.float64]) -> Iterator[Message]:
        """Score records for ``last``, the last rows of the principals in ``observation``, where one is due."""
        for row in last:
            if observation.index[row] + 1 >= LEAST_QUERIES and self._is_due(observation, row, float(times[row])):
                yield self._message(observation, row, float(times[row]))

    def _is_due(self, observation: Observation, row: int, time: float) -> bool:
        key = hash(observation.keys[observation.key_index[row]])
        flagged = bool(observation.flagged[row])
        last = self._spoken.get(key)
        if last is not None and last[1] == flagged and time < last[0] + SECONDS_BETWEEN:
            return False
        self._spoken[key] = (time, flagged)
        self._spoken.move_to_end(key)
        if len(self._spoken) > _REMEMBERED:
            self._spoken.popitem(last=False)
        return True

    def _message(self, observation: Observation, row: int, time: float) -> Message:
        key = observation.keys[observation.key_index[row]]
        score = float(observation.score[row])
        signals = {name: float(values[row]) for name, values in observation.signals.items() if not isnan(values[row])}
        record = Score(
            model=key.model,
            model_version=key.model_version,
            principal=key.principal,
            occurred_at=time,
            queries=int(observation.index[row]) + 1,
            score=None if isnan(score) else score,
            flagged=bool(observation.flagged[row]),
            signals=signals,
        )
        return Message(self._topic, self._partition, decision_key(key.model, key.principal), encode(record))


def last_rows(observation: Observation) -> list[int]:
    """The last row of each principal, in no order; refused rows do not count."""
    taken = np.flatnonzero(observation.index >= 0)
    last = np.full(len(observation.keys), -1)
    last[observation.key_index[taken]] = taken
    rows: list[int] = last[last >= 0].tolist()
    return rows
