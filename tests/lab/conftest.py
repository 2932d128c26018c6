"""The digits victim, trained once."""

from __future__ import annotations

import pytest

from detector.lab.data import Dataset
from detector.lab.victims.digits import DigitsVictim, load_split


@pytest.fixture(scope="session")
def split() -> Dataset:
    return load_split()


@pytest.fixture(scope="session")
def victim(split: Dataset) -> DigitsVictim:
    return DigitsVictim(split.training)
