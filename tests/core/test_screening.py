"""Thieves among the accounts given as honest: named, distinguished from odd honest users, left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.core.calibration.calibrate import Calibration, FlaggedRate, Tail, calibrate
from detector.core.calibration.crossfit import COLUMNS, OwnerInputs
from detector.core.calibration.exemplars import SIMULATED, LargestD
from detector.core.calibration.scan import Outlier, Screened, calibrate_screened, outliers
from detector.core.exposure import Validation
from detector.core.owner_model import Features, Linear
from detector.core.signals.suspicion import FAMILIES
from tests.core.honest import CLASSES, DIMENSION, account, crowd, honest, thief

BUDGET = 0.01
CROWD = crowd()
ORDINARY = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


@pytest.fixture(scope="module")
def clean() -> Calibration:
    return calibrate(CROWD, BUDGET)


@pytest.fixture(scope="module")
def screened() -> Screened:
    return calibrate_screened([*CROWD, thief()], BUDGET)


def test_a_thief_is_named_with_what_betrays_them_and_not_left_out_unasked(
    screened: Screened, clean: Calibration
) -> None:
    assert not screened.left_out
    [found] = screened.outliers
    assert found.name == "mallory"
    assert set(found.families) >= {"content", "structure"}
    assert "sign_steps" in dict(found.contributions)
    assert screened.achieved == FlaggedRate(1, 13)
    steps = COLUMNS.index("sign_steps")
    assert screened.calibration.profile.standards.exemplars[:, steps].max() > 5
    assert clean.profile.standards.exemplars[:, steps].max() < 5


def test_one_who_is_left_out_leaves_nothing_behind(clean: Calibration) -> None:
    without = calibrate_screened([*CROWD, thief()], BUDGET, ["mallory"])
    assert without.left_out == ["mallory"] and not without.outliers
    assert without.calibration.profile.to_bytes() == clean.profile.to_bytes()


def test_who_is_not_there_cannot_be_left_out() -> None:
    with pytest.raises(ConfigurationError, match="--leave-out: there is no account zoe"):
        calibrate_screened(CROWD, BUDGET, ["zoe"])
    with pytest.raises(ConfigurationError, match="2 honest accounts are too few"):
        calibrate_screened(CROWD[:3], BUDGET, [CROWD[0].principals[0]])


def test_an_odd_account_is_named_with_those_whom_it_alone_excuses() -> None:
    """The one asks far out in more ways than the other."""
    rng = np.random.default_rng(6)
    far = [4 + 0.01 * rng.standard_normal((60, DIMENSION)) for _ in range(2)]
    farther = np.concatenate((far[1], 9 + rng.standard_normal((60, DIMENSION))))
    found = calibrate_screened([*CROWD, account("odd", far[0], 0), account("odder", farther, 1)], BUDGET)
    named = {outlier.name: outlier for outlier in found.outliers}
    assert "odd" in named.keys() | set(named["odder"].excused)


def calibration_of(clean: Calibration, largest: list[float], **added: float) -> Calibration:
    """One in which account i reached ``largest[i]``, the last of them by what was ``added``."""
    columns = np.zeros((len(largest), len(COLUMNS)))
    for name, value in added.items():
        columns[-1, COLUMNS.index(name)] = value
    names = [str(number) for number in range(len(largest))]
    results = [
        LargestD(most, column, frozenset(), 0, SIMULATED, 0 * column)
        for most, column in zip(largest, columns, strict=True)
    ]
    every = np.ones(len(largest), np.bool_)
    return replace(clean, accounts=names, results=results, long=every, odd=np.zeros(len(largest)))


def test_an_account_stands_out_above_what_the_others_allow(clean: Calibration) -> None:
    limit = Tail.of(np.array(ORDINARY)).threshold(BUDGET)
    [found] = outliers(calibration_of(clean, [*ORDINARY, limit + 0.01], novelty=limit), BUDGET)
    assert (found.at, found.name, found.allowed) == (7, "7", limit)
    assert not outliers(calibration_of(clean, [*ORDINARY, limit - 0.01], novelty=limit), BUDGET)


def test_the_odd_and_the_short_say_nothing_of_what_others_may_do(clean: Calibration) -> None:
    two = calibration_of(clean, [*ORDINARY, 30.0, 9.0], novelty=9.0)
    assert [found.name for found in outliers(two, BUDGET)] == ["7"]
    far = two.largest == 30.0
    for without in (replace(two, odd=far.astype(float)), replace(two, long=~far)):
        assert [found.name for found in outliers(without, BUDGET)] == ["7", "8"]
    half = outliers(replace(two, odd=0.5 * far), BUDGET)[-1]
    assert half.allowed > Tail.of(np.array(ORDINARY)).threshold(BUDGET)


@pytest.mark.parametrize(
    ("added", "families"),
    [
        ({"novelty": 12.0, "unseen_values": 12.0, "outlyingness": 9.0}, {"content"}),
        ({"novelty": 12.0, "surprise": 1.9}, {"content"}),
        ({"novelty": 12.0, "surprise": 2.1}, {"content", "outputs"}),
        ({"novelty": 1.2, "unseen_values": 1.2, "sign_steps": 1.5, "prada": 1.5}, {"content", "structure"}),
        ({"novelty": 1.0, "sign_steps": 1.0, "surprise": 1.0}, set()),
    ],
)
def test_a_suspect_is_extreme_in_two_families(added: dict[str, float], families: set[str]) -> None:
    found = Outlier(0, "eve", 20.0, 4.0, tuple(added.items()))
    assert set(found.families) == families
    assert found.suspect == (len(families) >= 2)


def test_every_column_of_standards_has_a_family() -> None:
    assert FAMILIES.keys() == set(COLUMNS)


@pytest.mark.parametrize(
    ("flagged", "accounts", "low", "high"), [(2, 91, 0.0027, 0.0771), (0, 50, 0.0, 0.0711), (5, 5, 0.4782, 1.0)]
)
def test_the_interval_of_a_rate_is_that_of_the_tables(flagged: int, accounts: int, low: float, high: float) -> None:
    assert FlaggedRate(flagged, accounts).interval == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("flagged", "accounts", "bound"), [(0, 24, 0.1173), (0, 50, 0.0582), (1, 30, 0.1486)])
def test_the_bound_of_a_rate_is_that_of_the_tables(flagged: int, accounts: int, bound: float) -> None:
    assert FlaggedRate(flagged, accounts).bound == pytest.approx(bound, abs=1e-4)


def test_what_the_owner_gives_is_in_the_profile_and_margins_are_made_from_his_rows() -> None:
    rows = honest("rows", 3, rows=200)
    weights = np.random.default_rng(0).standard_normal((CLASSES, DIMENSION))
    model = Linear(Features.unnamed(DIMENSION), weights, -weights.sum(axis=1) / 2, "softmax")
    validation = Validation.of(rows.features, rows.outputs.argmax(axis=1))
    given = calibrate(CROWD[:4], BUDGET, owner=OwnerInputs(model, validation)).profile
    assert given.owner_model is model
    assert given.validation is validation
    assert given.margins is not None
    np.testing.assert_array_equal(given.margins.distances, margins(model, rows.features))
    without = calibrate(CROWD[:4], BUDGET, owner=OwnerInputs(model)).profile
    assert without.margins is not None
    asked = np.concatenate([own.features for own in CROWD[:4]])
    np.testing.assert_allclose(without.margins.distances, margins(model, asked))


def margins(model: Linear, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a twentieth of the rows on the side of each class stay below."""
    side, distance = model.distances(features)
    own = [distance[side == at] for at in range(CLASSES)]
    return np.array([np.quantile(each, 0.05) if len(each) else 0.0 for each in own])
