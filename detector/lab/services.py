"""Who answers an experiment's queries: a victim in this process, or one behind HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers, Victim
from detector.lab.endpoint import Endpoint

Rows = NDArray[np.float32]
Array = NDArray[np.float64]


class Service(Protocol):
    @property
    def output_kind(self) -> OutputKind:
        """What it has answered so far."""
        ...

    def ask(self, features: Rows, accounts: Sequence[str], at: Array) -> Answers:
        """The answers to the first of ``features`` (n, d), each asked by one of ``accounts`` (n,), ``at`` seconds (n,).

        To fewer than n where it turned the next one away.
        """
        ...

    def said(self, features: Rows, answers: Answers) -> Array:
        """What its log has of ``answers`` to ``features``: float64 (n, k), before any rounding if that is known."""
        ...


class InProcess:
    """Answers everything at once, whenever it is asked; ``progress`` is told how many queries."""

    def __init__(self, victim: Victim, progress: Callable[[int], None] | None = None) -> None:
        self._victim = victim
        self._progress = progress

    @property
    def output_kind(self) -> OutputKind:
        return self._victim.output_kind

    def ask(self, features: Rows, accounts: Sequence[str], at: Array) -> Answers:
        answers = self._victim.answer(features)
        if self._progress:
            self._progress(len(features))
        return answers

    def said(self, features: Rows, answers: Answers) -> Array:
        return answers.probabilities if self.output_kind == "label" else self._victim.probabilities(features)


class OverHttp:
    """One query a request, each at its time; ``progress`` is told of each."""

    def __init__(self, endpoint: Endpoint, progress: Callable[[int], None] | None = None) -> None:
        self._endpoint = endpoint
        self._progress = progress

    @property
    def output_kind(self) -> OutputKind:
        return self._endpoint.output_kind

    def ask(self, features: Rows, accounts: Sequence[str], at: Array) -> Answers:
        answered = []
        for row, account, second in zip(np.split(features, len(features)), accounts, at.tolist(), strict=True):
            answer = self._endpoint.ask(row, account, second)
            if answer is None:
                break
            answered.append(answer)
            if self._progress:
                self._progress(1)
        return Answers(np.concatenate([np.empty((0, self._endpoint.classes)), *answered]))

    def said(self, features: Rows, answers: Answers) -> Array:
        return answers.probabilities
