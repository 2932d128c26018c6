"""What the default mode mends in the published agent."""

from __future__ import annotations

import numpy as np
import pytest

from detector.contracts.errors import ConfigurationError
from detector.core.engine import Engine, EngineConfig, Limits, PradaConfig
from tests.core.streams import Features, Seen, duplicates, observe, of_one, random, unclipped


def _observe(features: Features, config: EngineConfig | None = None) -> Seen:
    return observe(Engine(config or EngineConfig()), of_one(features))


def _retrying(seed: int, count: int = 300) -> Features:
    """An honest client that sends everything three times, in all kinds of order."""
    generator = np.random.default_rng(seed)
    distinct = random(generator, count, 16)
    rows = [row for at in range(count) for row in (at, max(at - 3, 0), max(at - 1, 0))]
    return distinct[rows]


def test_exact_repeats_are_counted_and_left_out_of_the_test() -> None:
    seen = _observe(_retrying(1))
    assert not seen.flagged.any()
    assert seen.signals["prada.repeats"][-1] == 600
    compatible = _observe(_retrying(1), EngineConfig(mode="compatible"))
    assert compatible.flagged.any()


def test_the_statistic_is_that_of_the_stream_without_repeats() -> None:
    rows = random(np.random.default_rng(2), 300, 16)
    once, thrice = _observe(rows), _observe(np.repeat(rows, 3, axis=0))
    np.testing.assert_array_equal(once.signals["prada"], thrice.signals["prada"][2::3])


def test_a_repeat_inside_the_growing_set_is_known_by_its_hash() -> None:
    generator = np.random.default_rng(3)
    base = random(generator, 200, 8)
    inside = base[5] + np.float32(1e-4)
    features = np.concatenate((base, [inside] * 40))
    assert _observe(features).signals["prada.repeats"].tolist()[-40:] == list(range(40))


def test_constant_steps_are_shown_and_do_not_flag() -> None:
    """One-hot queries: every distance is the square root of two."""
    seen = _observe(np.eye(400, dtype=np.float32))
    assert not seen.flagged.any()
    assert np.isnan(seen.signals["prada"]).all() and np.isnan(seen.score).all()
    assert seen.signals["prada.constant_steps"][-1] == 1.0


def test_an_alarm_takes_two_failed_tests_in_a_row() -> None:
    features = unclipped(np.random.default_rng(4), 400, 16)
    one = _observe(features, EngineConfig(prada=PradaConfig(consecutive_checks=1)))
    two = _observe(features)
    failed = one.signals["prada"] < 0.90
    assert one.flagged.argmax() == failed.argmax()
    assert two.flagged.argmax() == one.flagged.argmax() + 10


def test_the_verdict_is_latched() -> None:
    generator = np.random.default_rng(5)
    seen = _observe(np.concatenate((unclipped(generator, 300, 16), random(generator, 1500, 16) * np.float32(3))))
    first = int(seen.flagged.argmax())
    assert seen.flagged[first:].all() and seen.score[-1] < 1.0
    assert len(seen.findings) == 1 and seen.findings[0][0] == first


def test_an_honest_past_does_not_hide_an_attack() -> None:
    generator = np.random.default_rng(6)
    honest = random(generator, 4000, 16) * np.float32(4)
    seen = _observe(np.concatenate((honest, unclipped(generator, 700, 16) + np.float32(50))))
    assert not seen.flagged[:4000].any()
    assert seen.flagged[-1]


def test_the_score_is_one_at_the_threshold() -> None:
    seen = _observe(unclipped(np.random.default_rng(7), 400, 16))
    spoken = ~np.isnan(seen.score)
    np.testing.assert_array_equal(seen.score[spoken] > 1.0, seen.signals["prada"][spoken] < 0.90)


def test_a_finding_carries_numbers_that_check_it() -> None:
    seen = _observe(unclipped(np.random.default_rng(8), 400, 16))
    ((row, *rest),) = seen.findings
    (evidence,) = (item for item in rest if isinstance(item, tuple))
    by_name = {item.name: item for item in evidence}
    assert by_name["shapiro_w"].value == seen.signals["prada"][row] < by_name["shapiro_w"].threshold
    assert 100 < by_name["distances_tested"].value <= row


def test_repeats_do_not_depend_on_who_else_asks() -> None:
    features = duplicates(np.random.default_rng(9), 300, 8)
    alone = _observe(features)
    engine = Engine(EngineConfig(limits=Limits()))
    observe(engine, of_one(features, who="bob"))
    together = observe(engine, of_one(features, who="ann"))
    np.testing.assert_array_equal(alone.signals["prada.repeats"], together.signals["prada.repeats"])


@pytest.mark.parametrize("bad", [{"delta": 0.0}, {"delta": 1.0}, {"window": 100}, {"window": 130}, {"check_every": 0}])
def test_settings_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=f"prada.{next(iter(bad))}"):
        PradaConfig(**bad)  # type: ignore[arg-type]
