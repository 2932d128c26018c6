"""What a profile's crowd shows of other measures and of volumes that no calibration account has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.core.reference.standards import VOLUMES, Crowd
from detector.core.state.arrays import pack, unpack
from detector.groups.links import LINKS
from tests.groups.rings import calibrated

KNOWN = calibrated().standards.measures


def _crowd() -> Crowd:
    crowd = calibrated().crowd
    assert crowd is not None
    return crowd


def test_a_crowd_of_an_older_profile_has_the_first_links() -> None:
    record = unpack(pack(_crowd()))
    assert Crowd.from_record(record).link_measures == LINKS
    del record["link_measures"]
    assert Crowd.from_record(record).link_measures == LINKS


def test_measures_are_aligned_by_name() -> None:
    crowd, measures = _crowd(), tuple(reversed(KNOWN))
    again = crowd.aligned(KNOWN, (*measures, "new"), ("newer", *LINKS[::-1]))
    assert again.link_measures == ("newer", *LINKS[::-1])
    np.testing.assert_array_equal(again.links.mean[1:], crowd.links.mean[::-1])
    np.testing.assert_array_equal(again.link_exemplars[:, 1:], crowd.link_exemplars[:, ::-1])
    assert np.isinf(again.link_exemplars[:, 0]).all()
    count = len(KNOWN)
    np.testing.assert_array_equal(again.early[..., :count], crowd.early[..., :count][..., ::-1])
    np.testing.assert_array_equal(again.early[..., count + 2 :], crowd.early[..., count:][..., ::-1])
    assert np.isinf(again.early[..., count : count + 2]).all()


def test_rarity_within_and_beyond_the_range_of_honest_accounts() -> None:
    distances = np.array([0.5, 2.0, 5.0, 10.0, 20.0])
    rarity = _crowd().rarity(np.full(5, 8), distances)
    assert rarity[0] == 1
    assert (np.diff(rarity) <= 0).all()
    assert 0 < rarity[-1] < rarity[-2] < 0.1


@pytest.mark.parametrize("accounts", [0, 3])
def test_beyond_most_calibration_accounts_each_part_must_reach_as_much(accounts: int) -> None:
    crowd, last = _crowd(), int(np.searchsorted(VOLUMES, 32))
    reached = crowd.reached.copy()
    reached[last + 1 :] = np.nan
    reached[last + 1 :, :accounts] = reached[last, :accounts]
    far = replace(crowd, reached=reached)
    distance = np.array([12.0])
    within = far.rarity(np.array([32]), distance)
    np.testing.assert_array_equal(within, crowd.rarity(np.array([32]), distance))
    for volume in (48, 256):
        np.testing.assert_allclose(far.rarity(np.array([volume]), distance), within * volume / 32)
    assert far.rarity(np.array([256]), np.array([1.5]))[0] <= 1
