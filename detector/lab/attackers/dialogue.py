"""Adaptive attacks written as they are published: ask, look at the answers, ask on."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers

Questions = Generator[NDArray[np.float32], Answers, None]
"""Yields inputs (n, d), n at least 1, and is sent the answers to all n of them."""


class Dialogue:
    """Puts ``questions`` to the victim, ``budget`` queries at most.

    A query that was answered before is free: the thief looks it up, and it never appears. A round that was answered
    only in part is asked on until it is complete; only then do the questions go on.
    """

    def __init__(self, questions: Questions, budget: int) -> None:
        self._questions = questions
        self._budget = budget
        self._known: dict[bytes, int] = {}
        self._answers: Answers | None = None
        self._wanted = next(questions)

    def next_batch(self) -> NDArray[np.float32]:
        return self._wanted[self._fresh()][: max(0, self._budget - self._spent)]

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        for number, key in enumerate(_keys(features), self._spent):
            self._known[key] = number
        self._answers = answers if self._answers is None else Answers.joined([self._answers, answers])
        while len(self._wanted) and not self._fresh():
            self._advance()

    @property
    def _spent(self) -> int:
        return 0 if self._answers is None else len(self._answers.probabilities)

    def _fresh(self) -> list[int]:
        """The first row of each wanted input that was not answered yet."""
        keys = _keys(self._wanted)
        first = dict(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
        return sorted(row for key, row in first.items() if key not in self._known)

    def _advance(self) -> None:
        assert self._answers is not None
        rows = np.array([self._known[key] for key in _keys(self._wanted)])
        try:
            self._wanted = self._questions.send(self._answers.take(rows))
        except StopIteration:
            self._wanted = self._wanted[:0]


def _keys(features: NDArray[np.float32]) -> list[bytes]:
    return [row.tobytes() for row in np.ascontiguousarray(features, dtype=np.float32)]
