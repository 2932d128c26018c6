"""Measures of a recovered engine: its rows are at other places in memory, and nothing may depend on that."""

from __future__ import annotations

import numpy as np

from detector.contracts.batches import take
from detector.core.calibration.calibrate import calibrate
from detector.core.calibration.traffic import accounts_of
from detector.core.engine import Engine, EngineConfig
from tests.chaos.population import Population


def test_a_recovered_engine_measures_queries_with_many_equal_steps_as_the_live_one_does() -> None:
    """Steps of one magnitude from few points: many own rows are candidates with equal marks."""
    profile = calibrate(accounts_of([Population(7, honest=20, thieves=0).draw(4_000)]), 0.01).profile
    config = EngineConfig(profiles=(profile,))
    queries = Population(7, honest=2, thieves=2, queries_to_next_thief=10).draw(2_400)
    live, recovered, replayed = Engine(config), Engine(config), Engine(config)
    for start in range(0, 1_600, 100):
        replayed.absorb(live.observe([take(queries, np.arange(start, start + 100))]).sections)
    for key in sorted(live.keys(), reverse=True):
        recovered.load(live.dump([key]))
    rest = take(queries, np.arange(1_600, 2_400))
    expected = live.observe([rest])
    for other in (recovered, replayed):
        found = other.observe([rest])
        for name, values in expected.signals.items():
            np.testing.assert_array_equal(values, found.signals[name], err_msg=name)
