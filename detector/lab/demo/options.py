"""The options of a demo."""

from __future__ import annotations

from dataclasses import dataclass

from detector.contracts.findings import Mode

NATURAL_SECONDS = 50.0
"""The duration of the traffic at its natural pace; more or fewer seconds stretch or squeeze the same queries."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``seconds`` of traffic. The same ``seed`` gives the same queries; their interleaving depends on the clock."""

    observe: bool = False
    seconds: float = NATURAL_SECONDS
    seed: int = 0
    accounts: int = 24

    @property
    def mode(self) -> Mode:
        return "observe" if self.observe else "enforce"

    @property
    def tempo(self) -> float:
        """The factor by which pauses are stretched."""
        return self.seconds / NATURAL_SECONDS
