"""The names and ranges of the features of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """``names`` of the d features, in the order of the log; ``low`` and ``high`` float64 (d,): the range of each over
    the training data, NaN where unknown."""

    names: tuple[str, ...]
    low: Floats
    high: Floats

    def __post_init__(self) -> None:
        require(len(self.names) >= 1, "features", "is empty; name at least one feature")
        for at, (low, high) in enumerate(zip(self.low.tolist(), self.high.tolist(), strict=True)):
            require(not low >= high, f"features[{at}].low", f"is {low}; it must be below high, which is {high}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def unnamed(cls, count: int) -> Features:
        """Returns features named x0, x1 and so on, of unknown ranges."""
        return cls.named([f"x{number}" for number in range(count)])

    @classmethod
    def named(cls, names: list[str]) -> Features:
        """Returns features with these names, of unknown ranges."""
        return cls(tuple(names), np.full(len(names), np.nan), np.full(len(names), np.nan))

    def to_record(self) -> dict[str, Any]:
        return {"names": list(self.names), "low": self.low, "high": self.high}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Features:
        return cls(tuple(record["names"]), record["low"], record["high"])


def require(good: bool, field: str, complaint: str) -> None:
    """Raises ConfigurationError, with the field of the model file that is wrong, unless ``good``."""
    if not good:
        raise ConfigurationError(f"{field} {complaint}")


def require_all(good: NDArray[np.bool_], field: str, complaint: str) -> None:
    """Raises ConfigurationError for the first entry of ``field`` that is wrong."""
    wrong = np.flatnonzero(~good)
    if len(wrong):
        raise ConfigurationError(f"{field.format(int(wrong[0]))} {complaint}")
