"""Who answers an experiment's queries: a victim in this process, or one behind HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers, Victim
from detector.lab.endpoint import Endpoint
from detector.lab.mappings import Request

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


class OverHttp:
    """One query a request, each at its time; ``progress`` is told of each.

    ``failure``: why it gave no proper answer to the query after the last one that it answered, if that was the reason.
    """

    def __init__(self, endpoint: Endpoint, progress: Callable[[int], None] | None = None) -> None:
        self._endpoint = endpoint
        self._progress = progress
        self.failure: LabError | None = None

    @property
    def output_kind(self) -> OutputKind:
        return self._endpoint.output_kind

    def ask(self, asked: Asked) -> Answers:
        answered: list[Answers] = []
        try:
            for request, second in zip(_requests(asked), asked.at.tolist(), strict=True):
                answer = self._endpoint.ask(request, second)
                if answer is None:
                    break
                answered.append(answer)
                if self._progress:
                    self._progress(1)
        except LabError as error:
            self.failure = error
        return Answers.joined(answered) if answered else Answers(np.empty((0, self._endpoint.classes)))

    def said(self, features: Rows, answers: Answers) -> Array:
        return answers.probabilities


def _requests(asked: Asked) -> Iterator[Request]:
    rows = np.split(asked.features, len(asked.features))
    wanted = [None] * len(rows) if asked.specifications is None else map(_specification, asked.specifications.tolist())
    return map(Request, rows, asked.accounts, wanted)


def _specification(numbers: list[float]) -> tuple[float, float]:
    accuracy, latency = numbers
    return accuracy, latency
