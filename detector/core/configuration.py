"""The configuration of the engine: frozen, validated, and hashed into every alert."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from detector.contracts.codecs.limits import DIMENSIONS
from detector.contracts.errors import ConfigurationError
from detector.core.forms import Outputs
from detector.core.profile import Profile
from detector.core.state.columns import PAGE

EngineMode = Literal["default", "compatible"]

MAX_INTEGER = 1 << 62
"""Larger numbers of settings count as this one: loops have integers of 64 bits."""
MOST_TESTED = 4_096
"""The largest window: the weights of the test for every size up to it are a table of 67 MB, which grows with its
square."""
MOST_REMEMBERED = 65_536
"""The largest number of repeats that an account's ring of hashes holds."""


@dataclass(frozen=True, slots=True)
class PradaConfig:
    """``delta``: W below it is suspicious. The rest is for the default mode alone.

    ``window``: how many of the last distances are tested, a multiple of 32 up to 4,096. ``check_every``: distances
    between two tests. ``consecutive_checks``: how many tests in a row must fail to raise an alarm. ``repeat_memory``:
    how many of the last queries that lay inside the growing set are remembered by hash, a multiple of 32 up to 65,536.
    """

    delta: float = 0.90
    window: int = 512
    check_every: int = 10
    consecutive_checks: int = 2
    repeat_memory: int = 256

    def __post_init__(self) -> None:
        _require(0 < self.delta < 1, "prada.delta", self.delta, "between 0 and 1")
        for name, most in (("window", MOST_TESTED), ("repeat_memory", MOST_REMEMBERED)):
            value = getattr(self, name)
            good = 128 <= value <= most and value % PAGE == 0
            _require(good, f"prada.{name}", value, f"a multiple of 32 from 128 to {most}")
        _require(self.check_every >= 1, "prada.check_every", self.check_every, "at least 1")
        _require(self.consecutive_checks >= 1, "prada.consecutive_checks", self.consecutive_checks, "at least 1")


@dataclass(frozen=True, slots=True)
class Limits:
    """``principals`` held by one engine; ``history_queries`` and ``history_bytes`` of vectors held for each."""

    principals: int = 50_000
    history_queries: int = 2048
    history_bytes: int = 2 << 20

    def __post_init__(self) -> None:
        _require(self.principals >= 1, "limits.principals", self.principals, "at least 1")
        _require(self.history_queries >= 2, "limits.history_queries", self.history_queries, "at least 2")
        _require(self.history_bytes >= 8, "limits.history_bytes", self.history_bytes, "at least 8")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """``dimensions`` fixes the feature count of a model. Else its profile does, or most of a principal's own queries.
    ``outputs`` gives the kind of outputs of a model without a profile.

    ``compatible`` mode follows the published PRADA agent query for query: unlatched and unbounded per principal.
    """

    mode: EngineMode = "default"
    prada: PradaConfig = field(default_factory=PradaConfig)
    limits: Limits = field(default_factory=Limits)
    dimensions: Mapping[str, int] = field(default_factory=dict)
    profiles: tuple[Profile, ...] = ()
    outputs: Mapping[str, Outputs] = field(default_factory=dict)

    def block_rows(self, dimension: int) -> int:
        """Returns the rows in a history block of queries with ``dimension`` features. A principal's current and
        previous block are kept."""
        if self.mode == "compatible":
            return MAX_INTEGER
        queries, size = min(self.limits.history_queries, MAX_INTEGER), min(self.limits.history_bytes, MAX_INTEGER)
        return max(min(queries, size // (4 * max(dimension, 1))) // 2, 1)

    @property
    def judging(self) -> tuple[Profile, ...]:
        """The profiles that queries are judged by: none in compatible mode."""
        return self.profiles if self.mode == "default" else ()

    def __post_init__(self) -> None:
        _require(self.mode in ("default", "compatible"), "mode", self.mode, "default or compatible")
        kinds = get_args(Outputs)
        for model, outputs in self.outputs.items():
            _require(outputs in kinds, f"outputs.{model}", outputs, f"one of {', '.join(kinds)}")
        for model, dimension in self.dimensions.items():
            _require(1 <= dimension <= DIMENSIONS, f"dimensions.{model}", dimension, f"from 1 to {DIMENSIONS}")

    def configuration_hash(self) -> str:
        """Returns 16 hexadecimal digits that change with everything that can change a verdict."""
        plain: dict[str, Any] = {
            "mode": self.mode,
            "prada": asdict(self.prada),
            "limits": asdict(self.limits),
            "dimensions": dict(self.dimensions),
            "profiles": sorted(profile.hash for profile in self.profiles),
            **({"outputs": dict(self.outputs)} if self.outputs else {}),
        }
        return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=8).hexdigest()


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ConfigurationError(f"{name} is {value!r}; it must be {wanted}")
