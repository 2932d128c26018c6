"""The knowledge and the interface of every thief, and the base of adaptive ones."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers, Classifier, Victim
from detector.lab.data import Dataset

_POOL_ROWS = 5_000

Inputs = NDArray[np.float32]
"""Rows of features (n, d) as a victim takes them."""

Labels = NDArray[np.int64]

Result = TypeVar("Result")
Search: TypeAlias = Generator[Inputs, Answers, Result]
"""Yields inputs (n, d), n at least 1, is sent the answers to all n of them, and returns a result."""

Questions: TypeAlias = Search[None]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The prior knowledge of a thief. ``low``, ``high`` float32 (d,) and ``categories`` int64 (d,): see ``Dataset``.

    ``own`` float32 (n, d): natural inputs of the victim's kind that the thief holds, without labels. ``pool`` float32
    (m, d): public inputs of another kind, scaled to the same ranges. ``side``: images are side x side, None for tables.
    """

    classes: int
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    categories: Labels
    own: Inputs
    pool: Inputs
    side: int | None = None

    @classmethod
    def of(cls, dataset: Dataset, pool: Inputs | None = None) -> Knowledge:
        """Returns the knowledge of a thief about a victim trained on ``dataset``; ``pool`` (m, d), by default uniform
        over its range."""
        if pool is None:
            spread = np.random.default_rng(0).random((_POOL_ROWS, dataset.dimension), dtype=np.float32)
            pool = dataset.low + spread * (dataset.high - dataset.low)
        thief_rows = dataset.thief.features
        return cls(dataset.classes, dataset.low, dataset.high, dataset.categories, thief_rows, pool, dataset.side)

    @property
    def dimension(self) -> int:
        return len(self.low)


class Attacker(Protocol):
    """Adaptive extraction in rounds: ``next_batch``, ``observe``, and again until ``next_batch`` is empty.

    A round may be answered only in part (the service refused the rest): ``observe`` is given what was
    answered, and ``clone`` makes the best of everything observed so far. The same seed gives the same queries for the
    same answers.
    """

    def next_batch(self) -> Inputs:
        """Returns the inputs (n, d) to query next, in order; no rows when the budget is spent. NaN leaves a feature
        out."""
        ...

    def observe(self, features: Inputs, answers: Answers) -> None:
        """Learns that the victim answered ``features`` (m, d) with ``answers``.

        May be called several times per round, each time with its next rows.
        """
        ...

    def clone(self) -> Classifier:
        """Returns a classifier trained on every answer observed. At least one must have been."""
        ...


def run_offline(attacker: Attacker, victim: Victim) -> int:
    """Lets ``attacker`` spend its whole budget on ``victim`` unhindered. Returns the number of queries."""
    queries = 0
    while len(batch := attacker.next_batch()):
        attacker.observe(batch, victim.answer(batch))
        queries += len(batch)
    return queries


class Dialogue:
    """Sends the inputs that ``questions`` yields to the victim, at most ``budget`` queries.

    The base of attacks that are written as they are published: query, read the answers, query again. An input that was
    answered before is looked up and not sent again. A round that was answered only in part is sent again until it is
    complete; only then do the questions go on.
    """

    def __init__(self, questions: Questions, budget: int) -> None:
        self._questions = questions
        self._budget = budget
        self._known: dict[bytes, int] = {}
        self._answers: Answers | None = None
        self._wanted = next(questions)

    def next_batch(self) -> Inputs:
        return self._wanted[self._unanswered()][: max(0, self._budget - self._spent)]

    def observe(self, features: Inputs, answers: Answers) -> None:
        for number, key in enumerate(_keys(features), self._spent):
            self._known[key] = number
        self._answers = answers if self._answers is None else Answers.joined([self._answers, answers])
        while len(self._wanted) and not self._unanswered():
            rows = np.array([self._known[key] for key in _keys(self._wanted)])
            try:
                self._wanted = self._questions.send(self._answers.take(rows))
            except StopIteration:
                self._wanted = self._wanted[:0]

    @property
    def _spent(self) -> int:
        return 0 if self._answers is None else len(self._answers.probabilities)

    def _unanswered(self) -> list[int]:
        """Returns the first row of each wanted input that was not answered yet."""
        keys = _keys(self._wanted)
        first = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
        return sorted(row for key, row in first.items() if key not in self._known)


def _keys(features: Inputs) -> list[bytes]:
    return [row.tobytes() for row in np.ascontiguousarray(features, dtype=np.float32)]
