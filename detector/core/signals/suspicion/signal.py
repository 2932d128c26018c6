"""``suspicion``: all measures of a principal together, against the honest accounts of the profile (``standards``).

The only signal that raises alarms where there is a profile. Its statistic is D, the deviation that no honest account
explains; its score is D over the profile's threshold. It also weighs the scores of earlier signals in the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import NotMergeable
from detector.contracts.findings import Evidence
from detector.core.configuration import EngineConfig
from detector.core.loops.compiled import compiled
from detector.core.measures.base import WIDTH, Measure, MeasureInput, update_trail
from detector.core.neighbours.history import Views
from detector.core.profile.profile import Profile
from detector.core.signals.base import Delta, Proposal
from detector.core.signals.suspicion.scoring import CHANGE, CLOCKS, Queries, Scoring, width
from detector.core.state.arrays import Array
from detector.core.state.columns import Columns
from detector.core.state.rows import Rows

_STATE = ("sums", "trail", "profile", "alarm")
_SHOWN = 4
"""The most measures that are named as evidence. Those that add only rounding are left out."""
_LEAST_ADDED = 1e-9

Floats = NDArray[np.float64]
Listener = Callable[[Rows, Floats, Floats, Floats], None]
"""Is called for each step: its rows, the scores of each measure float64 (n, j), the weights of each clock (n, 3) and
the scores of the other signals (n, f)."""


class Suspicion:
    """State per slot: the decayed sums of all measures and of all clocks' weights, the trail, the tag of the profile,
    and whether the alarm is on."""

    name: ClassVar[str] = "suspicion"
    version: ClassVar[int] = 1
    mergeable: ClassVar[bool] = True

    def __init__(
        self,
        config: EngineConfig,
        measures: Mapping[str, Measure],
        others: Sequence[str],
        listener: Listener | None = None,
    ) -> None:
        self._measures, self._others, self._listener = list(measures.values()), list(others), listener
        self.figures = (*measures, *others, CHANGE)
        self._judges = {
            (own.model, own.model_version): _Judge(own, self.figures, self._measures) for own in config.judging
        }
        self._slots = Columns(
            {
                "sums": (np.float64, 0.0, width(self._measures)),
                "trail": (np.float32, np.nan, WIDTH),
                "profile": (np.uint64, 0),
                "alarm": (np.bool_, False),
            }
        )

    def observe(self, rows: Rows, views: Views) -> Proposal:
        judge = self._judges.get((rows.model, rows.model_version))
        if judge is None or not views.has_reference:
            return self._silent(len(rows))
        self._begin(rows.slots, judge.tag)
        slot = rows.slots[rows.slot]
        sight = MeasureInput(rows, views, update_trail(rows, slot, views.projection.points, self._slots["trail"]))
        columns = (
            [measure.score(sight) for measure in self._measures],
            [sight.weights[clock] for clock in CLOCKS],
            [views.scores[name] for name in self._others],
        )
        queries = Queries(*(_together(own, len(rows)) for own in columns))
        if self._listener is not None:
            self._listener(rows, *queries)
        return self._judged(rows, judge, slot, judge.scoring.follow(slot, queries, self._slots["sums"]))

    def apply(self, slots: Array, pools: Array, delta: Delta) -> None:
        del pools
        if not delta or delta["slot_sums"].shape[1:] != self._slots["sums"].shape[1:]:
            return  # of nobody with a profile, or of a version with other measures: a cold start
        self._reserve(slots)
        for name in _STATE:
            self._slots[name][slots] = delta[f"slot_{name}"]

    def dump(self, slots: Array, pools: Array) -> Delta:
        del pools
        if not self._judges:
            return {}
        self._reserve(slots)
        return {f"slot_{name}": self._slots[name][slots] for name in _STATE}

    def load(self, slots: Array, pools: Array, state: Delta) -> None:
        self.apply(slots, pools, state)

    def evict(self, slots: Array, pools: Array) -> None:
        del pools
        self._slots.reset(slots)

    def nbytes(self, slots: Array | None = None, pools: Array | None = None) -> int:
        del pools
        per_slot = sum(self._slots[name][:1].nbytes for name in _STATE)
        return self._slots.nbytes if slots is None else per_slot * len(slots)

    def merge(self, states: list[Delta]) -> Delta:
        """Returns summed states; a group has no trail, and its alarm is decided at its next query."""
        tags = {int(tag) for state in states for tag in state["slot_profile"]} - {0}
        if len(tags) > 1:
            raise NotMergeable("the members' sums follow different profiles; count them by one")
        joined = {name: np.concatenate([state[f"slot_{name}"] for state in states]) for name in _STATE}
        return {
            "slot_sums": joined["sums"].sum(axis=0, keepdims=True),
            "slot_trail": np.full_like(joined["trail"][:1], np.nan),
            "slot_profile": joined["profile"].max(keepdims=True),
            "slot_alarm": np.zeros(1, np.bool_),
        }

    def _begin(self, slots: Array, tag: np.uint64) -> None:
        """Gives those of ``slots`` whose state belongs to another profile that of a new account."""
        self._reserve(slots)
        stale = slots[self._slots["profile"][slots] != tag]
        if len(stale):
            self._slots.reset(stale)
            self._slots["profile"][stale] = tag

    def _judged(self, rows: Rows, judge: _Judge, slot: Array, scores: Floats) -> Proposal:
        left = judge.unexplained(scores)
        alarm = left > judge.threshold
        risen = np.empty_like(alarm)
        _rise(slot, alarm, self._slots["alarm"], risen)
        return Proposal(
            statistic=left,
            score=left / judge.threshold,
            alarm=alarm,
            threshold=judge.threshold,
            evidence={row: judge.evidence(scores[row], float(left[row])) for row in np.flatnonzero(risen).tolist()},
            delta=self.dump(rows.slots, rows.pools),
            figures=dict(zip(self.figures, scores.T, strict=True)),
        )

    def _silent(self, count: int) -> Proposal:
        unknown = np.full(count, np.nan)
        return Proposal(unknown, unknown, np.zeros(count, np.bool_), np.nan, {}, {})

    def _reserve(self, slots: Array) -> None:
        if len(slots):
            self._slots.reserve(int(slots.max()) + 1)


class _Judge:
    """One profile's standards, in the order of this version's measures. ``tag``: a hash of both."""

    def __init__(self, profile: Profile, names: Sequence[str], measures: Sequence[Measure]) -> None:
        whose = " ".join((profile.hash, *names)).encode()
        self.tag = np.uint64(int.from_bytes(blake2b(whose, digest_size=8).digest(), "big"))
        self._names = names
        self._standards = profile.standards.aligned(names)
        self.scoring = Scoring(measures, self._standards.spread)
        self.threshold = self._standards.threshold

    def unexplained(self, scores: Floats) -> Floats:
        return self._standards.unexplained(scores)

    def evidence(self, scores: Floats, left: float) -> tuple[Evidence, ...]:
        """Returns D and the measures that add most to it, beside the closest honest account's values."""
        added, reached = self._standards.contributions(scores[None])
        first = np.argsort(-added[0], kind="stable")[:_SHOWN]
        most = [
            Evidence(self._names[at], float(scores[at]), "standard deviations", float(reached[0, at]))
            for at in first.tolist()
            if added[0, at] > _LEAST_ADDED
        ]
        return (Evidence("unexplained", left, "standard deviations", self.threshold), *most)


def _together(columns: Sequence[Floats], count: int) -> Floats:
    """Returns float64 (n, m): ``columns``, float64 (n,) each, row after row; there may be none."""
    together = np.empty((count, len(columns)))
    for at, column in enumerate(columns):
        together[:, at] = column
    return together


@compiled
def _rise(
    slot: NDArray[np.int64], alarm: NDArray[np.bool_], standing: NDArray[np.bool_], risen: NDArray[np.bool_]
) -> None:
    """Row after row, sets ``risen`` where the slot's alarm was off before, and moves ``standing`` (slots,) on."""
    for row in range(len(slot)):
        risen[row] = alarm[row] and not standing[slot[row]]
        standing[slot[row]] = alarm[row]
