"""The digits victim, trained once."""

from __future__ import annotations

import pytest

from detector.lab.victims.digits import DigitsSplit, DigitsVictim, load_split


@pytest.fixture(scope="session")
def split() -> DigitsSplit:
    return load_split()


@pytest.fixture(scope="session")
def victim(split: DigitsSplit) -> DigitsVictim:
    return DigitsVictim(split.training)
