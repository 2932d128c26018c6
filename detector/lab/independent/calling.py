"""Attacks that call the victim, turned inside out: each runs in a thread of its own, and waits there for answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

from detector.contracts.errors import LabError
from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Inputs, Questions
from detector.lab.networks import Array

QueryVictim = Callable[[Inputs], Answers]
"""Inputs (n, d), n at least 1 -> the answers to all of them."""

CallingAttack = Callable[[QueryVictim], None]
"""A complete attack, which queries as it runs. It must not hold a reference to its caller, or neither is ever freed."""

_LEAST = 1e-12


def questions_of(attack: CallingAttack, seed: list[int]) -> Questions:
    """Yields the queries of ``attack``, whose draws from numpy's global generator follow from ``seed``.

    The thread never runs at the same time as the caller, and ends with the attack, with ``close`` and when the
    generator is freed. Raises LabError for any error of the attack.
    """
    worker, draws = _Worker(attack), _GlobalDraws(seed)
    try:
        with draws.within():
            features = worker.start()
        while features is not None:
            answers = yield features
            with draws.within():
                features = worker.resume(answers)
    finally:
        worker.dismiss()
    if worker.failure is not None:
        kind = type(worker.failure).__name__
        raise LabError(f"the attack failed with {kind}: {worker.failure}") from worker.failure


def logits(answers: Answers) -> Array:
    """Returns the logs (n, k) of the probabilities, at least log 1e-12: logits up to a constant in each row."""
    return np.asarray(np.log(np.maximum(answers.probabilities, _LEAST)))


class _Dismissed(BaseException):
    """Ends an attack that gets no more answers. No Exception: attacks may catch those and go on."""


class _Worker:
    """Runs ``attack`` from one question to the next. ``failure``: what it raised."""

    def __init__(self, attack: CallingAttack) -> None:
        self._attack = attack
        self._asked: SimpleQueue[Inputs | None] = SimpleQueue()
        self._answered: SimpleQueue[Answers | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="calling attack", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> Inputs | None:
        """The first question, None if there is none."""
        self._thread.start()
        return self._asked.get()

    def resume(self, answers: Answers) -> Inputs | None:
        """The question after the one with these ``answers``, None after the last."""
        self._answered.put(answers)
        return self._asked.get()

    def dismiss(self) -> None:
        """Returns when the thread has ended."""
        self._answered.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._attack(self._ask)
        except _Dismissed:
            pass
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to the caller's thread
            self.failure = error
        finally:
            self._asked.put(None)

    def _ask(self, features: Inputs) -> Answers:
        self._asked.put(features)
        answers = self._answered.get()
        if answers is None:
            self._answered.put(None)  # for an attack that asks again as it ends
            raise _Dismissed
        return answers


class _GlobalDraws:
    """numpy's global generator as an attack left it, from ``seed`` on."""

    def __init__(self, seed: list[int]) -> None:
        self._state: Any = np.random.RandomState(seed).get_state()

    @contextmanager
    def within(self) -> Iterator[None]:
        """It stands there, and afterwards as it was before."""
        outside = _swapped(self._state)
        try:
            yield
        finally:
            self._state = _swapped(outside)


def _swapped(state: Any) -> Any:
    before = np.random.get_state()  # noqa: NPY002  # what libraries draw from is not ours to choose
    np.random.set_state(state)  # noqa: NPY002
    return before
