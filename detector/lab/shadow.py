"""A thief who has read the detector's code, and runs it on their next queries.

The shadow detector is the real code with a profile that the thief made (*code*) or the owner's (*profile*). A query is
sent only if the shadow D stays below the shadow threshold. Otherwise the thief tries the next query of the attack, then
natural rows that they have not sent yet, and stops when these are used up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import take
from detector.contracts.errors import LabError
from detector.contracts.queries import OutputKind, QueryBatch
from detector.core.calibration.calibrate import FEWEST_ACCOUNTS, calibrate
from detector.core.engine import Engine, EngineConfig
from detector.core.profile import Profile
from detector.lab.answers import Answers, Classifier
from detector.lab.data import Examples
from detector.lab.experiment import AttackPlan, queries_of, victim_of
from detector.lab.honest import population
from detector.lab.honest.habit import Rows
from detector.lab.wrappers.disguises import SentQueries

CALIBRATION_ACCOUNTS, CALIBRATION_SEED = 50, 31
BUDGET = 0.01
PRETENDED = 10
"""Accounts, at most, that the thief's own rows are split into."""
TRIES = 8
"""Queries over the limit that the thief passes over in a round."""
AT_ONCE = 64
"""Queries that are looked at together, before the answers to any of them are known."""

_LENGTHS = (300, 500, 120)
_SHADOW = "shadow"
_FEWEST_ROWS = 10
_GROWTH = 1.25
"""The clone that predicts answers is trained again when the thief has this many times the queries."""
_NATURAL_AT_ONCE = 8

NewClone = Callable[[], Classifier]


@lru_cache(maxsize=8)
def owner_profile(dataset: str, victim: str) -> Profile:
    """Returns the profile that the owner of the victim of these names makes of fifty honest accounts at a budget of one
    percent.

    They send every second of the data set's honest inputs; accounts of other seeds send any.
    """
    data, model = victim_of(dataset, victim)
    examples = Examples(data.honest.features[::2], data.honest.labels[::2])
    accounts = []
    for number, user in enumerate(population(replace(data, honest=examples), CALIBRATION_ACCOUNTS, CALIBRATION_SEED)):
        most = _LENGTHS[number % len(_LENGTHS)]
        rows = np.concatenate([request.rows for request in islice(user.requests, most)])[:most]
        answers = model.answer(rows).probabilities
        name = AttackPlan("", victim, dataset).model
        accounts.append(queries_of(name, model.output_kind, [user.account] * len(rows), rows, answers))
    return calibrate(accounts, BUDGET).profile


