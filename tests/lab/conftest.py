"""Victims that read digits, each trained once."""

from __future__ import annotations

import pytest

from detector.lab.answers import Victim
from detector.lab.data import Dataset
from detector.lab.victims import VICTIMS
from detector.lab.victims.digits import DigitsVictim, load_split


@pytest.fixture(scope="session")
def split() -> Dataset:
    return load_split()


@pytest.fixture(scope="session")
def victim(split: Dataset) -> DigitsVictim:
    return DigitsVictim(split.training)


@pytest.fixture(scope="session")
def trained(split: Dataset) -> dict[str, Victim]:
    """All victims by name, of seed 0."""
    return {name: new(split, 0) for name, new in VICTIMS.items()}
