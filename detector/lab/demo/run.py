"""Starts all parts of the demo, runs it, and returns the outcome."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import httpx
from rich.console import Console
from rich.progress import Progress

from detector.contracts.errors import WeirguardError
from detector.contracts.findings import Alert
from detector.core.profile import Profile
from detector.lab.attackers.attacker import run_offline
from detector.lab.demo.board import Board, BoardEvent
from detector.lab.demo.report import (
    RING_ANSWERED,
    HonestOutcome,
    Leaves,
    ModelOutcome,
    Outcome,
    RingOutcome,
    ThiefOutcome,
)
from detector.lab.demo.script import (
    CALIBRATION_ACCOUNTS,
    DemoOptions,
    ReadModel,
    Script,
    profile_of_tumours,
    scripts,
)
from detector.lab.demo.stage import Stage, set_stage
from detector.lab.demo.view import DemoState, Screen
from detector.lab.fidelity import Yardstick
from detector.lab.query_log import THIEF
from detector.lab.traffic import RING, THIEF_HABIT, Tally, Theft, TrafficGenerator, connections
from detector.serving import Gate

_FRAME_SECONDS = 0.5
_RATE_FRAMES = 10
_SETTLE_FRAMES = 4
"""How long to observe after the last answer, for the last scores and decisions, and after the release."""
_GATE_SECONDS = 0.005


def run_demo(options: DemoOptions, read: ReadModel, console: Console | None = None) -> Outcome:
    """Runs the demo to its end and returns the outcome, whether as promised or not.

    ``read`` converts the owner's tree to the form that the detector reads. Shows a live view on ``console`` when that
    is a terminal, else plain lines. Raises WeirguardError if a part cannot start or dies, with the end of its log.
    Leaves no child process.
    """
    console = console or Console()
    profile = _calibrated(options, read, console)
    console.print("Starting the embedded broker, one detector worker and a model server ...", style="dim")
    played = scripts(options)
    with set_stage(options.mode, profile) as stage:
        acts = [Act(script, stage, options) for script in played]
        seconds, release_seconds = asyncio.run(_play(acts, stage, options, Screen(console)))
    console.print("Letting the thieves steal without Weirguard, to compare ...", style="dim")
    tallies = _tallies(acts)
    return Outcome(
        mode=options.mode,
        seconds=seconds,
        queries=sum(tally.sent for tally in tallies),
        failed=sum(tally.failed for tally in tallies),
        release_seconds=release_seconds,
        models=tuple(act.outcome() for act in acts),
    )


def _calibrated(options: DemoOptions, read: ReadModel, console: Console) -> Profile:
    task = f"Calibrating the tree's profile on {CALIBRATION_ACCOUNTS} honest accounts ..."
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task(task, total=CALIBRATION_ACCOUNTS)
        return profile_of_tumours(options.seed, read, lambda accounts: progress.advance(bar, accounts))


def _tallies(acts: Sequence[Act]) -> list[Tally]:
    return [tally for act in acts for tally in act.board.tallies.values()]


async def _play(acts: Sequence[Act], stage: Stage, options: DemoOptions, screen: Screen) -> tuple[float, float | None]:
    """Runs the traffic of all ``acts`` and then the release of the last one's thief, and shows both on ``screen``.
    Returns the seconds that each took."""
    started_at = time.time()
    look = _looking(acts, stage, options, screen, started_at)
    traffic = asyncio.create_task(_send(acts, options.seconds))
    stop = threading.Event()
    watches = [asyncio.create_task(asyncio.to_thread(act.watch, stage.gate, stop)) for act in acts]
    try:
        with screen:
            while not traffic.done():
                await look(1)
            seconds = time.time() - started_at
            await look(_SETTLE_FRAMES)
            release = asyncio.create_task(asyncio.to_thread(stage.release, acts[-1].board.model, THIEF))
            while not release.done():
                await look(1)
            await look(_SETTLE_FRAMES)
    finally:
        stop.set()
        traffic.cancel()
    await asyncio.gather(traffic, *watches)
    return seconds, release.result()


def _looking(
    acts: Sequence[Act], stage: Stage, options: DemoOptions, screen: Screen, started_at: float
) -> Callable[[int], Awaitable[None]]:
    """Returns a function that reads what was published and shows it on ``screen``, for a number of frames."""
    boards = {act.board.model: act.board for act in acts}
    sent: deque[tuple[float, int]] = deque(maxlen=_RATE_FRAMES)

    async def look(frames: int) -> None:
        for _ in range(frames):
            await asyncio.sleep(_FRAME_SECONDS)
            stage.check()
            records, now = await asyncio.to_thread(stage.observer.read), time.time()
            events: list[BoardEvent | None] = [boards[record.model].absorb(record, now) for record in records]
            sent.append((now, sum(tally.sent for tally in _tallies(acts))))
            (before, sent_before), (_, sent_now) = sent[0], sent[-1]
            rate = (sent_now - sent_before) / max(now - before, _FRAME_SECONDS)
            state = DemoState(options.mode, started_at, now, options.seconds, list(boards.values()), rate)
            screen.show(state, [event for event in events if event is not None])

    return look


async def _send(acts: Sequence[Act], seconds: float) -> None:
    async with connections() as http, asyncio.TaskGroup() as group:
        for act in acts:
            group.create_task(act.play(http, seconds))


class Act:
    """One model of the demo: runs ``script`` on ``stage``. ``board``: its accounts, and what the detector published
    about them. ``obeyed_at``: the wall-clock second at which a gate first knew of a decision about the thief;
    ``refused_at``: of a decision to refuse. Observed and enforced decisions both count. None until then."""

    def __init__(self, script: Script, stage: Stage, options: DemoOptions) -> None:
        self._script = script
        self._seed = options.seed
        self._traffic = TrafficGenerator(
            stage.url + script.path, script.dataset, accounts=script.accounts, seed=options.seed, tempo=options.tempo
        )
        self._thief = script.thief()
        self._ring = None if script.ring is None else script.ring()
        self.board = Board(script.model, script.promise.signal, self._traffic.tallies)
        self.obeyed_at: float | None = None
        self.refused_at: float | None = None

    async def play(self, http: httpx.AsyncClient, seconds: float) -> None:
        thefts = [Theft(self._thief, self._script.promise.query)]
        if self._ring is not None:
            thefts.append(Theft(self._ring, RING_ANSWERED, RING))
        await self._traffic.run(http, seconds, *thefts)

    def watch(self, gate: Gate, stop: threading.Event) -> None:
        """Notes when ``gate`` begins to apply decisions; in its own thread, so that a busy event loop adds no
        latency."""
        while self.refused_at is None and not stop.wait(_GATE_SECONDS):
            verdict = gate.check(self._script.model, THIEF)
            if verdict.decision_id is not None and self.obeyed_at is None:
                self.obeyed_at = time.time()
            if "refuse" in (verdict.action, verdict.would_have):
                self.refused_at = time.time()

    def outcome(self) -> ModelOutcome:
        """Returns the outcome. Runs the same thief again, offline and unhindered, to compare clones."""
        board, script = self.board, self._script
        honest = tuple(
            HonestOutcome(name, tally.answered, tally.refused, name in board.alerts, board.most.get(name))
            for name, tally in board.tallies.items()
            if tally.habit != THIEF_HABIT
        )
        thief = self._thief_outcome(board.tallies[THIEF], board.alerts.get(THIEF))
        return ModelOutcome(script.model, script.theft, script.promise, thief, honest, self._ring_outcome())

    def _ring_outcome(self) -> RingOutcome | None:
        script, board = self._script, self.board
        if self._ring is None or script.ring is None:
            return None
        tallies = [board.tallies[name] for name in RING]
        with_ring = [
            group for group in board.groups.values() if any(member.principal in RING for member in group.members)
        ]
        groups = sorted(with_ring, key=lambda group: -group.size)
        since = min((board.found[group.id].occurred_at for group in groups), default=None)
        victim, unhindered = script.victim(), script.ring()
        answered = sum(tally.answered for tally in tallies)
        if not answered:
            raise WeirguardError(f"the ring got no answer at all from the model server: {tallies[0].last_failure}")
        yardstick, budget = Yardstick.of(victim, script.dataset, self._seed), run_offline(unhindered, victim)
        return RingOutcome(
            accounts=RING,
            sent=sum(tally.sent for tally in tallies),
            answered=answered,
            groups=tuple(groups),
            found_at=None if since is None else sum(at <= since for tally in tallies for at in tally.answered_at),
            alone=sum(name in board.alerts for name in RING),
            hindered=yardstick.measure(self._ring.clone(), answered),
            unhindered=yardstick.measure(unhindered.clone(), budget),
        )

    def _thief_outcome(self, tally: Tally, alert: Alert | None) -> ThiefOutcome:
        if not tally.answered:
            raise WeirguardError(f"the thief got no answer at all from the model server: {tally.last_failure}")
        script, victim, unhindered = self._script, self._script.victim(), self._script.thief()
        budget = run_offline(unhindered, victim)
        yardstick = Yardstick.of(victim, script.dataset, self._seed)
        own_inputs = None
        if script.own_inputs is not None:
            thief = script.own_inputs()
            answers = run_offline(thief, victim)
            own_inputs = yardstick.measure(thief.clone(), answers)
        leaves = None
        if script.leaves is not None:
            flagged = None if alert is None else len(set(tally.leaves[: alert.query_index + 1]))
            leaves = Leaves(flagged, len(set(tally.leaves)), script.leaves, budget)
        return ThiefOutcome(
            sent=tally.sent,
            answered=tally.answered,
            alert=alert,
            slowed_at=_first_refusal(tally, 0.0),
            refused_at=None if self.refused_at is None else _first_refusal(tally, self.refused_at),
            latency_seconds=self._latency(tally, alert),
            hindered=yardstick.measure(self._thief.clone(), tally.answered),
            unhindered=yardstick.measure(unhindered.clone(), budget),
            own_inputs=own_inputs,
            leaves=leaves,
            exposure=self.board.exposure(THIEF),
        )

    def _latency(self, tally: Tally, alert: Alert | None) -> float | None:
        """Returns the seconds from the answer to the flagged query until a gate applied the decision, or None if
        unknown."""
        if self.obeyed_at is None or alert is None or alert.query_index >= len(tally.answered_at):
            return None
        seconds = self.obeyed_at - tally.answered_at[alert.query_index]
        return seconds if seconds >= 0 else None  # negative: a group was found first


def _first_refusal(tally: Tally, since: float) -> int | None:
    """Returns the number of the first query refused at wall-clock second ``since`` or later."""
    return next((number for number, at in tally.refusals if at >= since), None)
