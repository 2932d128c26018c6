"""Calibrates on logs that may hold a thief: names accounts that stand out, and leaves them out only on request."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import QueryBatch
from detector.core.calibration.achieved import Achieved
from detector.core.calibration.calibrate import NOTHING, Calibration, calibrate
from detector.core.calibration.owned import Owned
from detector.core.calibration.suspects import Outlier, outliers


@dataclass(frozen=True, slots=True)
class Screened:
    """``calibration`` on all accounts except those ``left_out``, by name. ``outliers``: its accounts that stand out
    from the others."""

    calibration: Calibration
    left_out: list[str]
    outliers: list[Outlier]

    @property
    def achieved(self) -> Achieved:
        """The number of long accounts that the others would flag, of all long accounts."""
        long = self.calibration.long
        return Achieved(sum(bool(long[own.at]) for own in self.outliers), int(long.sum()))

    @property
    def length(self) -> int:
        """The median number of queries of these accounts."""
        return int(np.median(self.calibration.queries[self.calibration.long]))


def calibrate_screened(
    accounts: Sequence[QueryBatch],
    budget: float,
    leave_out: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
    owned: Owned = NOTHING,
) -> Screened:
    """Calibrates as ``calibrate`` without the accounts in ``leave_out``. Raises ConfigurationError for an unknown
    name."""
    names = {own.principals[own.principal_index[0]]: own for own in accounts}
    strangers = sorted(set(leave_out) - names.keys())
    if strangers:
        raise ConfigurationError(f"--leave-out: there is no account {', '.join(strangers)} in the honest logs")
    rest = [own for name, own in names.items() if name not in leave_out]
    calibration = calibrate(rest, budget, progress, owned)
    return Screened(calibration, sorted(leave_out), outliers(calibration, budget))
