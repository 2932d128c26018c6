"""Starts all parts of the demo, runs it, and returns the outcome."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

import httpx
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from detector.contracts.errors import WeirguardError
from detector.contracts.findings import Alert
from detector.core.profile.profile import Profile
from detector.lab.answers import Answers, Classifier, Victim
from detector.lab.attackers.attacker import Attacker, run_offline
from detector.lab.demo.board import Board
from detector.lab.demo.report import HonestOutcome, Leaves, ModelOutcome, Outcome, ThiefOutcome
from detector.lab.demo.script import CALIBRATION_ACCOUNTS, DemoOptions, ReadModel, Script, profile_of_tumours, scripts
from detector.lab.demo.stage import GateWatch, Stage, set_stage
from detector.lab.demo.view import DemoState, Scene, Screen, screen_for
from detector.lab.fidelity import Fidelity, Yardstick
from detector.lab.query_log import THIEF
from detector.lab.traffic import Tally, TrafficGenerator, connections


class Diary:
    """Wraps ``thief`` and records the leaf of each answered query, where the server returns it."""

    def __init__(self, thief: Attacker) -> None:
        self._thief = thief
        self._leaves: list[int] = []

    def next_batch(self) -> NDArray[np.float32]:
        return self._thief.next_batch()

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        if answers.leaf is not None:
            self._leaves += answers.leaf.tolist()
        self._thief.observe(features, answers)

    def clone(self) -> Classifier:
        return self._thief.clone()

    def leaves(self, queries: int | None = None) -> int:
        """Returns how many distinct leaves the first ``queries`` answers showed; by default, all answers."""
        return len(set(self._leaves[:queries]))


class Act:
    """Runs ``script`` on ``stage``. ``board``: what the detector has published so far."""

    def __init__(self, script: Script, stage: Stage, options: DemoOptions) -> None:
        self.model = script.model
        self.board = Board(script.promise.signal)
        self._script = script
        self._seed = options.seed
        self._watch = stage.watches[script.model]
        self._traffic = TrafficGenerator(
            stage.url + script.path, script.dataset, accounts=script.accounts, seed=options.seed, tempo=options.tempo
        )
        self._thief = Diary(script.thief())

    @property
    def tallies(self) -> dict[str, Tally]:
        return self._traffic.tallies

    @property
    def scene(self) -> Scene:
        return Scene(self.model, self.tallies, self.board)

    async def play(self, http: httpx.AsyncClient, seconds: float) -> None:
        await self._traffic.run(http, seconds, self._thief, self._script.promise.query)

    def outcome(self) -> ModelOutcome:
        """Returns the outcome. Runs the same thief again, offline and unhindered, to compare clones."""
        honest = [self._honest_outcome(tally) for name, tally in self.tallies.items() if name != THIEF]
        thief = self._thief_outcome(self.tallies[THIEF], self.board.alerts.get(THIEF))
        return ModelOutcome(self.model, self._script.theft, self._script.promise, thief, tuple(honest))

    def _thief_outcome(self, tally: Tally, alert: Alert | None) -> ThiefOutcome:
        if not tally.answered:
            raise WeirguardError(f"the thief got no answer at all from the model server: {tally.last_failure}")
        victim, unhindered = self._script.victim(), Diary(self._script.thief())
        budget = run_offline(unhindered, victim)
        yardstick = Yardstick.of(victim, self._script.dataset, self._seed)
        refused_at = self._watch.refused_at
        return ThiefOutcome(
            sent=tally.sent,
            answered=tally.answered,
            alert=alert,
            slowed_at=_first_refusal(tally, 0.0),
            refused_at=None if refused_at is None else _first_refusal(tally, refused_at),
            latency_seconds=_decision_latency(tally, self._watch, alert),
            hindered=yardstick.measure(self._thief.clone(), tally.answered),
            unhindered=yardstick.measure(unhindered.clone(), budget),
            own_inputs=self._own_inputs(victim, yardstick),
            leaves=self._leaves(alert, budget),
            exposure=self.board.exposure(THIEF),
        )

    def _own_inputs(self, victim: Victim, yardstick: Yardstick) -> Fidelity | None:
        if self._script.own_inputs is None:
            return None
        thief = self._script.own_inputs()
        queries = run_offline(thief, victim)
        return yardstick.measure(thief.clone(), queries)

    def _leaves(self, alert: Alert | None, budget: int) -> Leaves | None:
        if self._script.leaves is None:
            return None
        flagged = None if alert is None else self._thief.leaves(alert.query_index + 1)
        return Leaves(flagged, self._thief.leaves(), self._script.leaves, budget)

    def _honest_outcome(self, tally: Tally) -> HonestOutcome:
        return HonestOutcome(
            account=tally.account,
            habit=tally.habit,
            answered=tally.answered,
            refused=tally.refused,
            flagged=tally.account in self.board.alerts,
            most=self.board.most.get(tally.account),
        )


def _first_refusal(tally: Tally, since: float) -> int | None:
    """Returns the number of the first query refused at wall-clock second ``since`` or later."""
    return next((number for number, at in tally.refusals if at >= since), None)


def _decision_latency(tally: Tally, watch: GateWatch, alert: Alert | None) -> float | None:
    if watch.obeyed_at is None or alert is None or alert.query_index >= len(tally.answered_at):
        return None
    return watch.obeyed_at - tally.answered_at[alert.query_index]


_FRAME_SECONDS = 0.5
_RATE_FRAMES = 10
_SETTLE_SECONDS = 2.0
"""How long to observe after the last answer, for the last scores and decisions."""


def run_demo(options: DemoOptions, read: ReadModel, console: Console | None = None) -> Outcome:
    """Runs the demo to its end and returns the outcome, whether as promised or not.

    ``read`` converts the owner's tree to the form that the detector reads. Shows a live view on ``console`` when that
    is a terminal, else plain lines. Raises WeirguardError when a part cannot start or dies on the way, with the end of
    its log. No child process is left in any case.
    """
    console = console or Console()
    profile = _calibrated(options, read, console)
    console.print("Starting the embedded broker, one detector worker and a model server ...", style="dim")
    played = scripts(options)
    with set_stage(options.mode, profile, [script.model for script in played]) as stage:
        performance = _Performance(options, stage, [Act(script, stage, options) for script in played])
        seconds = asyncio.run(performance.play(screen_for(console)))
    console.print("Letting both thieves steal without Weirguard, to compare ...", style="dim")
    return performance.outcome(seconds)


def _calibrated(options: DemoOptions, read: ReadModel, console: Console) -> Profile:
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(
            f"Calibrating the tree's profile on {CALIBRATION_ACCOUNTS} honest accounts ...", total=CALIBRATION_ACCOUNTS
        )
        return profile_of_tumours(options.seed, read, lambda accounts: progress.advance(task, accounts))


class _Performance:
    """One run of the traffic on all models, observed meanwhile."""

    def __init__(self, options: DemoOptions, stage: Stage, acts: Sequence[Act]) -> None:
        self._options = options
        self._stage = stage
        self._acts = acts
        self._boards = {act.model: act.board for act in acts}
        self._sent: deque[tuple[float, int]] = deque(maxlen=_RATE_FRAMES)
        self._started_at = time.time()

    async def play(self, screen: Screen) -> float:
        """Runs the traffic. Returns the seconds it took."""
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
        async with connections() as http, asyncio.TaskGroup() as group:
            for act in self._acts:
                group.create_task(act.play(http, self._options.seconds))

    async def _look(self, screen: Screen) -> None:
        await asyncio.sleep(_FRAME_SECONDS)
        self._stage.check()
        events = [self._boards[seen.record.model].absorb(seen) for seen in self._stage.observer.drain()]
        screen.show(self._moment(), [event for event in events if event is not None])

    def _moment(self) -> DemoState:
        now = time.time()
        self._sent.append((now, sum(tally.sent for tally in self._tallies)))
        (before, sent_before), (_, sent) = self._sent[0], self._sent[-1]
        return DemoState(
            mode=self._options.mode,
            started_at=self._started_at,
            now=now,
            seconds=self._options.seconds,
            scenes=[act.scene for act in self._acts],
            per_second=(sent - sent_before) / max(now - before, _FRAME_SECONDS),
        )

    @property
    def _tallies(self) -> list[Tally]:
        return [tally for act in self._acts for tally in act.tallies.values()]

    def outcome(self, seconds: float) -> Outcome:
        return Outcome(
            mode=self._options.mode,
            seconds=seconds,
            queries=sum(tally.sent for tally in self._tallies),
            failed=sum(tally.failed for tally in self._tallies),
            models=tuple(act.outcome() for act in self._acts),
        )
