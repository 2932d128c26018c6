"""Whether there is a profile for logged queries, and if not, what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from detector.contracts.queries import QueryBatch
from detector.core.profile import Profile

Reason = Literal["model", "model_version", "features", "outputs"]
_ADVICE = "write one for it with `weirguard calibrate`"


@dataclass(frozen=True, slots=True)
class Misfit:
    """``reason``: what there is no profile for. ``detail``: what differs and what to do, for people."""

    reason: Reason
    detail: str


class Fitting:
    """Holds queries against ``profiles``, at most one for each model version."""

    def __init__(self, profiles: Sequence[Profile]) -> None:
        self._profiles = {(own.model, own.model_version): own for own in profiles}

    def misfit(self, queries: QueryBatch) -> Misfit | None:
        """Why no profile fits ``queries``; None where one does."""
        own = self._profiles.get((queries.model, queries.model_version))
        return self._unknown(queries) if own is None else _in_form(own, queries)

    def _unknown(self, queries: QueryBatch) -> Misfit:
        who = f"{queries.model} {queries.model_version}"
        versions = [version for model, version in self._profiles if model == queries.model]
        if versions:
            detail = f"there is no profile for {who}, only for version {', '.join(versions)}; {_ADVICE}"
            return Misfit("model_version", detail)
        models = sorted({model for model, _ in self._profiles})
        return Misfit("model", f"there is no profile for {who}, only for {', '.join(models) or 'nothing'}; {_ADVICE}")


def _in_form(profile: Profile, queries: QueryBatch) -> Misfit | None:
    who = f"{queries.model} {queries.model_version}"
    if queries.dimension != profile.reference.dimension:
        detail = f"{who}: queries have {queries.dimension} features and its profile {profile.reference.dimension}"
        return Misfit("features", f"{detail}; log what was logged when it was calibrated, or {_ADVICE}")
    logged, known = (queries.output_kind, queries.outputs.shape[1]), _outputs(profile)
    if logged != known:
        detail = f"{who}: outputs are {_told(*logged)}, and in its profile {_told(*known)}"
        return Misfit("outputs", f"{detail}; log what was logged when it was calibrated, or {_ADVICE}")
    return None


def _outputs(profile: Profile) -> tuple[str, int]:
    return profile.reference.output_kind, profile.reference.outputs.shape[1]


def _told(kind: str, count: int) -> str:
    return f"{kind} of {count} column{'s' if count != 1 else ''}"
