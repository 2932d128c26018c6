"""Honest accounts and a thief that query one model server at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Attacker, Knowledge
from detector.lab.attackers.augmentation import JacobianAugmentation
from detector.lab.attackers.path_finding import BottomUp
from detector.lab.client import Client, Tally
from detector.lab.data import Dataset
from detector.lab.population import THIEF, THIEF_HABIT, HonestAccount

THIEF_BUDGET = 6_400

_THIEF_PAUSE = 0.1
_THIEF_PATIENCE = 40
"""Refusals in a row after which the thief gives up. The thief ignores Retry-After."""

_HONEST_PAUSE_AFTER_REFUSAL = 1.0
_EXTENSION = 0.5


def jacobian_thief(split: Dataset, seed: int, budget: int = THIEF_BUDGET) -> JacobianAugmentation:
    """Returns the thief of the demo: 100 natural images, step 0.1, six rounds unless ``budget`` ends them."""
    return JacobianAugmentation(Knowledge.of(split), budget, seed)


def path_finding_thief(dataset: Dataset, seed: int, budget: int = THIEF_BUDGET) -> BottomUp:
    """Returns the thief of the demo's tree, who goes from leaf to leaf until all are known."""
    return BottomUp(Knowledge.of(dataset), budget, seed)


def connections() -> httpx.AsyncClient:
    """Returns a client with enough keep-alive connections for all accounts."""
    return httpx.AsyncClient(timeout=10.0, limits=httpx.Limits(max_connections=None, max_keepalive_connections=None))


class Traffic:
    """The clients of all accounts. ``tempo`` stretches all pauses: 2 is half the speed.

    ``tallies`` by account is always up to date; read it from the event loop that runs the traffic.
    """

    def __init__(self, url: str, dataset: Dataset, *, accounts: Sequence[HonestAccount], seed: int, tempo: float):
        self._url = url
        self._held = dataset.honest
        self._accounts = accounts
        self._seed = seed
        self._tempo = tempo
        self._finished = asyncio.Event()
        self._thief_done = asyncio.Event()
        self.tallies = {a.name: Tally(a.name, a.habit.name) for a in accounts}

    async def run(
        self, http: httpx.AsyncClient, seconds: float, thief: Attacker | None = None, thief_queries: int = 0
    ) -> None:
        """Sends for ``seconds`` and waits for the last answers.

        On a slow machine, up to half as long again: until the thief has sent ``thief_queries`` or given up.
        """
        async with asyncio.TaskGroup() as group:
            for account in self._accounts:
                group.create_task(self._honest(Client(http, self._url, self.tallies[account.name]), account))
            if thief is not None:
                self.tallies[THIEF] = Tally(THIEF, THIEF_HABIT)
                group.create_task(self._steal(Client(http, self._url, self.tallies[THIEF]), thief, thief_queries))
            await asyncio.sleep(seconds)
            if thief is not None:
                await _happened(self._thief_done, _EXTENSION * seconds)
            self._finished.set()

    async def _honest(self, client: Client, account: HonestAccount) -> None:
        rng = np.random.default_rng([self._seed, 2, account.number])
        for ask in account.habit.behaviour(self._held, rng):
            if not await self._pause(ask.pause):
                return
            if await client.ask(ask.rows) is None:
                await self._pause(_HONEST_PAUSE_AFTER_REFUSAL)

    async def _steal(self, client: Client, thief: Attacker, enough: int) -> None:
        """Runs rounds; done after ``enough`` queries, or when the thief gives up."""
        try:
            while len(batch := await asyncio.to_thread(thief.next_batch)):
                for query in np.split(batch, len(batch)):
                    answer = await self._insist(client, query)
                    if answer is None:
                        return
                    thief.observe(query, answer)
                    if client.tally.sent >= enough:
                        self._thief_done.set()
        finally:
            self._thief_done.set()

    async def _insist(self, client: Client, query: NDArray[np.float32]) -> Answers | None:
        """Returns the answer to ``query``, retried until the thief's patience ends; None then, or when time is up."""
        for _ in range(_THIEF_PATIENCE):
            if not await self._pause(_THIEF_PAUSE):
                return None
            answer = await client.ask(query)
            if answer is not None:
                return answer
        return None

    async def _pause(self, seconds: float) -> bool:
        """Waits, and returns whether there is time for one more query."""
        return not await _happened(self._finished, seconds * self._tempo)


async def _happened(event: asyncio.Event, seconds: float) -> bool:
    """Waits for ``event``, at most ``seconds``. Returns whether it happened."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
