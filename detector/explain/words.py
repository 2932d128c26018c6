"""The explanation in sentences: flagged or not, since which query, why, and on what basis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from detector.contracts.queries import QueryBatch
from detector.core.configuration import EngineConfig
from detector.core.profile import Profile, ProfileMatcher
from detector.core.reference.reference import ReferenceIndex
from detector.explain.explanation import Breakdown, Contribution, Explanation, describe
from detector.replay.odometer import Odometer

UNIT = "standard deviations of honest accounts"

_FAR_DEVIATIONS = 6.0
_MOST_REASONS = 3
_LEAST_SHARE = 0.1
"""The share of D that the contribution of a further reason has at least."""
_LEAST_EXPLAINED = 0.005
_MOST_FEATURES = 4


def headline(explanation: Explanation) -> str:
    """Returns the principal and the verdict, in a few words."""
    replay = explanation.replay
    if replay.verdict is None:
        return f"{replay.principal} is not a suspect"
    return f"{replay.principal} is a suspect since query {replay.verdict + 1:,}"


def verdict(explanation: Explanation) -> str:
    """Returns the verdict in one sentence."""
    return _flagged(explanation) if explanation.replay.verdict is not None else _not_flagged(explanation)


def basis(explanation: Explanation) -> list[str]:
    """Returns sentences on the basis of the verdict, the current state, and possible differences."""
    return list(_basis(explanation))


def number(value: float) -> str:
    """Returns ``value`` with one decimal, or a dash if it is not finite."""
    return f"{round(value, 1) + 0.0:,.1f}" if np.isfinite(value) else "-"


def count(number: int, noun: str = "query", plural: str = "queries") -> str:
    """Returns ``number`` with its noun."""
    return f"{number:,} {noun if number == 1 else plural}"


def reasons(breakdown: Breakdown) -> str:
    """Returns the measures with the largest contributions, at most three, each compared with honest accounts."""
    first, *others = breakdown.contributions[:_MOST_REASONS]
    named = [first, *(part for part in others if part.added >= _LEAST_SHARE * breakdown.d)]
    return "; ".join(f"{describe(part.name)}, {_how_far(part)}" for part in named)


def learned(batches: Sequence[QueryBatch], config: EngineConfig) -> list[str]:
    """Returns a sentence on what a clone trained on the answers would be worth; nothing without a validation set."""
    matching = ProfileMatcher(config.profiles)
    sentences = []
    for profile in config.profiles:
        plain = [
            matching.plain(batch, Counter())
            for batch in batches
            if batch.model == profile.model and matching.judged_as(batch) == profile.model_version
        ]
        fitting = [batch for batch in plain if batch.dimension == profile.reference.dimension]
        fitting = [batch for batch in fitting if batch.outputs.shape[1] == fitting[0].outputs.shape[1]]
        if profile.validation is None or not fitting:
            continue
        features, outputs = (
            np.concatenate([getattr(batch, part) for batch in fitting]) for part in ("features", "outputs")
        )
        reading = Odometer(profile.validation, profile.reference.scale).read(features, outputs, fitting[0].output_kind)
        if reading is not None:
            low, fidelity, high = (round(100 * share) for share in (reading.low, reading.fidelity, reading.high))
            sentences.append(
                f"Odometer: a clone trained on these answers would agree with the model on about {fidelity}% of "
                f"natural inputs ({low} to {high})."
            )
    return sentences


def unseen_values(batches: Sequence[QueryBatch], config: EngineConfig) -> list[str]:
    """Returns a sentence on the features that most often have values that no honest query has. Returns nothing if there
    are no such values, or no profile."""
    fitting, features, rows = ProfileMatcher(config.judging), Counter[str](), 0
    profiles = {(profile.model, profile.model_version): profile for profile in config.judging}
    for batch in batches:
        profile = profiles.get((batch.model, fitting.judged_as(batch) or ""))
        plain = fitting.plain(batch, Counter())
        if profile is not None and plain.dimension == profile.reference.dimension:
            features += _unseen_by_feature(profile, plain)
            rows += len(plain)
    named = ", ".join(f"{name} in {times:,}" for name, times in features.most_common(_MOST_FEATURES))
    return [f"Values that no honest query has, of {rows:,} queries: {named}."] if named else []


def _unseen_by_feature(profile: Profile, plain: QueryBatch) -> Counter[str]:
    """Returns the number of rows in which each feature has such a value."""
    reference = profile.reference
    times = reference.seen.unseen_mask(ReferenceIndex(reference).scaled(plain.features)).sum(axis=0).tolist()
    names = profile.form.names or [f"feature {at}" for at in range(1, len(times) + 1)]
    return Counter({name: int(times_found) for name, times_found in zip(names, times, strict=True) if times_found})


def _how_far(part: Contribution) -> str:
    if not np.isfinite(part.largest):
        return "a measure that the calibration lacks"
    if part.deviation >= part.largest + _FAR_DEVIATIONS:
        return "far beyond any honest account"
    return f"beyond {'any' if part.deviation > part.largest else 'the closest'} honest account"


def _flagged(explanation: Explanation) -> str:
    replay, row = explanation.replay, explanation.row
    since = f"Suspect since query {row + 1:,} of {len(replay):,}"
    if explanation.at_verdict is not None:
        return f"{since}: {reasons(explanation.at_verdict)}."
    finding = replay.findings.get(row)
    if finding is None or finding.signal == "prada":
        w, delta = replay.signals["prada"][row], explanation.config.prada.delta
        return f"{since}: {describe('prada')}; W fell to {w:.3f}; the threshold is {delta:g}."
    return f"{since}: {finding.signal} reached {finding.statistic:.3g}; the threshold is {finding.threshold:.3g}."


def _not_flagged(explanation: Explanation) -> str:
    replay, row, breakdown = explanation.replay, explanation.row, explanation.at_verdict
    lead = f"Not a suspect after {count(len(replay))}"
    if np.isnan(replay.score).all():
        return f"{lead}: there are too few queries for any test."
    if breakdown is None:
        w, delta = replay.signals["prada"][row], explanation.config.prada.delta
        return f"{lead}: the lowest W was {w:.3f}, at query {row + 1:,}; the threshold is {delta:g}."
    return (
        f"{lead}: the largest unexplained deviation was {breakdown.d:.1f} {UNIT}, at query {row + 1:,}; "
        f"the threshold is {breakdown.threshold:.1f}."
    )


def _basis(explanation: Explanation) -> Iterator[str]:
    replay = explanation.replay
    if not explanation.has_profile:
        yield "UNCALIBRATED: honest accounts may be flagged, and most kinds of theft are missed."
    if replay.verdict is not None:
        yield from _d_since_verdict(explanation)
    if explanation.last_decision is not None:
        yield f"The last decision on record: {explanation.last_decision}."
    if not explanation.has_profile:
        yield _without_profile(explanation)
    if replay.refused:
        yield f"{count(replay.refused)} could not be judged: the number of features differs from that of the others."
    yield from explanation.notes


def _d_since_verdict(explanation: Explanation) -> Iterator[str]:
    """Yields D at the verdict, and at the last query."""
    replay, then, now = explanation.replay, explanation.at_verdict, explanation.at_end
    if then is not None:
        lead = f"The closest honest account explains {then.explained:.0%} of the deviation and leaves"
        if then.explained < _LEAST_EXPLAINED:
            lead = "No honest account explains any of the deviation:"
        yield f"{lead} D = {then.d:.1f} {UNIT}; the threshold is {then.threshold:.1f}."
    if now is not None and now.row > explanation.row:
        state = ""
        if now.d <= now.threshold:
            latched = " The account stays flagged until an operator clears it." if replay.flagged[-1] else ""
            state = f", below the threshold.{latched}"
        yield f"After query {len(replay):,}, D is {now.d:.1f}{state or '.'}"


def _without_profile(explanation: Explanation) -> str:
    if explanation.config.mode != "default":
        return "Only PRADA was used, exactly as published (compatible mode); this mode uses no profile."
    replay = explanation.replay
    return (
        f"There is no profile for {replay.model} {replay.versions[explanation.row]}: only PRADA was used. It detects "
        "thieves who step from their own earlier queries, and no others; a profile (weirguard calibrate) adds more "
        "measures."
    )
