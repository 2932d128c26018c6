"""Who answers an experiment's queries; here, a victim in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers, Victim

Rows = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Asked:
    """``n`` queries: ``features`` (n, d), who of ``accounts`` (n,) asks each, ``at`` how many seconds (n,).

    ``specifications`` float32 (n, 2) or None: what each requests of a model zoo, accuracy 0 to 1 and milliseconds.
    """

    features: Rows
    accounts: Sequence[str]
    at: Array
    specifications: Rows | None = None


class Service(Protocol):
    @property
    def output_kind(self) -> OutputKind:
        """What it has answered so far."""
        ...

    def ask(self, asked: Asked) -> Answers:
        """The answers to the first queries of ``asked``; to fewer than all where it did not answer the next one."""
        ...

    def said(self, features: Rows, answers: Answers) -> Array:
        """What its log has of ``answers`` to ``features``: float64 (n, k), before any rounding if that is known."""
        ...


class InProcess:
    """Answers everything at once, whenever it is asked for whatever; ``progress`` is told how many queries."""

    def __init__(self, victim: Victim, progress: Callable[[int], None] | None = None) -> None:
        self._victim = victim
        self._progress = progress

    @property
    def output_kind(self) -> OutputKind:
        return self._victim.output_kind

    def ask(self, asked: Asked) -> Answers:
        answers = self._victim.answer(asked.features)
        if self._progress:
            self._progress(len(asked.features))
        return answers

    def said(self, features: Rows, answers: Answers) -> Array:
        return answers.probabilities if self.output_kind == "label" else self._victim.probabilities(features)
