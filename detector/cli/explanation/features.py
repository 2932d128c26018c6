"""Names the features with values that no honest query has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from detector.contracts.queries import QueryBatch
from detector.core.configuration import EngineConfig
from detector.core.profile.profile import Profile, ProfileMatcher
from detector.core.profile.reference import ReferenceIndex

_SHOWN = 4


def unseen_by_name(batches: Sequence[QueryBatch], config: EngineConfig) -> list[str]:
    """Returns a sentence on the features that most often have values that no honest query has. Returns nothing if there
    are no such values, or no profile."""
    fitting, found, rows = ProfileMatcher(config.judging), Counter[str](), 0
    profiles = {(own.model, own.model_version): own for own in config.judging}
    for batch in batches:
        own = profiles.get((batch.model, fitting.judged_as(batch) or ""))
        plain = fitting.plain(batch, Counter())
        if own is not None and plain.dimension == own.reference.dimension:
            found += _unseen(own, plain)
            rows += len(plain)
    told = [f"{name} in {often:,}" for name, often in found.most_common(_SHOWN)]
    return [f"Values that no honest query has, of {rows:,} queries: {', '.join(told)}."] if told else []


def _unseen(profile: Profile, plain: QueryBatch) -> Counter[str]:
    """Returns the number of rows in which each feature has such a value."""
    reference = profile.reference
    counts = reference.seen.unseen_mask(ReferenceIndex(reference).scaled(plain.features)).sum(axis=0)
    names = profile.form.names or [f"feature {number}" for number in range(1, len(counts) + 1)]
    found: Counter[str] = Counter()
    for at in np.flatnonzero(counts).tolist():
        found[names[at]] += int(counts[at])
    return found
