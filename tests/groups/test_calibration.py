"""The crowd that a calibration makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detector.core.calibration.calibrate import calibrate
from detector.groups import calibration
from detector.groups.calibration import crowd_of
from detector.groups.links import Linker, Links
from tests.core.honest import crowd


def test_queries_are_linked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = crowd(6, rows=30)
    calibrated = calibrate(accounts, 0.01)
    whole, sizes, link = crowd_of(calibrated, accounts), list[int](), Linker.link

    def counted(recent: Linker, features: Any, *columns: Any) -> Links:
        sizes.append(len(features))
        return link(recent, features, *columns)

    monkeypatch.setattr(Linker, "link", counted)
    monkeypatch.setattr(calibration, "_ROWS", 50, raising=False)
    parts = crowd_of(calibrated, accounts)
    assert len(sizes) == 4
    assert max(sizes) <= 50
    np.testing.assert_array_equal(parts.reached, whole.reached)
    np.testing.assert_array_equal(parts.link_exemplars, whole.link_exemplars)


def test_what_accounts_reach_after_256_queries_counts_for_256_alone() -> None:
    accounts = crowd(6, rows=280)
    calibrated = calibrate(accounts, 0.01)
    before = crowd_of(calibrated, accounts)
    for score in calibrated.comparison.scores:
        score[256:] += 50.0
    after = crowd_of(calibrated, accounts)
    np.testing.assert_array_equal(after.reached[:-1], before.reached[:-1])
    assert (after.reached[-1] > before.reached[-1] + 5.0).all()


def test_what_structure_an_account_ever_showed_excuses_its_kind_from_the_first_query_on() -> None:
    """When an account begins to vary its rows is chance; but content it shows later excuses no first query."""
    accounts = crowd(6, rows=30)
    calibrated = calibrate(accounts, 0.01)
    names = calibrated.profile.standards.measures
    before = crowd_of(calibrated, accounts)
    structure, content = names.index("near_duplicate"), names.index("novelty")
    for own in calibrated.comparison.scores:
        own[20:, structure] += 50.0
        own[20:, content] += 50.0
    after = crowd_of(calibrated, accounts)
    assert (after.early[:, :, structure] >= before.early[:, :, structure] + 40.0).all()
    np.testing.assert_array_equal(after.early[:, :, content], before.early[:, :, content])
    assert (after.early_reached <= before.early_reached).all()
