"""How often honest accounts were flagged, and how sure that figure is."""

from __future__ import annotations

from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Achieved:
    """``flagged`` of ``accounts`` honest ones, each judged by all others."""

    flagged: int
    accounts: int

    @property
    def rate(self) -> float:
        return self.flagged / self.accounts

    @property
    def interval(self) -> tuple[float, float]:
        """The rates that such a count leaves likely, with 95 percent confidence (Clopper and Pearson 1934)."""
        from scipy.stats import binomtest

        found = binomtest(self.flagged, self.accounts).proportion_ci(CONFIDENCE, method="exact")
        return float(found.low), float(found.high)

    @property
    def bound(self) -> float:
        """No higher rate leaves such a count or a lower one likely, with 95 percent confidence."""
        from scipy.stats import binomtest

        found = binomtest(self.flagged, self.accounts, alternative="less").proportion_ci(CONFIDENCE, method="exact")
        return float(found.high)
