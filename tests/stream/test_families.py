"""Evidence of another family than content, row by row, from the engine to the policy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.batches import cut
from detector.contracts.findings import Audit, Decision
from detector.core.engine import Engine, EngineConfig
from detector.core.signals.suspicion import families_of
from detector.policy.config import Policy
from detector.policy.ledger import Ledger
from detector.stream.detector import FIGURES, DetectionInput, Detector, later_families
from tests.core.profiles import profile, standards
from tests.core.test_suspicion import PROFILE
from tests.core.test_suspicion import _thief as thief

OWN = replace(PROFILE, standards=replace(PROFILE.standards, exemplars=np.zeros((1, len(FIGURES)))))
ROWS = 120


def test_rows_of_another_family_are_those_that_the_signal_would_name() -> None:
    seen = Engine(EngineConfig(profiles=(OWN,))).observe([thief(ROWS)])
    flagged = np.flatnonzero(seen.flagged)
    found = later_families(seen, (OWN,), flagged)
    scores = np.column_stack([seen.signals[f"suspicion.{name}"] for name in FIGURES])
    expected = dict(zip(range(ROWS), families_of(OWN.standards, scores), strict=True))
    assert found == {row: expected[row] for row in flagged.tolist() if expected[row] != "content"}
    assert found
    other = profile(thief(ROWS).features)
    assert later_families(seen, (replace(other, model="other", standards=standards()),), flagged) == {}
    assert later_families(seen, (OWN,), flagged[:0]) == {}


@pytest.mark.parametrize("size", [1, 7, 50])
def test_decisions_do_not_depend_on_the_cut(size: int) -> None:
    published = []
    for step in (ROWS, size):
        detector = Detector(Engine(EngineConfig(profiles=(OWN,))), Ledger(Policy(mode="enforce"), "test"))
        decisions, audits = list[Decision](), list[Audit]()
        for start in range(0, ROWS, step):
            piece = cut(thief(ROWS), start, min(start + step, ROWS))
            times = np.arange(1000.0 + start, 1000.0 + start + len(piece), dtype=np.float64)
            effects = detector.detect(DetectionInput([piece], times))[1]
            decisions += effects.decisions
            audits += effects.audits
        published.append((decisions, audits))
    assert published[0] == published[1]
