"""The largest possible feature neither stops the engine nor hides its sender."""

from __future__ import annotations

import numpy as np
import pytest

from detector.core.calibration.calibrate import calibrate
from detector.core.configuration import EngineConfig
from detector.core.engine import Engine, Observation
from detector.core.profile import Profile
from tests.core.profiles import reference
from tests.core.streams import Features, batch, linear_outputs

SIZES = [1e4, 1e6, 1e12, 1e15, 1e18, 1e30, float(np.finfo(np.float32).max)]
THIEVES = {
    "random inputs": lambda generator: generator.uniform(-4, 4, (150, 5)),
    "steps": lambda generator: (
        generator.normal(size=(15, 1, 5)) + generator.normal(size=(15, 1, 5)) * np.linspace(0, 1, 10)[:, None]
    ).reshape(150, 5),
}


@pytest.fixture(scope="module")
def profile() -> Profile:
    """Of twelve honest accounts."""
    generator = np.random.default_rng(0)
    rows = [generator.normal(size=(200, 5)).astype(np.float32) for _ in range(12)]
    accounts = [
        batch(row, [f"honest-{at}"] * 200, outputs=linear_outputs(row, 3), kind="probabilities")
        for at, row in enumerate(rows)
    ]
    return calibrate(accounts, 0.01).profile


def _observe(profiles: tuple[Profile, ...], features: Features, outputs: Features) -> list[Observation]:
    engine = Engine(EngineConfig(profiles=profiles))
    return [
        engine.observe(
            [batch(features[at], ["eve"] * 30, outputs=outputs[at], kind="probabilities")],
        )
        for at in (slice(start, start + 30) for start in range(0, len(features), 30))
    ]


def _first_flagged(seen: list[Observation]) -> float:
    flagged = np.concatenate([one.flagged for one in seen])
    return int(flagged.argmax()) if flagged.any() else np.inf


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("thief", THIEVES)
def test_a_huge_feature_does_not_hide_a_thief(profile: Profile, thief: str, size: float) -> None:
    features = THIEVES[thief](np.random.default_rng(1)).astype(np.float32)
    outputs = linear_outputs(features, 3)
    plain = _first_flagged(_observe((profile,), features, outputs))
    features[:, 0] = size
    assert _first_flagged(_observe((profile,), features, outputs)) <= plain < 150


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("columns", [[0], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("judged_by", ["profile", "defaults"])
def test_every_row_of_any_size_is_judged_by_finite_numbers(
    profile: Profile, size: float, columns: list[int], judged_by: str
) -> None:
    generator = np.random.default_rng(2)
    features = generator.normal(size=(150, 5)).astype(np.float32)
    features[:, columns] = size * np.sign(features[:, columns])
    seen = _observe((profile,) if judged_by == "profile" else (), features, linear_outputs(features / size, 3))
    for one in seen:
        assert (one.index >= 0).all() and not one.refused
        for said in (one.score, *one.signals.values()):
            assert not np.isinf(said).any()


def test_honest_values_are_compared_as_they_are_and_others_from_a_thousand_ranges_on_alike() -> None:
    from detector.core.reference.reference import ReferenceIndex

    rows = np.random.default_rng(3).uniform(5, 9, (60, 2)).astype(np.float32)
    index = ReferenceIndex(reference(rows))
    np.testing.assert_array_equal(index.scaled(rows), rows)
    near = np.array([[-3_000, 3_000]], np.float32)
    np.testing.assert_array_equal(index.scaled(near), near)
    far = np.array([[-1e5, 1e5]], np.float32)
    np.testing.assert_array_equal(index.scaled(far), index.scaled(far * np.float32(1e30)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["always", "either sign", "here and there"])
def test_honest_logs_with_features_of_any_size_make_a_profile_that_judges(size: float, kind: str) -> None:
    generator = np.random.default_rng(4)
    accounts = []
    for at in range(6):
        rows = generator.normal(size=(80, 5)).astype(np.float32)
        outputs = linear_outputs(rows, 3)
        chosen = generator.random(80) < {"always": 1.0, "either sign": 1.0, "here and there": 0.1}[kind]
        rows[chosen, 0] = size
        if kind == "either sign":
            rows[::2, 0] *= -1
        accounts.append(batch(rows, [f"honest-{at}"] * 80, outputs=outputs, kind="probabilities"))
    own = calibrate(accounts, 0.05).profile
    features = generator.uniform(-4, 4, (60, 5)).astype(np.float32)
    for one in _observe((own,), features, linear_outputs(features, 3)):
        assert (one.index >= 0).all()
        assert not any(np.isinf(said).any() for said in one.signals.values())
