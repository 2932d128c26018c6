"""Engine and ledger together: queries in, verdicts, alerts and decisions out. The same under Faust and in
``replay``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.findings import Family
from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, Observation, Sections, observe_together
from detector.core.exposure import EFFECTIVE_QUERIES, EXPOSURES, PRICE
from detector.core.measures import MEASURES
from detector.core.profile import Profile, ProfileMatcher
from detector.core.signals import WEIGHED
from detector.core.signals.suspicion import FOLLOWING, families_of
from detector.policy.activity import Activity, Affiliation, Counted, Effects, UnjudgedRow
from detector.policy.ledger import Ledger

POLICY_SECTION = "policy"
FIGURES = (*MEASURES, *WEIGHED, *FOLLOWING)
"""The columns of suspicion, in the order of standards."""
NO_ROWS = np.empty(0, np.int64)

ACCOUNTING_SECTION = "accounting"
BUDGETS_SECTION = "budgets"
ALLOWLIST_SECTION = "allowlist"


@dataclass(slots=True)
class DetectionInput:
    """Queries to judge: ``pieces`` in log order; ``times`` float64 (n,), policy time, nondecreasing; ``counts`` of
    queries without features; ``learning`` bool (n,), rows on which nothing is enforced, or None for none."""

    pieces: Sequence[QueryBatch] = ()
    times: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    counts: Sequence[Counted] = ()
    learning: NDArray[np.bool_] | None = None

    def versions(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """Returns the model versions of the queries of ``rows``."""
        if len(self.pieces) == 1:
            return [self.pieces[0].model_version] * len(rows)
        ends = np.cumsum([len(piece) for piece in self.pieces])
        return [self.pieces[at].model_version for at in np.searchsorted(ends, rows, side="right").tolist()]


class Detector:
    """Holds the engine and the ledger of one partition, or of one replayed log."""

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self.engine = engine
        self.ledger = ledger
        self._fitting = ProfileMatcher(engine.config.judging)

    def detect(self, queries: DetectionInput) -> tuple[Observation, Effects]:
        """Returns the verdicts on ``queries`` and what follows from them."""
        return detect_together([(self, queries)])[0]

    def decide(self, queries: DetectionInput, observation: Observation) -> Effects:
        """Returns what follows from the engine's observation of ``queries``."""
        affiliations = affiliations_of(queries.pieces) if self.ledger.exemptions.needs_affiliations else None
        organisations = None
        if self.ledger.budgets.needs_organisations:
            organisations = [organisation for organisation, _ in affiliations_of(queries.pieces)]
        activity = replace(
            _activity(queries, observation),
            affiliations=affiliations,
            organisations=organisations,
            families=self._families(observation),
        )
        return self.ledger.observe(activity)

    def profiles_of(self, pieces: Sequence[QueryBatch]) -> dict[tuple[str, str], str | None]:
        """Returns, for each model and version of ``pieces`` that is judged, the hash of the profile that it is judged
        by; None without one."""
        judged = [(piece, self._fitting.judged_as(piece)) for piece in pieces]
        return {
            (piece.model, piece.model_version): self._fitting.hash_of(piece.model, version)
            for piece, version in judged
            if version is not None
        }

    def _families(self, observation: Observation) -> dict[int, Family]:
        """Returns the flagged rows of suspects for content alone at which evidence of another family counts."""
        new = {(finding.model, finding.principal) for finding in observation.findings if finding.family == "content"}
        principals = [(key.model, key.principal) for key in observation.keys]
        by_content = np.array([key in new or self.ledger.by_content_alone(key) for key in principals], np.bool_)
        rows = np.flatnonzero(observation.flagged & by_content[observation.key_index]) if by_content.any() else NO_ROWS
        return later_families(observation, self.engine.config.judging, rows)


def later_families(observation: Observation, profiles: Sequence[Profile], rows: NDArray[np.int64]) -> dict[int, Family]:
    """Returns those of ``rows`` at which evidence of another family than content counts, with that family."""
    found: dict[int, Family] = {}
    for profile in profiles if len(rows) else ():
        version = (profile.model, profile.model_version)
        keys = [at for at, key in enumerate(observation.keys) if (key.model, key.model_version) == version]
        of_profile = rows[np.isin(observation.key_index[rows], keys)]
        standards = profile.standards.aligned(FIGURES)
        scores = np.column_stack([observation.signals[f"suspicion.{name}"][of_profile] for name in FIGURES])
        families = zip(of_profile.tolist(), families_of(standards, scores), strict=True)
        found |= {row: family for row, family in families if family != "content"}
    return found


def detect_together(work: Sequence[tuple[Detector, DetectionInput]]) -> list[tuple[Observation, Effects]]:
    """Returns what each detector observes in its queries, and what follows, in one call of their engines, which are
    siblings."""
    observations = observe_together([(detector.engine, list(queries.pieces)) for detector, queries in work])
    return [
        (observation, detector.decide(queries, observation))
        for (detector, queries), observation in zip(work, observations, strict=True)
    ]


def _activity(queries: DetectionInput, observation: Observation) -> Activity:
    refused = observation.refused
    versions = queries.versions([bad.row for bad in refused]) if refused else []
    return Activity(
        time=queries.times,
        keys=observation.keys,
        key_index=observation.key_index,
        flagged=observation.flagged,
        findings=observation.findings,
        learning=queries.learning,
        counts=queries.counts,
        judged=observation.index >= 0,
        unjudged={bad.row: UnjudgedRow(bad.reason, version) for bad, version in zip(refused, versions, strict=True)},
        score=observation.score,
        index=observation.index,
        exposure=exposure_of(observation),
        price=observation.signals.get(f"{EFFECTIVE_QUERIES}.{PRICE}"),
    )


def affiliations_of(pieces: Sequence[QueryBatch]) -> list[Affiliation]:
    """Returns organisation and network prefix of each row, empty where they were not logged."""
    affiliations: list[Affiliation] = []
    for piece in pieces:
        unknown = [""] * len(piece)
        affiliations += zip(piece.organisation or unknown, piece.network_prefix or unknown, strict=True)
    return affiliations


def exposure_of(observation: Observation) -> NDArray[np.float64]:
    """Returns float64 (n,): the larger reading of the meters, in percent; NaN without one."""
    readings: NDArray[np.float64] = np.full(len(observation.index), np.nan)
    for name in EXPOSURES:
        if name in observation.signals:
            np.fmax(readings, observation.signals[name], out=readings)
    return readings


def policy_sections(effects: Effects) -> Sections:
    """Returns the policy's change of state, for the log."""
    parts = {
        POLICY_SECTION: effects.section,
        ACCOUNTING_SECTION: effects.accounting,
        BUDGETS_SECTION: effects.budgets,
        ALLOWLIST_SECTION: effects.allowlist,
    }
    return {name: section for name, section in parts.items() if section is not None}
