"""Engine and ledger as one: queries in, verdicts, alerts and decisions out. The same under Faust and in ``replay``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.batch import MicroBatch, Observation, Sections
from detector.core.engine import Engine
from detector.policy.activity import Activity, Counted, Effects
from detector.policy.ledger import Ledger

POLICY_SECTION = "policy"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the engine saw, what policy made of it, and both changes of state for the log."""

    observation: Observation
    effects: Effects
    sections: Sections


class Judge:
    """Holds the engine and the ledger of one partition, or of one replayed log."""

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self.engine = engine
        self.ledger = ledger

    def judge(
        self,
        pieces: Sequence[QueryBatch],
        times: NDArray[np.float64],
        counts: Sequence[Counted] = (),
        learning: NDArray[np.bool_] | None = None,
    ) -> Judgement:
        """Verdicts and decisions for ``pieces`` in log order; ``times`` float64 (n,) is policy time, nondecreasing."""
        observation = self.engine.observe(MicroBatch(tuple(pieces)))
        effects = self.ledger.observe(_activity(observation, times, counts, learning))
        return Judgement(observation, effects, _with_policy(observation.sections, effects))


def _activity(
    observation: Observation,
    times: NDArray[np.float64],
    counts: Sequence[Counted],
    learning: NDArray[np.bool_] | None,
) -> Activity:
    return Activity(
        time=times,
        keys=observation.keys,
        key_index=observation.key_index,
        flagged=observation.flagged,
        findings=observation.findings,
        learning=learning,
        counts=counts,
        judged=observation.index >= 0,
    )


def _with_policy(sections: Sections, effects: Effects) -> Sections:
    return sections if effects.section is None else sections | {POLICY_SECTION: effects.section}
