"""Runs attacks that call the victim in threads of their own, where they wait for answers."""

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

    The attack runs in a thread, which never runs at the same time as the caller, and ends with the attack, with
    ``close`` and when the generator is freed. Raises LabError for any error of the attack.
    """
    thread, draws = _AttackThread(attack), _GlobalDraws(seed)
    try:
        with draws.active():
            thread.start()
            features = thread.wanted.get()
        while features is not None:
            answers = yield features
            with draws.active():
                thread.answered.put(answers)
                features = thread.wanted.get()
    finally:
        thread.answered.put(None)
        thread.join()
    if failure := thread.failure:
        raise LabError(f"the attack failed with {type(failure).__name__}: {failure}") from failure


def logits(answers: Answers) -> Array:
    """Returns the logs (n, k) of the probabilities, at least log 1e-12: logits up to a constant in each row."""
    return np.asarray(np.log(np.maximum(answers.probabilities, _LEAST)))


class _Dismissed(BaseException):
    """Ends an attack that gets no more answers. Not an Exception, because attacks may catch those and continue."""


class _AttackThread(Thread):
    """Runs ``attack``: puts its queries in ``wanted``, then None, and its error in ``failure``."""

    def __init__(self, attack: CallingAttack) -> None:
        super().__init__(name="calling attack", daemon=True)
        self._attack = attack
        self.wanted: SimpleQueue[Inputs | None] = SimpleQueue()
        self.answered: SimpleQueue[Answers | None] = SimpleQueue()
        """None ends the attack."""
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            self._attack(self._query)
        except _Dismissed:
            pass
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to the caller's thread
            self.failure = error
        finally:
            self.wanted.put(None)

    def _query(self, features: Inputs) -> Answers:
        self.wanted.put(features)
        answers = self.answered.get()
        if answers is None:
            self.answered.put(None)  # for an attack that queries again as it ends
            raise _Dismissed
        return answers


class _GlobalDraws:
    """The state of numpy's global generator as an attack left it, from ``seed`` on."""

    def __init__(self, seed: list[int]) -> None:
        self._state: Any = np.random.RandomState(seed).get_state()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Lets numpy draw from this state, and afterwards from its own again."""
        outside = np.random.get_state()  # noqa: NPY002  # what libraries draw from is not ours to choose
        np.random.set_state(self._state)  # noqa: NPY002
        try:
            yield
        finally:
            self._state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(outside)  # noqa: NPY002
