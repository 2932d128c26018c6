"""COLOR: natural images in other light."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.contracts.errors import LabError
from detector.lab.answers import Answers
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.augmentation import SHIFT
from detector.lab.attackers.substitute import SEEDS
from detector.lab.data import Dataset
from detector.lab.victims.digits import DigitsVictim
from tests.lab.thieves import asked, is_seeded, progress


def test_clones_improve_with_queries(split: Dataset, victim: DigitsVictim) -> None:
    early, late = progress("color", Knowledge.of(split), victim, split, 1_600)
    assert early < late
    assert late > 0.95


def test_queries_are_seeded(split: Dataset, victim: DigitsVictim) -> None:
    assert is_seeded("color", Knowledge.of(split), victim, 300)


def test_every_pixel_of_an_image_is_shifted_alike(split: Dataset, victim: DigitsVictim) -> None:
    queries = asked("color", Knowledge.of(split), victim, 5 * SEEDS).reshape(5, SEEDS, 64)
    for repeat in queries[1:]:
        shifts = np.ma.masked_where((repeat == 0) | (repeat == 1), repeat - queries[0])
        assert np.abs(shifts).max() <= SHIFT + 1e-6
        assert np.ma.max(shifts.max(axis=1) - shifts.min(axis=1)) < 1e-6
        assert shifts.mean(axis=1).std() > SHIFT / 4


def test_channels_are_shifted_apart() -> None:
    grey = np.full((3, 12), 0.5, np.float32)
    zeros, ones = np.zeros(12, np.float32), np.ones(12, np.float32)
    thief = ATTACKS["color"](Knowledge(2, zeros, ones, np.zeros(12, np.int64), grey, grey, side=2), 6, 0)
    thief.observe(thief.next_batch(), Answers(np.full((3, 2), 0.5)))
    pixels = thief.next_batch().reshape(3, 4, 3)
    assert (pixels == pixels[:, :1]).all()
    assert (pixels[:, 0, 0] != pixels[:, 0, 1]).all()


def test_tables_have_no_colours(split: Dataset) -> None:
    with pytest.raises(LabError, match="images"):
        ATTACKS["color"](replace(Knowledge.of(split), side=None), 100, 0)
