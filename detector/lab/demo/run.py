"""Starts everything, lets it run, looks on, and says what came of it."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from rich.console import Console

from detector.contracts.errors import WeirguardError
from detector.lab.attackers.attacker import Attacker, run_offline
from detector.lab.client import Tally
from detector.lab.data import Dataset
from detector.lab.demo.board import Board
from detector.lab.demo.options import DemoOptions
from detector.lab.demo.outcome import PROMISED_QUERY, HonestOutcome, Outcome, ThiefOutcome
from detector.lab.demo.screen import Screen, screen_for
from detector.lab.demo.stage import Stage, set_stage
from detector.lab.demo.view import Moment
from detector.lab.demo.watch import GateWatch
from detector.lab.fidelity import Fidelity, Yardstick
from detector.lab.population import THIEF, honest_accounts
from detector.lab.traffic import Traffic, connections, jacobian_thief
from detector.lab.victims.digits import DigitsVictim, load_split

_FRAME_SECONDS = 0.5
_RATE_FRAMES = 10
_SETTLE_SECONDS = 2.0
"""How long to look on after the last answer, for the last scores and decisions."""


def run_demo(options: DemoOptions, console: Console | None = None) -> Outcome:
    """Runs the demo to its end and returns what came of it, whether as promised or not.

    Shows a live view on ``console`` when that is a terminal, else plain lines. Raises WeirguardError when a part
    cannot start or dies on the way, with the end of its log. Whatever happens, no child process is left.
    """
    console = console or Console()
    console.print("Starting the embedded broker, one detector worker and a model server ...", style="dim")
    split = load_split()
    with set_stage(options.mode) as stage:
        performance = _Performance(options, split, stage)
        seconds = asyncio.run(performance.play(screen_for(console)))
        watch = stage.watch
    return performance.outcome(seconds, watch, DigitsVictim(split.training))


class _Performance:
    """One run of the traffic, looked at while it lasts."""

    def __init__(self, options: DemoOptions, split: Dataset, stage: Stage) -> None:
        self._options = options
        self._split = split
        self._stage = stage
        self._board = Board()
        self._sent: deque[tuple[float, int]] = deque(maxlen=_RATE_FRAMES)
        self._started_at = time.time()
        self._traffic = Traffic(
            stage.url, split, accounts=honest_accounts(options.accounts), seed=options.seed, tempo=options.tempo
        )
        self._thief = jacobian_thief(split, options.seed)

    async def play(self, screen: Screen) -> float:
        """Lets the traffic run; the seconds it took."""
        self._started_at = time.time()
        traffic = asyncio.create_task(self._send())
        try:
            with screen:
                while not traffic.done():
                    await self._look(screen)
                seconds = time.time() - self._started_at
                for _ in range(int(_SETTLE_SECONDS / _FRAME_SECONDS)):
                    await self._look(screen)
        finally:
            traffic.cancel()
        await traffic
        return seconds

    async def _send(self) -> None:
        async with connections() as http:
            await self._traffic.run(http, self._options.seconds, self._thief, PROMISED_QUERY)

    async def _look(self, screen: Screen) -> None:
        await asyncio.sleep(_FRAME_SECONDS)
        self._stage.check()
        events = [self._board.absorb(seen) for seen in self._stage.observer.drain()]
        screen.show(self._moment(), [event for event in events if event is not None])

    def _moment(self) -> Moment:
        tallies, now = self._traffic.tallies, time.time()
        self._sent.append((now, sum(tally.sent for tally in tallies.values())))
        (before, sent_before), (_, sent) = self._sent[0], self._sent[-1]
        return Moment(
            mode=self._options.mode,
            started_at=self._started_at,
            now=now,
            seconds=self._options.seconds,
            tallies=tallies,
            board=self._board,
            per_second=(sent - sent_before) / max(now - before, _FRAME_SECONDS),
        )

    def outcome(self, seconds: float, watch: GateWatch, victim: DigitsVictim) -> Outcome:
        """What came of it. The thief's other life, without Weirguard, is lived here and now."""
        tallies = self._traffic.tallies
        return Outcome(
            mode=self._options.mode,
            seconds=seconds,
            queries=sum(tally.sent for tally in tallies.values()),
            failed=sum(tally.failed for tally in tallies.values()),
            thief=self._thief_outcome(tallies[THIEF], watch, victim),
            honest=tuple(self._honest_outcome(tally) for name, tally in tallies.items() if name != THIEF),
        )

    def _thief_outcome(self, tally: Tally, watch: GateWatch, victim: DigitsVictim) -> ThiefOutcome:
        if not tally.answered:
            raise WeirguardError(f"the thief got no answer at all from the model server: {tally.last_failure}")
        unhindered = jacobian_thief(self._split, self._options.seed)
        budget = run_offline(unhindered, victim)
        alert = self._board.alerts.get(THIEF)
        return ThiefOutcome(
            sent=tally.sent,
            answered=tally.answered,
            flagged_at=None if alert is None else alert.query_index + 1,
            slowed_at=_first_refusal(tally, 0.0),
            refused_at=None if watch.refused_at is None else _first_refusal(tally, watch.refused_at),
            latency_seconds=_latency(tally, watch, None if alert is None else alert.query_index),
            hindered=self._fidelity(victim, self._thief, tally.answered),
            unhindered=self._fidelity(victim, unhindered, budget),
        )

    def _fidelity(self, victim: DigitsVictim, thief: Attacker, queries: int) -> Fidelity:
        return Yardstick.of(victim, self._split, self._options.seed).measure(thief.clone(), queries)

    def _honest_outcome(self, tally: Tally) -> HonestOutcome:
        return HonestOutcome(
            account=tally.account,
            habit=tally.habit,
            answered=tally.answered,
            refused=tally.refused,
            flagged=tally.account in self._board.alerts,
            least_statistic=self._board.least.get(tally.account),
        )


def _first_refusal(tally: Tally, since: float) -> int | None:
    """The number of the first query that was turned away at wall-clock second ``since`` or later."""
    return next((number for number, at in tally.refusals if at >= since), None)


def _latency(tally: Tally, watch: GateWatch, query_index: int | None) -> float | None:
    if watch.obeyed_at is None or query_index is None or query_index >= len(tally.answered_at):
        return None
    return watch.obeyed_at - tally.answered_at[query_index]
