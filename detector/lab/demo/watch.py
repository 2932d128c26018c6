"""Notes when a gate begins to obey: an additional gate, like that of any serving process, polled about a thief."""

from __future__ import annotations

import time

from detector.lab.demo.background import Background
from detector.lab.population import THIEF
from detector.serving import Gate

_LOOK_SECONDS = 0.005


class GateWatch(Background):
    """``obeyed_at``: the wall-clock second at which ``gate`` first knew of a decision about the thief of ``model``;
    ``refused_at``: of a decision to refuse. Observed and enforced decisions both count. None until then."""

    def __init__(self, gate: Gate, model: str) -> None:
        super().__init__(f"demo-gate-watch-{model}")
        self.obeyed_at: float | None = None
        self.refused_at: float | None = None
        self._gate = gate
        self._model = model

    def work(self) -> None:
        while self.refused_at is None and not self.stop.wait(_LOOK_SECONDS):
            verdict = self._gate.check(self._model, THIEF)
            if verdict.decision_id is not None and self.obeyed_at is None:
                self.obeyed_at = time.time()
            if "refuse" in (verdict.action, verdict.would_have):
                self.refused_at = time.time()
