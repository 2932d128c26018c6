"""Engine and ledger together: queries in, verdicts, alerts and decisions out. The same under Faust and in
``replay``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.contracts.queries import QueryBatch
from detector.core.engine import Engine, Observation, Sections, observe_together
from detector.core.profile.profile import ProfileMatcher
from detector.policy.activity import Activity, Counted, Effects, UnjudgedRow
from detector.policy.ledger import Ledger

POLICY_SECTION = "policy"
ACCOUNTING_SECTION = "accounting"


@dataclass(frozen=True, slots=True)
class Hearing:
    """Queries to judge: ``pieces`` in log order; ``times`` float64 (n,), policy time, nondecreasing; ``counts`` of
    queries without features; ``learning`` bool (n,), rows on which nothing is enforced, or None for none."""

    pieces: Sequence[QueryBatch]
    times: NDArray[np.float64]
    counts: Sequence[Counted] = ()
    learning: NDArray[np.bool_] | None = None

    def versions(self, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """Returns the model versions of the queries of ``rows``."""
        if len(self.pieces) == 1:
            return [self.pieces[0].model_version] * len(rows)
        ends = np.cumsum([len(piece) for piece in self.pieces])
        return [self.pieces[at].model_version for at in np.searchsorted(ends, rows, side="right").tolist()]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The engine's observation, the policy's effects, and both changes of state for the log. ``profiles``: for each
    model and version that was judged, the hash of the profile it was judged by; None without one."""

    observation: Observation
    effects: Effects
    sections: Sections
    profiles: Mapping[tuple[str, str], str | None]


class Judge:
    """Holds the engine and the ledger of one partition, or of one replayed log."""

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        self.engine = engine
        self.ledger = ledger
        self._fitting = ProfileMatcher(engine.config.judging)

    def judge(self, hearing: Hearing) -> Judgement:
        """Returns the verdicts and decisions for one hearing."""
        return judge_together([(self, hearing)])[0]

    def conclude(self, hearing: Hearing, observation: Observation) -> Judgement:
        """Returns the result of the policy for the engine's observation."""
        effects = self.ledger.observe(_activity(observation, hearing))
        sections = observation.sections | policy_sections(effects)
        return Judgement(observation, effects, sections, self._profiles(hearing))

    def _profiles(self, hearing: Hearing) -> dict[tuple[str, str], str | None]:
        judged = [(piece, self._fitting.judged_as(piece)) for piece in hearing.pieces]
        return {
            (piece.model, piece.model_version): self._fitting.hash_of(piece.model, version)
            for piece, version in judged
            if version is not None
        }


def judge_together(work: Sequence[tuple[Judge, Hearing]]) -> list[Judgement]:
    """Returns the result of each judge for its hearing, in one call of their engines, which are siblings."""
    seen = observe_together([(judge.engine, list(hearing.pieces)) for judge, hearing in work])
    return [judge.conclude(hearing, observation) for (judge, hearing), observation in zip(work, seen, strict=True)]


def _activity(observation: Observation, hearing: Hearing) -> Activity:
    return Activity(
        time=hearing.times,
        keys=observation.keys,
        key_index=observation.key_index,
        flagged=observation.flagged,
        findings=observation.findings,
        learning=hearing.learning,
        counts=hearing.counts,
        judged=observation.index >= 0,
        unjudged=_unjudged(observation, hearing) if observation.refused else {},
        score=observation.score,
        index=observation.index,
    )


def _unjudged(observation: Observation, hearing: Hearing) -> dict[int, UnjudgedRow]:
    versions = hearing.versions([bad.row for bad in observation.refused])
    return {
        bad.row: UnjudgedRow(bad.reason, version) for bad, version in zip(observation.refused, versions, strict=True)
    }


def policy_sections(effects: Effects) -> Sections:
    """Returns the policy's change of state, for the log."""
    parts = {POLICY_SECTION: effects.section, ACCOUNTING_SECTION: effects.accounting}
    return {name: section for name, section in parts.items() if section is not None}
