"""The external effects of one state record, and its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

import numpy as np

from detector.contracts.findings import Alert, Decision
from detector.contracts.queries import BadRow
from detector.core.engine import Observation
from detector.core.exposure import EXPOSURES
from detector.core.profile.profile import ProfileMismatch
from detector.stream.dead_letters import Letters
from detector.stream.intake import Intake
from detector.stream.judge import Judgement
from detector.stream.record import Kind, Message, Position

UNKNOWN = "unknown"
"""The model of a row that could not be read that far."""


@dataclass(slots=True)
class Step:
    """One state record with all that must precede and follow it, and figures for the metrics.

    ``more``: the further parts of a record that is too large for one; their sequences follow on from ``position``.
    """

    position: Position
    kind: Kind
    record: bytes
    more: Sequence[bytes] = ()
    before: list[Message] = field(default_factory=list)
    after: list[Message] = field(default_factory=list)
    judged: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    uncalibrated: Counter[tuple[str, str]] = field(default_factory=Counter)
    unjudged: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    scores: dict[str, list[float]] = field(default_factory=dict)
    exposures: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    misfits: list[ProfileMismatch] = field(default_factory=list)
    rekeyed: int = 0
    evicted: int = 0
    first_chunk: int | None = None
    not_kept: Counter[str] = field(default_factory=Counter)

    @property
    def nbytes(self) -> int:
        """Bytes in the state log."""
        return len(self.record) + sum(len(part) for part in self.more)

    @property
    def log_entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of all that goes into the state log, in order."""
        fence, sequence = self.position
        for at, value in enumerate((self.record, *self.more)):
            yield b"%d|%d" % (fence, sequence + at), value

    def write(self, letters: Letters) -> None:
        """``letters`` go out before the state record."""
        self.before += letters.kept
        self.not_kept.update(letters.not_kept)

    def count(
        self, intake: Intake, judgement: Judgement, last: Sequence[int], refused: Mapping[int, Sequence[BadRow]]
    ) -> None:
        """Fill in the figures: what ``intake`` brought and came of it, ``last`` being the last rows of its principals;
        ``refused`` did not get that far."""
        observation = judgement.observation
        self._count_judged(intake, judgement)
        for bad in (row for rows in (*intake.refused.values(), *refused.values()) for row in rows):
            self.refused[bad.reason] += 1
            self.unjudged[bad.model or UNKNOWN, bad.reason] += bad.queries
        for _, count, _ in intake.counts:
            self.missing[count.kind] += count.queries
            if count.kind != "refused":
                by_reason = self.dropped if count.kind == "dropped" else self.unjudged
                by_reason[count.model, count.reason or count.kind] += count.queries
        self.repaired = intake.repaired + observation.repaired
        self.rekeyed = len(intake.strays)
        self.evicted = observation.evicted + judgement.effects.forgotten
        self.excused = judgement.effects.excused
        self._count_scores(observation, last)
        self._count_exposures(observation, last)

    def _count_judged(self, intake: Intake, judgement: Judgement) -> None:
        observation = judgement.observation
        end, taken = 0, observation.index >= 0
        for piece in intake.pieces:
            rows = slice(end, end := end + len(piece))
            repeats = int(np.count_nonzero(observation.repeats[rows]))
            self.repeated[piece.model] += repeats
            own = int(np.count_nonzero(taken[rows]))
            self.judged[piece.model] += own - repeats
            key = piece.model, piece.model_version
            if own and judgement.profiles.get(key) is None:
                self.uncalibrated[key] += own

    def _count_scores(self, observation: Observation, last: Sequence[int]) -> None:
        """The score of each principal as of the end of the micro-batch, by model."""
        for row, score in zip(last, observation.score[last].tolist(), strict=True):
            if not isnan(score):
                model = observation.keys[observation.key_index[row]].model
                self.scores.setdefault(model, []).append(score)

    def _count_exposures(self, observation: Observation, last: Sequence[int]) -> None:
        """The exposure to each principal as of the end of the micro-batch, as a share, by model and signal."""
        for name in EXPOSURES:
            for row, percent in zip(last, observation.signals[name][last].tolist(), strict=True):
                if not isnan(percent):
                    model = observation.keys[observation.key_index[row]].model
                    self.exposures.setdefault((model, name), []).append(percent / 100)
