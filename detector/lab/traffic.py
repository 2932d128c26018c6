"""Honest accounts and a thief at work on one model server, all at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import numpy as np

from detector.lab.attackers.attacker import Attacker
from detector.lab.attackers.jbda import JacobianAugmentation
from detector.lab.client import Client, Tally
from detector.lab.population import THIEF, THIEF_HABIT, HonestAccount
from detector.lab.victims.digits import CLASSES, DigitsSplit, Images

THIEF_SEEDS = 100
THIEF_STEP = 0.1
THIEF_BUDGET = 6_400

_THIEF_PAUSE = 0.1
_THIEF_PATIENCE = 40
"""Refusals in a row after which the thief gives up. He does not heed Retry-After."""

_HONEST_PAUSE_AFTER_REFUSAL = 1.0


def jacobian_thief(split: DigitsSplit, seed: int) -> JacobianAugmentation:
    """The thief of the demo: 100 natural images of his own, step 0.1, six rounds."""
    order = np.random.default_rng([seed, 1]).permutation(len(split.thief))
    seeds = split.thief.pixels[order[:THIEF_SEEDS]]
    return JacobianAugmentation(seeds, CLASSES, budget=THIEF_BUDGET, step=THIEF_STEP, seed=seed)


class Traffic:
    """Everybody's clients. ``tempo`` stretches all pauses: 2 is half the speed.

    ``tallies`` by account is always up to date; read it from the event loop that runs the traffic.
    """

    def __init__(self, url: str, split: DigitsSplit, *, accounts: Sequence[HonestAccount], seed: int, tempo: float):
        self._url = url
        self._split = split
        self._accounts = accounts
        self._seed = seed
        self._tempo = tempo
        self.tallies = {a.name: Tally(a.name, a.habit.name) for a in accounts}

    async def run(self, seconds: float, thief: Attacker | None = None) -> None:
        """Sends until ``seconds`` have passed, or for good reason less; then waits for the last answers."""
        if thief is not None:
            self.tallies[THIEF] = Tally(THIEF, THIEF_HABIT)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(timeout=10.0, limits=limits) as http:
            stop = asyncio.get_running_loop().time() + seconds
            async with asyncio.TaskGroup() as group:
                for account in self._accounts:
                    group.create_task(self._honest(http, account, self._split.honest, stop))
                if thief is not None:
                    group.create_task(self._steal(http, thief, stop))

    async def _honest(self, http: httpx.AsyncClient, account: HonestAccount, images: Images, stop: float) -> None:
        client = Client(http, self._url, self.tallies[account.name])
        rng = np.random.default_rng([self._seed, 2, account.number])
        for ask in account.habit.behaviour(images, rng):
            if not await self._pause(ask.pause, stop):
                return
            if await client.ask(ask.rows) is None:
                await self._pause(_HONEST_PAUSE_AFTER_REFUSAL, stop)

    async def _steal(self, http: httpx.AsyncClient, thief: Attacker, stop: float) -> None:
        """Query after query at an even pace; a refused one is tried again until his patience is gone."""
        client = Client(http, self._url, self.tallies[THIEF])
        refusals = 0
        while len(batch := await asyncio.to_thread(thief.next_batch)):
            for row in range(len(batch)):
                query = batch[row : row + 1]
                while (answer := await client.ask(query)) is None:
                    refusals += 1
                    if refusals >= _THIEF_PATIENCE or not await self._pause(_THIEF_PAUSE, stop):
                        return
                refusals = 0
                thief.observe(query, answer)
                if not await self._pause(_THIEF_PAUSE, stop):
                    return

    async def _pause(self, seconds: float, stop: float) -> bool:
        """Waits, and says whether there is time for one more query."""
        left = stop - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(seconds * self._tempo, left)))
        return asyncio.get_running_loop().time() < stop
