"""The course of one attack: rounds through a disguise, and the clone's fidelity at checkpoints on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Attacker
from detector.lab.fidelity import Fidelity, Yardstick
from detector.lab.population import THIEF
from detector.lab.query_log import Mark
from detector.lab.services import Asked, Service
from detector.lab.wrappers.disguises import Disguise, SentQueries

Specifications = NDArray[np.float32]


@runtime_checkable
class Specifying(Protocol):
    """An attacker that requests specifications of a model zoo."""

    def next_specifications(self) -> Specifications:
        """What to request with each row of the last ``next_batch``: (n, 2), accuracy 0 to 1 and milliseconds."""
        ...


@dataclass(frozen=True, slots=True)
class Exchange:
    """The queries of ``stream`` and the answers to them, all of them.

    ``specifications`` float32 (m, 2) or None: the accuracy, 0 to 1, and the milliseconds requested with each.
    """

    stream: SentQueries
    answers: Answers
    specifications: Specifications | None


class Course:
    """``attacker`` against ``service`` in ``disguise``, measured by ``yardstick`` at each of ``checkpoints``.

    A checkpoint is a number of answers that the thief has seen.

    ``exchanges``: what was answered, round by round. ``sent``: the thief's queries, dummies included; ``useful``: those
    whose answers the thief saw. ``curve``: the clone's fidelity, by queries sent; without checkpoints at which there
    was no clone.
    """

    def __init__(
        self, attacker: Attacker, service: Service, disguise: Disguise, yardstick: Yardstick, checkpoints: Sequence[int]
    ) -> None:
        self._attacker = attacker
        self._disguise = disguise
        self.service = service
        self._yardstick = yardstick
        self._checkpoints = list(checkpoints)
        self.exchanges: list[Exchange] = []
        self.sent = self.useful = 0
        self.curve: list[Fidelity] = []

    @property
    def cover(self) -> Mark:
        """The true mark of the thief's cover queries."""
        return self._disguise.cover

    def run(self) -> None:
        """Runs until the budget is spent, or a query of the thief is refused."""
        while len(batch := self._attacker.next_batch()):
            stream = self._disguise.wrap(batch)
            wanted = self._specifications(stream)
            answers = self.service.ask(Asked(stream.features, self.accounts(stream), stream.at, wanted))
            answered = stream.first(len(answers.probabilities))
            if len(answered):
                wanted = None if wanted is None else wanted[: len(answered)]
                self.exchanges.append(Exchange(answered, answers, wanted))
                self._learn(batch, answered, answers)
            if len(answered) < len(stream):
                break
        if self.useful and (not self.curve or self.curve[-1].queries < self.sent):
            self._measure(self.sent)

    def accounts(self, stream: SentQueries) -> list[str]:
        """Returns the name of the account that sends each query of ``stream``."""
        if self._disguise.accounts == 1:
            return [THIEF] * len(stream)
        return [f"{THIEF}-{number}" for number in (stream.account + 1).tolist()]

    def _specifications(self, stream: SentQueries) -> Specifications | None:
        """Returns what is requested with each query of ``stream``; a cover query requests what the one before it
        did."""
        if not isinstance(self._attacker, Specifying):
            return None
        source: NDArray[np.int64] = np.maximum.accumulate(stream.source).clip(0)
        return self._attacker.next_specifications()[source]

    def _learn(self, batch: NDArray[np.float32], stream: SentQueries, answers: Answers) -> None:
        """Shows the thief the answers up to each checkpoint in turn. Dummies count as sent, an honest user's work does
        not."""
        own = np.flatnonzero(~stream.cover)
        honest = stream.cover & (self.cover.label == "honest")
        sent = self.sent + np.cumsum(~honest)
        reached = [at - self.useful for at in self._checkpoints if self.useful < at <= self.useful + len(own)]
        for rows in np.split(own, reached):
            if len(rows):
                self._attacker.observe(batch[stream.source[rows]], answers.take(rows))
            if reached:
                self._measure(int(sent[own[reached.pop(0) - 1]]))
        self.useful += len(own)
        self.sent = int(sent[-1])

    def _measure(self, queries: int) -> None:
        try:
            clone = self._attacker.clone()
        except LabError:
            return
        self.curve.append(self._yardstick.measure(clone, queries))


def checkpoints(budget: int) -> list[int]:
    """``budget`` and its halves down to a hundred-and-twenty-eighth, but not below 10, ascending."""
    return sorted({max(10, budget >> halvings) for halvings in range(8)})
