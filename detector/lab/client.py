"""One account talking HTTP to a model server: POST {"instances": [[...]]}, the account in X-Account."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import httpx
import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers

ACCOUNT_HEADER = "X-Account"
TOO_MANY_REQUESTS = 429


@dataclass(slots=True)
class Tally:
    """What happened to one account's queries (rows, not requests).

    ``sent`` = answered + refused + failed once nothing is under way. ``answered_at``: wall-clock seconds of
    each answered query; ``refusals``: (query number from 1, wall-clock seconds) of each request that was
    turned away.
    """

    account: str
    habit: str
    sent: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    last_failure: str = ""
    answered_at: list[float] = field(default_factory=list)
    refusals: list[tuple[int, float]] = field(default_factory=list)


class Client:
    """``ask`` on behalf of one account, everything that comes of it tallied."""

    def __init__(self, http: httpx.AsyncClient, url: str, tally: Tally) -> None:
        self._http = http
        self._url = url
        self.tally = tally

    async def ask(self, rows: NDArray[np.float32]) -> Answers | None:
        """Answers to ``rows`` (n, d), or None when they were refused or the request failed."""
        tally = self.tally
        tally.sent += len(rows)
        try:
            response = await self._http.post(
                self._url, json={"instances": rows.tolist()}, headers={ACCOUNT_HEADER: tally.account}
            )
        except httpx.HTTPError as error:
            self._failed(len(rows), f"{type(error).__name__}: {error}")
            return None
        if response.status_code == TOO_MANY_REQUESTS:
            tally.refused += len(rows)
            tally.refusals.append((tally.sent, time.time()))
            return None
        if response.status_code != httpx.codes.OK:
            self._failed(len(rows), f"HTTP {response.status_code}: {response.text[:200]}")
            return None
        tally.answered += len(rows)
        tally.answered_at.extend([time.time()] * len(rows))
        said = response.json()
        leaf = np.array(said["leaf"], np.int64) if "leaf" in said else None
        return Answers(np.array(said["predictions"], np.float64), leaf)

    def _failed(self, rows: int, why: str) -> None:
        self.tally.failed += rows
        self.tally.last_failure = why
