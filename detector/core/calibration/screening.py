"""Calibration on logs that may hold a thief already: he is named, left out, and the rest is calibrated on again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from detector.contracts.queries import QueryBatch
from detector.core.calibration.achieved import Achieved
from detector.core.calibration.calibrate import FEWEST_ACCOUNTS, NOTHING, Calibration, calibrate
from detector.core.calibration.owned import Owned
from detector.core.calibration.suspects import Outlier, outliers


@dataclass(frozen=True, slots=True)
class Screened:
    """``calibration`` without the accounts ``left_out``; ``kept``: others that stand out from it; ``achieved``: how
    many of its accounts the others would have flagged."""

    calibration: Calibration
    left_out: list[Outlier]
    kept: list[Outlier]
    achieved: Achieved


def calibrate_screened(
    accounts: Sequence[QueryBatch],
    budget: float,
    seed: int,
    keep: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
    owned: Owned = NOTHING,
) -> Screened:
    """As ``calibrate``, but without accounts that are extreme in two families of measures, unless ``keep`` names them
    or fewer than three would be left. ``progress`` is told again of accounts that are replayed again."""
    calibration = calibrate(accounts, budget, progress, owned)
    found = outliers(calibration, budget)
    left_out = [own for own in found if own.suspect and own.name not in keep]
    if left_out and len(accounts) - len(left_out) >= FEWEST_ACCOUNTS:
        gone = {own.at for own in left_out}
        rest = [account for at, account in enumerate(accounts) if at not in gone]
        calibration = calibrate(rest, budget, progress, owned)
        found = outliers(calibration, budget)
    else:
        left_out = []
    return Screened(calibration, left_out, found, Achieved(len(found), len(calibration.accounts)))
