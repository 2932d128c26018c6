"""Settings to the pure objects: what the engine and the policy are configured with."""

from __future__ import annotations

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Action
from detector.core.configuration import EngineConfig, Limits, PradaConfig
from detector.policy.allowlist import Allowlist, parse_allowlist
from detector.policy.config import Policy, Step
from detector.runtime.settings import Settings
from detector.stream.profiles import read_profiles


def engine_config(settings: Settings) -> EngineConfig:
    """What the engine of every partition is configured with. Raises ConfigurationError."""
    section = settings.detection
    prada = PradaConfig(
        delta=section.prada.delta, window=section.prada.window, consecutive_checks=section.prada.consecutive_checks
    )
    limits = Limits(section.limits.principals, section.limits.history_queries, section.limits.history_bytes)
    profiles = read_profiles(section.profiles)
    return EngineConfig(section.mode, prada, limits, dict(section.dimensions), profiles)


def policy_of(settings: Settings) -> Policy:
    """The policy that ``settings.policy`` describes. Raises ConfigurationError for a bad allowlist."""
    section = settings.policy
    ladder = (
        Step(0, Action("slow", section.slow_queries_per_second)),
        Step(section.refuse_after_queries, Action("refuse")),
    )
    return Policy(
        mode=section.mode,
        model_modes=dict(section.model_modes),
        signal_modes=dict(section.signal_modes),
        ladder=ladder,
        decision_seconds=section.decision_seconds,
        unjudged_queries=section.unjudged_queries,
        allowlist=_allowlist(settings),
    )


def _allowlist(settings: Settings) -> Allowlist:
    path = settings.policy.allowlist
    if path is None:
        return Allowlist()
    try:
        return parse_allowlist(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"policy.allowlist: cannot read {path}: {error}") from error
