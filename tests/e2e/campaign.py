"""A thief against a guarded server: the number of answers until the first refusal, and those that the detector accounts
for."""

from __future__ import annotations

import json
import random
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import numpy as np
from numpy.typing import NDArray

from detector.core.calibration.calibrate import calibrate
from detector.replay.topics import read_scores
from detector.serving import Identity
from detector.serving.identity import AMBIGUOUS
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
    """``answers``: rows answered until the thief was first turned away; None where that never came. ``answered``: rows
    answered in all. ``accounted``: those that the detector has of the thief's principals, and ``unjudged`` among them.
    """

    answers: int | None
    answered: int
    accounted: int
    unjudged: int


def environment(folder: Path) -> dict[str, str]:
    """The worker's: judged by a profile of honest accounts, which is written to ``folder``; refused soon after a
    verdict."""
    profile = folder / "credit.profile"
    profile.write_bytes(calibrate(crowd(), 0.01).profile.to_bytes())
    return {
        "WEIRGUARD_DETECTION__PROFILES": json.dumps([str(profile)]),
        "WEIRGUARD_POLICY__REFUSE_AFTER_QUERIES": "10",
    }


class Thief:
    """One account with one ``evasion``; the same seed gives the same queries."""

    def __init__(self, evasion: Evasion, seed: int = 5) -> None:
        self.token = f"token-of-{evasion.__name__}-{seed}"
        self._evasion = evasion
        self._dice = random.Random(seed)
        self._features = thief(rows=MOST_REQUESTS, seed=seed).features.tolist()

    @property
    def principals(self) -> list[str]:
        """The account of the token, and what a request with other credentials beside it counts under."""
        return [Identity().principal({"authorization": f"Bearer {self.token}"}), AMBIGUOUS]

    def steal(self, service: Service, serving: Serving) -> Outcome:
        """Queries until refused permanently or out of queries."""
        start, before = answered_rows(service), self._account(service)
        answers, answered, away = None, 0, 0
        with httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0)) as client:
            for number, features in enumerate(self._features):
                asked = Asked([features], headers={"Authorization": f"Bearer {self.token}"})
                self._evasion(asked, self._dice, number)
                rows = ask(client, serving.port, asked)
                answered += rows
                away = 0 if rows else away + 1
                if away == 1 and answers is None:
                    answers = answered
                if away == _TURNED_AWAY_IN_A_ROW:
                    break
                if number % _AT_ONCE == 0:
                    _wait(partial(_has, service, start + answered))
        _wait(partial(_has, service, start + answered))
        _wait(lambda: self._account(service)[0] - before[0] >= answered)
        accounted, unjudged = (now - then for now, then in zip(self._account(service), before, strict=True))
        return Outcome(answers, answered, accounted, unjudged)

    def _account(self, service: Service) -> tuple[int, int]:
        """Answered and unjudged queries of the thief's principals."""
        scores = read_scores(service.kafka)
        own = [scores[MODEL, name] for name in self.principals if (MODEL, name) in scores]
        return sum(score.answered or 0 for score in own), sum(sum(score.unjudged.values()) for score in own)


def ask_honestly(serving: Serving, token: str, features: NDArray[np.float32]) -> int:
    """One request a row; how many were answered."""
    with httpx.Client(timeout=30) as client:
        headers = {"Authorization": f"Bearer {token}"}
        return sum(ask(client, serving.port, Asked([row], headers=headers)) for row in features.tolist())


def _has(service: Service, rows: int) -> bool:
    return answered_rows(service) >= rows


def answered_rows(service: Service) -> int:
    """How many answered rows the worker has accounted for."""
    with urllib.request.urlopen(f"{service.worker.url}/metrics", timeout=5) as page:
        lines = page.read().decode().splitlines()
    answered = [line for line in lines if line.startswith("weirguard_queries_answered_total")]
    return sum(int(float(line.rpartition(" ")[2])) for line in answered)


def _wait(condition: Callable[[], bool]) -> None:
    """Until ``condition``, or as long as is patient: what is missing then shows in the outcome."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
