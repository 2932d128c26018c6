"""One attack: rounds of queries through a disguise, their answers, and the clone's fidelity at checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.contracts.queries import OutputKind
from detector.lab.answers import Answers, Classifier, Victim
from detector.lab.attackers.attacker import Attacker
from detector.lab.fidelity import Fidelity, Yardstick
from detector.lab.query_log import THIEF, Mark
from detector.lab.wrappers.disguises import Disguise, SentQueries

Rows = NDArray[np.float32]
Array = NDArray[np.float64]


class Service(Protocol):
    """A victim that answers the queries of a session."""

    @property
    def output_kind(self) -> OutputKind:
        """The kind of its answers so far."""
        ...

    def answer(self, features: Rows, accounts: Sequence[str], at: Array, specifications: Rows | None = None) -> Answers:
        """Returns the answers to ``features`` (n, d), up to the first refusal.

        ``accounts`` (n,) send the queries, ``at`` seconds (n,) after the session began. ``specifications`` float32
        (n, 2) or None: what each requests of a model zoo, accuracy 0 to 1 and milliseconds.
        """
        ...

    def logged(self, features: Rows, answers: Answers) -> Array:
        """Returns the logged outputs of ``answers`` to ``features``: float64 (n, k), unrounded if known."""
        ...


class InProcess:
    """A victim in this process, which answers everything at once. ``progress`` is called with numbers of queries."""

    def __init__(self, victim: Victim, progress: Callable[[int], None] | None = None) -> None:
        self._victim = victim
        self._progress = progress or (lambda _: None)

    @property
    def output_kind(self) -> OutputKind:
        return self._victim.output_kind

    def answer(self, features: Rows, accounts: Sequence[str], at: Array, specifications: Rows | None = None) -> Answers:
        answers = self._victim.answer(features)
        self._progress(len(features))
        return answers

    def logged(self, features: Rows, answers: Answers) -> Array:
        return answers.probabilities if self.output_kind == "label" else self._victim.probabilities(features)


@runtime_checkable
class Specifying(Protocol):
    """An attacker that requests specifications of a model zoo."""

    def next_specifications(self) -> Rows:
        """Returns what to request with each row of the last ``next_batch``: (n, 2), as in ``Service.answer``."""
        ...


class Guard(Protocol):
    """Decides for a thief which queries are sent; see ``detector.lab.shadow``."""

    def passed(self, stream: SentQueries, new_clone: Callable[[], Classifier]) -> SentQueries:
        """Returns what is sent instead of ``stream``; no queries end the attack."""
        ...

    def observe(self, stream: SentQueries, answers: Answers) -> None:
        """Learns that ``stream`` got ``answers``."""
        ...


@dataclass(frozen=True, slots=True)
class AnsweredRound:
    """The m queries of ``stream``, all answered, and ``specifications`` float32 (m, 2) or None: as in ``Service``."""

    stream: SentQueries
    answers: Answers
    specifications: Rows | None


class AttackSession:
    """``attacker`` against ``service`` in ``disguise``, measured by ``yardstick`` at each of ``checkpoints``, which are
    numbers of answers that the thief has seen. ``guard``: what decides for the thief which queries are sent, or None;
    such a thief learns from the answers to cover too.

    ``rounds``: what was answered. ``sent``: the thief's queries, dummies included; ``useful``: those whose answers the
    thief saw. ``curve``: the clone's fidelity, by queries sent; without checkpoints at which there was no clone.
    """

    def __init__(
        self,
        attacker: Attacker,
        service: Service,
        disguise: Disguise,
        yardstick: Yardstick,
        checkpoints: Sequence[int],
        guard: Guard | None = None,
    ) -> None:
        self._attacker = attacker
        self._disguise = disguise
        self.service = service
        self._yardstick = yardstick
        self._checkpoints = list(checkpoints)
        self._guard = guard
        self.rounds: list[AnsweredRound] = []
        self.sent = self.useful = 0
        self.curve: list[Fidelity] = []

    @property
    def cover(self) -> Mark:
        """The true mark of the thief's cover queries."""
        return self._disguise.cover

    def run(self) -> None:
        """Runs until the budget is spent, a query of the thief is refused, or the guard passes none."""
        while len(batch := self._attacker.next_batch()) and len(stream := self._passed(batch)):
            wanted = self._specifications(stream)
            answers = self.service.answer(stream.features, self.accounts(stream), stream.at, wanted)
            answered = stream.take(slice(len(answers.probabilities)))
            if len(answered):
                self.rounds.append(
                    AnsweredRound(answered, answers, None if wanted is None else wanted[: len(answered)])
                )
                self._learn(answered, answers)
            if len(answered) < len(stream):
                break
        if self.useful and (not self.curve or self.curve[-1].queries < self.sent):
            self._measure(self.sent)

    def _passed(self, batch: Rows) -> SentQueries:
        stream = self._disguise.wrap(batch)
        return stream if self._guard is None else self._guard.passed(stream, self._attacker.clone)

    def accounts(self, stream: SentQueries) -> list[str]:
        """Returns the name of the account that sends each query of ``stream``."""
        if self._disguise.accounts == 1:
            return [THIEF] * len(stream)
        return [f"{THIEF}-{number}" for number in (stream.account + 1).tolist()]

    def _specifications(self, stream: SentQueries) -> Rows | None:
        """Returns what is requested with each query of ``stream``; a cover query requests the same as the query before
        it."""
        if not isinstance(self._attacker, Specifying):
            return None
        source: NDArray[np.int64] = np.maximum.accumulate(stream.source).clip(0)
        return self._attacker.next_specifications()[source]

    def _learn(self, stream: SentQueries, answers: Answers) -> None:
        """Shows the thief the answers up to each checkpoint in turn. Dummies count as sent, an honest user's work does
        not."""
        honest = stream.cover & (self.cover.label == "honest")
        learns = self._disguise.learns_from_cover or self._guard is not None
        useful = np.flatnonzero(~honest if learns else ~stream.cover)
        sent = self.sent + np.cumsum(~honest)
        passed = [at - self.useful for at in self._checkpoints if self.useful < at <= self.useful + len(useful)]
        for rows in np.split(useful, passed):
            if len(rows):
                self._attacker.observe(stream.features[rows], answers.take(rows))
            if passed:
                self._measure(int(sent[useful[passed.pop(0) - 1]]))
        self.useful += len(useful)
        self.sent = int(sent[-1])
        if self._guard is not None:
            self._guard.observe(stream, answers)

    def _measure(self, queries: int) -> None:
        try:
            clone = self._attacker.clone()
        except LabError:
            return
        self.curve.append(self._yardstick.measure(clone, queries))


def checkpoints(budget: int) -> list[int]:
    """Returns ``budget`` and its halves down to a hundred-and-twenty-eighth, but not below 10, ascending."""
    return sorted({max(10, budget >> halvings) for halvings in range(8)})
