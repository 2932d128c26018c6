"""One model of the demo while it runs: its traffic, and what the detector publishes about it."""

from __future__ import annotations

import httpx

from detector.contracts.errors import WeirguardError
from detector.contracts.findings import Alert
from detector.lab.answers import Victim
from detector.lab.attackers.attacker import run_offline
from detector.lab.client import Tally
from detector.lab.demo.board import Board
from detector.lab.demo.diary import Diary
from detector.lab.demo.options import DemoOptions
from detector.lab.demo.outcome import HonestOutcome, Leaves, ModelOutcome, ThiefOutcome
from detector.lab.demo.script import Script
from detector.lab.demo.stage import Stage
from detector.lab.demo.view import Scene
from detector.lab.demo.watch import GateWatch
from detector.lab.fidelity import Fidelity, Yardstick
from detector.lab.population import THIEF
from detector.lab.traffic import Traffic


class Act:
    """Runs ``script`` on ``stage``. ``board``: what the detector has published so far."""

    def __init__(self, script: Script, stage: Stage, options: DemoOptions) -> None:
        self.model = script.model
        self.board = Board(script.promise.signal)
        self._script = script
        self._seed = options.seed
        self._watch = stage.watches[script.model]
        self._traffic = Traffic(
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
            latency_seconds=_latency(tally, self._watch, alert),
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


def _latency(tally: Tally, watch: GateWatch, alert: Alert | None) -> float | None:
    if watch.obeyed_at is None or alert is None or alert.query_index >= len(tally.answered_at):
        return None
    return watch.obeyed_at - tally.answered_at[alert.query_index]
