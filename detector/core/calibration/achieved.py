"""The share of honest accounts that are flagged, with its confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Achieved:
    """``flagged`` of ``accounts`` honest accounts, each judged by all others."""

    flagged: int
    accounts: int

    @property
    def rate(self) -> float:
        return self.flagged / self.accounts

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 percent confidence interval of the rate (Clopper and Pearson 1934)."""
        from scipy.stats import binomtest

        found = binomtest(self.flagged, self.accounts).proportion_ci(CONFIDENCE, method="exact")
        return float(found.low), float(found.high)

    @property
    def bound(self) -> float:
        """The upper bound of the rate with 95 percent confidence, one-sided."""
        from scipy.stats import binomtest

        found = binomtest(self.flagged, self.accounts, alternative="less").proportion_ci(CONFIDENCE, method="exact")
        return float(found.high)
