"""Whether there is a profile for logged queries, and if not, what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detector.contracts.queries import MisfitReason, QueryBatch
from detector.core.profile import Profile

_ADVICE = "write one for it with `weirguard calibrate`"


@dataclass(frozen=True, slots=True)
class Misfit:
    """So many ``queries`` to ``model`` fit no profile. ``reason``: what there is none for; ``detail``: what differs and
    what to do, for people."""

    model: str
    queries: int

    reason: MisfitReason
    detail: str


class Fitting:
    """Holds queries against ``profiles``, at most one for each model version."""

    def __init__(self, profiles: Sequence[Profile]) -> None:
        self._profiles = {(own.model, own.model_version): own for own in profiles}

    def misfit(self, queries: QueryBatch) -> Misfit | None:
        """Why no profile fits ``queries``; None where one does."""
        own = self._profiles.get((queries.model, queries.model_version))
        return self._unknown(queries) if own is None else _in_form(own, queries)

    def misfits(self, pieces: Sequence[QueryBatch]) -> list[Misfit]:
        """What no profile fits among ``pieces``; nothing where there are no profiles at all."""
        found = [self.misfit(piece) for piece in pieces] if self._profiles else []
        return [misfit for misfit in found if misfit is not None]

    def _unknown(self, queries: QueryBatch) -> Misfit:
        versions = [version for model, version in self._profiles if model == queries.model]
        models = sorted({model for model, _ in self._profiles})
        there = f"version {', '.join(versions)}" if versions else ", ".join(models) or "nothing"
        detail = f"there is no profile for {_name(queries)}, only for {there}; {_ADVICE}"
        return Misfit(queries.model, len(queries), "model_version" if versions else "model", detail)


def _in_form(profile: Profile, queries: QueryBatch) -> Misfit | None:
    reference = profile.reference
    logged = queries.output_kind, queries.outputs.shape[1]
    known = reference.output_kind, reference.outputs.shape[1]
    if queries.dimension != reference.dimension:
        detail = f"queries have {queries.dimension} features, and in its profile {reference.dimension}"
        return _deformed(queries, "features", detail)
    if logged != known:
        return _deformed(queries, "outputs", f"outputs are {_told(*logged)}, and in its profile {_told(*known)}")
    return None


def _deformed(queries: QueryBatch, reason: MisfitReason, detail: str) -> Misfit:
    advice = f"log them as when it was calibrated, or {_ADVICE}"
    return Misfit(queries.model, len(queries), reason, f"{_name(queries)}: {detail}; {advice}")


def _name(queries: QueryBatch) -> str:
    return f"{queries.model} {queries.model_version}"


def _told(kind: str, count: int) -> str:
    return f"{kind} of {count} column{'s' if count != 1 else ''}"
