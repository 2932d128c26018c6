"""How the gate of the version before graded actions reads a decision: its types and its rule, copied once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec


@dataclass(frozen=True, slots=True)
class OlderAction:
    name: Literal["none", "slow", "refuse"]
    queries_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class OlderCause:
    id: str
    origin: str
    expires_at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class OlderDecision:
    id: str
    model: str
    principal: str
    action: OlderAction
    mode: Literal["observe", "enforce"]
    epoch: tuple[int, int]
    issued_at: float
    expires_at: float
    causes: tuple[OlderCause, ...]
    policy_version: str


def decode_as_before(value: bytes) -> OlderDecision:
    """Raises AssertionError where that gate would have refused the record."""
    decision = msgspec.json.decode(value, type=OlderDecision)
    assert (decision.action.name == "slow") == (decision.action.queries_per_second is not None)
    return decision