def pretended_profile(rows: Rows, outputs: NDArray[np.float64], output_kind: OutputKind, seed: int) -> Profile:
    """Returns the profile that a thief makes of the natural ``rows`` (n, d) that were answered with ``outputs`` (n, k),
    by treating parts of them as honest accounts: at least ten rows each, and at most ten accounts."""
    count = min(PRETENDED, max(len(rows) // _FEWEST_ROWS, FEWEST_ACCOUNTS))
    parts = np.array_split(np.random.default_rng([seed, 16]).permutation(len(rows)), count)
    accounts = [
        queries_of(_SHADOW, output_kind, [f"pretended-{number}"] * len(part), rows[part], outputs[part])
        for number, part in enumerate(parts)
    ]
    return calibrate(accounts, BUDGET).profile


class ShadowDetector:
    """The detector with ``profile``, which has seen what the thief has sent."""

    def __init__(self, profile: Profile) -> None:
        self.model = profile.model
        self._engine = Engine(EngineConfig(profiles=(profile,)))

    def predicted_scores(self, queries: QueryBatch) -> NDArray[np.float64]:
        """Returns the score after each of ``queries``, float64 (n,), if they are sent next; 1 at the threshold."""
        trial = self._engine.sibling()
        trial.load(self._engine.dump(self._engine.keys()))
        score = trial.observe([queries]).score
        trial.close()
        return np.nan_to_num(score)

    def observe(self, queries: QueryBatch) -> None:
        self._engine.observe([queries])


class Caution:
    """Decides for a thief who holds the natural rows ``thief_rows`` (n, d) which queries are sent.

    ``profile``: the owner's, or None if the thief makes one from the first answers. Queries before any answer are sent
    unchanged.
    """

    def __init__(self, thief_rows: Rows, output_kind: OutputKind, seed: int, profile: Profile | None = None) -> None:
        self._natural_rows = {row.tobytes(): row for row in thief_rows}
        self._output_kind: OutputKind = output_kind
        self._seed = seed
        self._shadow = None if profile is None else ShadowDetector(profile)
        self._sent: list[tuple[SentQueries, Answers]] = []
        self._seen: set[bytes] = set()
        self._clone: tuple[int, Classifier] | None = None

    def passed(self, stream: SentQueries, new_clone: NewClone) -> SentQueries:
        """Returns those of ``stream``, or natural rows instead, that are to be sent; nothing if the thief gives up.

        ``new_clone`` trains a clone on all answers so far. It raises LabError if there are too few.
        """
        try:
            clone = self._trained(new_clone)
        except LabError:
            return stream
        shadow = self._ready()
        allowed = self._allowed(stream.take(np.arange(min(len(stream), AT_ONCE))), clone, shadow)
        if len(allowed) and not allowed.cover.all():
            return allowed
        natural = self._natural(stream)
        return self._allowed(natural, clone, shadow) if len(natural) else natural

    def observe(self, stream: SentQueries, answers: Answers) -> None:
        """Learns that ``stream`` was sent and got ``answers``."""
        self._sent.append((stream, answers))
        self._seen.update(row.tobytes() for row in stream.features)
        if self._shadow is not None:
            self._shadow.observe(self._queries(self._shadow, stream, answers.probabilities))

    def _trained(self, new_clone: NewClone) -> Classifier:
        queries = sum(len(stream) for stream, _ in self._sent)
        if self._clone is None or queries > _GROWTH * self._clone[0]:
            self._clone = queries, new_clone()
        return self._clone[1]

    def _ready(self) -> ShadowDetector:
        """Returns the shadow detector, made now if it has to be."""
        if self._shadow is None:
            features = np.concatenate([stream.features for stream, _ in self._sent])
            outputs = np.concatenate([answers.probabilities for _, answers in self._sent])
            natural = np.array([row.tobytes() in self._natural_rows for row in features])
            profile = pretended_profile(features[natural], outputs[natural], self._output_kind, self._seed)
            self._shadow = ShadowDetector(profile)
            for stream, answers in self._sent:
                self._shadow.observe(self._queries(self._shadow, stream, answers.probabilities))
        return self._shadow

    def _allowed(self, stream: SentQueries, clone: Classifier, shadow: ShadowDetector) -> SentQueries:
        """Returns ``stream`` without up to TRIES queries that are over the threshold, and ends it at the next one."""
        queries = self._queries(shadow, stream, clone.probabilities(stream.features))
        rows = np.arange(len(stream))
        for _ in range(TRIES):
            over = np.flatnonzero(shadow.predicted_scores(take(queries, rows)) >= 1)
            if not len(over):
                return stream.take(rows)
            rows = np.delete(rows, over[0])
            if not len(rows):
                break
        return stream.take(rows[: over[0]])

    def _natural(self, stream: SentQueries) -> SentQueries:
        """Returns natural rows of the thief that were not sent yet, from the account and at the time of the first query
        of ``stream``."""
        rows = [row for key, row in self._natural_rows.items() if key not in self._seen][:_NATURAL_AT_ONCE]
        count = len(rows)
        features = np.array(rows, np.float32).reshape(count, stream.features.shape[1])
        first = stream.take(np.zeros(count, np.int64))
        return SentQueries(features, np.full(count, -1), first.account, first.at)

    def _queries(self, shadow: ShadowDetector, stream: SentQueries, outputs: NDArray[np.float64]) -> QueryBatch:
        accounts = [f"thief-{number}" for number in stream.account.tolist()]
        return queries_of(shadow.model, self._output_kind, accounts, stream.features, outputs)
