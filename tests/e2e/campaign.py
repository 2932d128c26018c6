"""A thief at work against a guarded server: how many answers until they are turned away, and what the detector has of it."""

from __future__ import annotations

import json
import random
import time
import urllib.request
from dataclasses import dataclass

import httpx
import numpy as np

from detector.cli.records import read_scores
from detector.contracts.findings import Score
from detector.core.calibration.calibrate import calibrate
from detector.serving import Identity
from tests.core.honest import crowd, thief
from tests.e2e.evasions import Asked, Evasion, ask
from tests.e2e.lenient_server import MODEL, Serving
from tests.e2e.service import Service

MOST_REQUESTS = 400
_TURNED_AWAY_IN_A_ROW = 10
_AT_ONCE = 5
"""Requests between two looks at what the detector has: so a count of answers is not one of milliseconds."""

_PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """``answers``: rows answered until the thief was first turned away; None where that never came.
    ``answered``: rows answered in all. ``account``: what the detector has of the principal."""

    answers: int | None
    answered: int
    account: Score | None

    @property
    def unaccounted(self) -> int:
        """Answered rows that the detector does not know of."""
        return self.answered - (self.account.answered if self.account else 0)


def profile_file(folder: str) -> str:
    """A profile of honest accounts of the lenient server's model; its path."""
    path = f"{folder}/credit.profile"
    with open(path, "wb") as file:
        file.write(calibrate(crowd(), 0.01, np.random.default_rng(0)).profile.to_bytes())
    return path


def settings_of(profile: str) -> dict[str, str]:
    """The worker's environment: judged by ``profile``, refused soon after a verdict."""
    return {
        "WEIRGUARD_DETECTION__PROFILES": json.dumps([profile]),
        "WEIRGUARD_POLICY__REFUSE_AFTER_QUERIES": "10",
    }


class Thief:
    """One account with one ``evasion``. ``before``: rows that others had answered by this server."""

    def __init__(self, evasion: Evasion, seed: int = 5) -> None:
        self.token = f"token-of-{evasion.__name__}-{seed}"
        self._evasion = evasion
        self._dice = random.Random(seed)
        self._features = thief(rows=MOST_REQUESTS, seed=seed).features.tolist()

    @property
    def principal(self) -> str:
        return Identity().principal({"authorization": f"Bearer {self.token}"})

    def steal(self, service: Service, serving: Serving) -> Outcome:
        """Ask until turned away for good or out of questions."""
        answers, answered, away = None, 0, 0
        start = answered_rows(service)
        with httpx.Client(timeout=30) as client:
            for number, features in enumerate(self._features):
                asked = Asked([features], headers={"Authorization": f"Bearer {self.token}"})
                self._evasion(asked, self._dice, number)
                answer = ask(client, serving.port, asked)
                answered += answer.rows
                away = 0 if answer.rows else away + 1
                if away == 1 and answers is None:
                    answers = answered
                if away == _TURNED_AWAY_IN_A_ROW:
                    break
                if number % _AT_ONCE == 0:
                    _wait(lambda: answered_rows(service) - start >= answered)
        _wait(lambda: answered_rows(service) - start >= answered)
        account = _wait_for_score(service, self.principal, answered)
        return Outcome(answers, answered, account)


def answered_rows(service: Service) -> int:
    """How many answered rows the worker has accounted for."""
    with urllib.request.urlopen(f"{service.worker.url}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith("weirguard_queries_answered_total"))


def _wait(condition: object, seconds: float = _PATIENCE_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _wait_for_score(service: Service, principal: str, answered: int) -> Score | None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        score = read_scores(service.kafka).get((MODEL, principal))
        if (score is not None and score.answered >= answered) or time.monotonic() > deadline:
            return score
        time.sleep(0.5)
