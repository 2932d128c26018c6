"""The configuration of engine and policy from the settings, and the profiles from their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from detector.contracts.actions import make_action
from detector.contracts.errors import ConfigurationError
from detector.core.configuration import EngineConfig, Limits, PradaConfig
from detector.core.profile import Profile
from detector.core.signals import SIGNALS
from detector.groups.joint import JointLimit
from detector.policy.accounting import UNJUDGED
from detector.policy.allowlist import Allowlist, parse_allowlist
from detector.policy.budgets import BUDGET, ExposureBudget
from detector.policy.config import Policy
from detector.policy.entry import GROUP
from detector.policy.ladder import LadderRule, Rung, default_ladder
from detector.runtime.sections import RuleSettings, RungSettings
from detector.runtime.settings import Settings, hint
from detector.runtime.text import read_text
from detector.serving.responder import check_response


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


def policy_config(settings: Settings) -> Policy:
    """Returns the policy of ``settings.policy``. Raises ConfigurationError for a bad allowlist, and for the mode of an
    unknown signal."""
    return _policy(settings, _allowlist(settings.policy.allowlist))


def cautious_policy(settings: Settings) -> Policy:
    """Returns the policy of ``settings.policy``, with the reason in it if the allowlist cannot be read: nothing is then
    enforced automatically, but the detector runs. Raises ConfigurationError for the mode of an unknown signal."""
    try:
        allowlist = _allowlist(settings.policy.allowlist)
    except ConfigurationError as error:
        allowlist = Allowlist(unreadable=str(error))
    return _policy(settings, allowlist)


def _policy(settings: Settings, allowlist: Allowlist) -> Policy:
    section, known = settings.policy, (*SIGNALS, UNJUDGED, BUDGET, GROUP)
    named = [("policy.signal_modes", name) for name in section.signal_modes]
    named += [("policy.ladder", name) for rule in section.ladder for name in rule.signals]
    for where, name in named:
        if name not in known:
            raise ConfigurationError(f"{where}: there is no signal {name!r}{hint(name, known)}")
    answered = not section.ladder or any(BUDGET in rule.signals for rule in section.ladder)
    if section.joint_exposure.limit_percent is not None and not answered:
        raise ConfigurationError(
            "policy.joint_exposure: no rule of the ladder says what happens above limit_percent; "
            f"add one with signals: [{BUDGET}]"
        )
    return Policy(
        mode=section.mode,
        model_modes=dict(section.model_modes),
        signal_modes=dict(section.signal_modes),
        enforce_uncalibrated=section.enforce_uncalibrated,
        ladder=tuple(map(_rule, section.ladder))
        or default_ladder(section.slow_queries_per_second, section.refuse_after_queries),
        decision_seconds=section.decision_seconds,
        cool_down_seconds=section.cool_down_seconds,
        unjudged_queries=section.unjudged_queries,
        allowlist=allowlist,
        budgets=tuple(ExposureBudget(**budget.model_dump()) for budget in section.budgets),
        notice_percent=section.notice_percent,
    )


def joint_limit(settings: Settings) -> JointLimit:
    """Returns what accounts may learn together."""
    section = settings.policy.joint_exposure
    return JointLimit(section.accounts, None if section.limit_percent is None else section.limit_percent / 100)


def _rule(section: RuleSettings) -> LadderRule:
    return LadderRule(
        section.name,
        tuple(map(_rung, section.rungs)),
        section.models,
        section.signals,
        section.families,
        section.severities,
        section.group_size,
        section.exposure_percent,
        section.calibrated,
        section.mode,
        section.review,
    )


def _rung(section: RungSettings) -> Rung:
    try:
        action = make_action(section.action, section.parameters, section.fallback)
        check_response(action)
    except ConfigurationError as error:
        raise ConfigurationError(f"policy.ladder: {error}") from None
    return Rung(section.after_queries, action, section.seconds)


def _allowlist(path: Path | None) -> Allowlist:
    if path is None:
        return Allowlist()
    try:
        return parse_allowlist(read_text(path, "policy.allowlist"))
    except RecursionError:
        raise ConfigurationError(
            f"policy.allowlist: {path} nests too deeply; it holds [[allow]] tables alone"
        ) from None


def read_profiles(paths: Sequence[Path]) -> tuple[Profile, ...]:
    """Returns the profiles in ``paths``. Raises ConfigurationError where one is missing or damaged, or two are for one
    model version."""
    path_of: dict[tuple[str, str], Path] = {}
    profiles = []
    for path in paths:
        profile = _read(path)
        earlier = path_of.setdefault((profile.model, profile.model_version), path)
        if earlier is not path:
            who = f"{profile.model} {profile.model_version}"
            raise ConfigurationError(f"{earlier} and {path} are both profiles of {who}; keep one")
        profiles.append(profile)
    return tuple(profiles)


def describe_profiles(profiles: Sequence[Profile]) -> Iterator[str]:
    """Yields a line for people on each of ``profiles``."""
    for profile in profiles:
        made = profile.provenance
        figures = ", ".join(f"{name} {made[name]:g}" for name in ("accounts", "queries", "budget") if name in made)
        yield f"profile {profile.hash} of {profile.model} {profile.model_version}" + (f": {figures}" if figures else "")


def uncalibrated_warning(what: str) -> str:
    """Returns the warning that no profile judges ``what``."""
    return (
        f"UNCALIBRATED: {what} is judged without a profile of honest traffic: honest accounts may be flagged in "
        "numbers, and most kinds of thieves missed"
    )


def _read(path: Path) -> Profile:
    try:
        return Profile.from_bytes(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"profile {path}: cannot read it: {error.strerror or error}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"profile {path}: {error}") from error
