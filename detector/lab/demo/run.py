"""Starts all parts of the demo, runs it, and returns the outcome."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from rich.console import Console
from rich.progress import Progress

from detector.core.profile.profile import Profile
from detector.lab.client import Tally
from detector.lab.demo.act import Act
from detector.lab.demo.calibrating import ACCOUNTS, ReadModel, profile_of_tumours
from detector.lab.demo.options import DemoOptions
from detector.lab.demo.outcome import Outcome
from detector.lab.demo.screen import Screen, screen_for
from detector.lab.demo.script import scripts
from detector.lab.demo.stage import Stage, set_stage
from detector.lab.demo.view import Moment
from detector.lab.traffic import connections

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
        task = progress.add_task(f"Calibrating the tree's profile on {ACCOUNTS} honest accounts ...", total=ACCOUNTS)
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

    def _moment(self) -> Moment:
        now = time.time()
        self._sent.append((now, sum(tally.sent for tally in self._tallies)))
        (before, sent_before), (_, sent) = self._sent[0], self._sent[-1]
        return Moment(
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
