"""When a gate begins to obey: one more gate, as any serving process has it, asked about the thief all the time."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from detector.lab.population import THIEF
from detector.lab.victims.digits import MODEL
from detector.serving import Gate

_LOOK_SECONDS = 0.005


class GateWatch:
    """``obeyed_at``: wall-clock second at which ``gate`` first knew of a decision about the thief; ``refused_at``:
    of one to refuse him. Whether observed or enforced does not matter. None until then.
    """

    def __init__(self, gate: Gate) -> None:
        self.obeyed_at: float | None = None
        self.refused_at: float | None = None
        self._gate = gate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="demo-gate-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(5)

    def _look(self) -> None:
        while self.refused_at is None and not self._stop.wait(_LOOK_SECONDS):
            verdict = self._gate.check(MODEL, THIEF)
            if verdict.decision_id is not None and self.obeyed_at is None:
                self.obeyed_at = time.time()
            if "refuse" in (verdict.action, verdict.would_have):
                self.refused_at = time.time()
