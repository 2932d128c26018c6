"""From settings to the configuration of engine and policy."""

from __future__ import annotations

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Action
from detector.core.configuration import EngineConfig, Limits, PradaConfig
from detector.core.signals import SIGNALS
from detector.policy.allowlist import Allowlist, parse_allowlist
from detector.policy.config import Policy, Rung
from detector.runtime.settings import Settings, hint
from detector.runtime.text import read_text
from detector.stream.profiles import read_profiles


def engine_config(settings: Settings) -> EngineConfig:
    """Returns the configuration of the engine of every partition. Raises ConfigurationError."""
    section = settings.detection
    return EngineConfig(
        mode=section.mode,
        prada=PradaConfig(**section.prada.model_dump()),
        limits=Limits(**section.limits.model_dump()),
        dimensions=dict(section.dimensions),
        outputs=dict(section.outputs),
        profiles=read_profiles(section.profiles),
    )


def policy_of(settings: Settings) -> Policy:
    """Returns the policy of ``settings.policy``. Raises ConfigurationError for a bad allowlist, and for the mode of an
    unknown signal."""
    section = settings.policy
    _refuse_unknown_signals(settings)
    ladder = (
        Rung(0, Action("slow", section.slow_queries_per_second)),
        Rung(section.refuse_after_queries, Action("refuse")),
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


def _refuse_unknown_signals(settings: Settings) -> None:
    for name in settings.policy.signal_modes:
        if name not in SIGNALS:
            raise ConfigurationError(f"policy.signal_modes: there is no signal {name!r}{hint(name, SIGNALS)}")


def _allowlist(settings: Settings) -> Allowlist:
    path = settings.policy.allowlist
    if path is None:
        return Allowlist()
    try:
        return parse_allowlist(read_text(path, "policy.allowlist"))
    except RecursionError:
        raise ConfigurationError(
            f"policy.allowlist: {path} nests too deeply; it holds [[allow]] tables alone"
        ) from None
