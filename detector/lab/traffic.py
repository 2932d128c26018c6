"""Honest accounts and a thief that query one model server at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import httpx
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.markup import escape
from rich.table import Table

from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Attacker, Knowledge
from detector.lab.attackers.augmentation import JacobianAugmentation
from detector.lab.attackers.path_finding import BottomUp
from detector.lab.data import Dataset
from detector.lab.honest import HABITS, take_turns
from detector.lab.honest.habit import Habit
from detector.lab.mappings import KServeV1
from detector.lab.query_log import THIEF
from detector.runtime.text import printable

THIEF_HABIT = "thief"

_MIX = (
    "steady", "bursts", "retries", "bulk", "scanner", "shift", "rotation", "one class", "drawing", "light",
    "steady", "blur", "contrast", "several views", "health check", "short what-if",
)  # fmt: skip
"""Habits of the accounts, in order; they repeat."""


@dataclass(frozen=True, slots=True)
class HonestAccount:
    """``number`` seeds the account's own generator, together with the seed of the run."""

    name: str
    habit: Habit
    number: int


def honest_accounts(accounts: int) -> list[HonestAccount]:
    """Returns ``accounts`` honest users, none with a habit that is a known false alarm."""
    return accounts_with([HABITS[name] for name in _MIX], accounts)


def accounts_with(habits: Sequence[Habit], accounts: int) -> list[HonestAccount]:
    """Returns ``accounts`` honest users, whose ``habits`` take turns, named by habit and number."""
    return [HonestAccount(name, habit, number) for number, (name, habit) in enumerate(take_turns(habits, accounts))]


def known_false_alarms() -> list[Habit]:
    """Returns the honest habits that ``prada`` alone, at its defaults, mistakes for theft."""
    return [habit for habit in HABITS.values() if habit.false_alarm]


@dataclass(frozen=True, slots=True)
class Theft:
    """``thief`` sends queries from each of ``accounts`` in turn, and is done after ``enough`` queries."""

    thief: Attacker
    enough: int
    accounts: tuple[str, ...] = (THIEF,)


@dataclass(slots=True)
class Tally:
    """The outcome of one account's queries (rows, not requests).

    ``sent`` = answered + refused + failed when no request is open. ``answered_at``: wall-clock seconds of each answered
    query, and ``leaves`` those of its tree, where the server returns them; ``refusals``: (query number from 1,
    wall-clock seconds) of each refused request.
    """

    account: str
    habit: str
    sent: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    last_failure: str = ""
    answered_at: list[float] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    refusals: list[tuple[int, float]] = field(default_factory=list)


class Client:
    """Sends the queries of one account to ``url`` as KServe v1, and tallies them."""

    def __init__(self, http: httpx.AsyncClient, url: str, tally: Tally) -> None:
        self._http = http
        self._url = url
        self._mapping = KServeV1()
        self.tally = tally

    async def ask(self, rows: NDArray[np.float32]) -> Answers | None:
        """Returns the answers to ``rows`` (n, d), or None when they were refused or the request failed."""
        tally, mapping = self.tally, self._mapping
        body, headers = mapping.body(rows, tally.account), mapping.headers(tally.account)
        tally.sent += len(rows)
        try:
            response = await self._http.post(self._url, json=body, headers=headers)
        except httpx.HTTPError as error:
            self._failed(len(rows), f"{type(error).__name__}: {error}")
            return None
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            tally.refused += len(rows)
            tally.refusals.append((tally.sent, time.time()))
            return None
        if response.status_code != httpx.codes.OK:
            self._failed(len(rows), f"HTTP {response.status_code}: {response.text[:200]}")
            return None
        tally.answered += len(rows)
        tally.answered_at.extend([time.time()] * len(rows))
        answers = mapping.reply(response.json(), len(rows))
        tally.leaves.extend([] if answers.leaf is None else answers.leaf.tolist())
        return answers

    def _failed(self, rows: int, why: str) -> None:
        self.tally.failed += rows
        self.tally.last_failure = why


THIEF_BUDGET = 6_400
RING = tuple(f"ring-{number}" for number in range(1, 11))
"""Accounts that share one theft."""

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


class TrafficGenerator:
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
        self.tallies = {a.name: Tally(a.name, a.habit.name) for a in accounts}

    async def run(self, http: httpx.AsyncClient, seconds: float, *thefts: Theft) -> None:
        """Sends for ``seconds`` and waits for the last answers. Each of ``thefts`` begins when the one before is done.

        On a slow machine, up to half as long again: until the thieves have sent enough queries or given up.
        """
        done = [asyncio.Event() for _ in thefts]
        async with asyncio.TaskGroup() as group:
            for account in self._accounts:
                group.create_task(self._honest(Client(http, self._url, self.tallies[account.name]), account))
            for at, theft in enumerate(thefts):
                self.tallies |= {name: Tally(name, THIEF_HABIT) for name in theft.accounts}
                group.create_task(self._run_theft(http, theft, done[at - 1] if at else None, done[at]))
            await asyncio.sleep(seconds)
            late = asyncio.get_running_loop().time() + _EXTENSION * seconds
            for task in done:
                await _is_set_within(task, max(late - asyncio.get_running_loop().time(), 0.0))
            self._finished.set()

    async def _honest(self, client: Client, account: HonestAccount) -> None:
        rng = np.random.default_rng([self._seed, 2, account.number])
        for ask in account.habit.behaviour(self._held, rng):
            if not await self._pause(ask.pause):
                return
            if await client.ask(ask.rows) is None:
                await self._pause(_HONEST_PAUSE_AFTER_REFUSAL)

    async def _run_theft(
        self, http: httpx.AsyncClient, theft: Theft, before: asyncio.Event | None, done: asyncio.Event
    ) -> None:
        """Runs rounds once ``before`` has happened; ``done`` after enough queries, or when the thief gives up."""
        tallies = [self.tallies[name] for name in theft.accounts]
        clients, thief = cycle([Client(http, self._url, tally) for tally in tallies]), theft.thief
        try:
            if before is not None:
                await before.wait()
            while len(batch := await asyncio.to_thread(thief.next_batch)):
                for query in np.split(batch, len(batch)):
                    answer = await self._query_until_answered(clients, query)
                    if answer is None:
                        return
                    thief.observe(query, answer)
                    if sum(tally.sent for tally in tallies) >= theft.enough:
                        done.set()
        finally:
            done.set()

    async def _query_until_answered(self, clients: Iterator[Client], query: NDArray[np.float32]) -> Answers | None:
        """Returns the answer to ``query``, retried with the next of ``clients``; None after too many refusals, or when
        time is up."""
        for _ in range(_THIEF_PATIENCE):
            if not await self._pause(_THIEF_PAUSE):
                return None
            answer = await next(clients).ask(query)
            if answer is not None:
                return answer
        return None

    async def _pause(self, seconds: float) -> bool:
        """Waits, and returns whether there is time for one more query."""
        return not await _is_set_within(self._finished, seconds * self._tempo)


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for ``event``, at most ``seconds``. Returns whether it happened."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def account_table(tallies: Iterable[Tally]) -> Table:
    """Returns one line per account: queries sent, answered, refused and failed, and the last failure."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("account", no_wrap=True)
    table.add_column("habit", no_wrap=True)
    for name in ("sent", "answered", "turned away", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last failure", overflow="fold")
    for tally in tallies:
        counts = (tally.sent, tally.answered, tally.refused, tally.failed)
        table.add_row(
            tally.account, tally.habit, *(f"{count:,}" for count in counts), escape(printable(tally.last_failure))
        )
    return table
