"""Measures and suspicion as obvious as they get: one query at a time, lists and loops, float64. Slow on purpose.

Written from what the docstrings say; what it takes from the detector are the numbers of a profile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import exp, inf, isfinite, isinf, isnan, log, log2, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.core.measures import Measure
from detector.core.reference.reference import Reference
from detector.core.reference.standards import Standards
from tests.core.blend_oracle import Blender
from tests.core.oracle import OraclePrincipal

MEMORIES = (8.0, 32.0, 128.0, 512.0)
PRIOR = 3.0

Vector = NDArray[Any]


@dataclass(frozen=True)
class Query:
    """One query; ``output`` is None unless it has the reference's kind and width."""

    features: Vector
    output: Vector | None
    label: int
    missing: Vector | None = None
    hardness: float = nan
    specification: tuple[float, float] | None = None


@dataclass
class Near:
    """The three nearest reference rows; ``sure``: no fourth is as near as the third."""

    distance: float
    rows: list[int]
    sure: bool


@dataclass
class Account:
    """All queries of one principal, and the score of each measure for the next query. ``rows``: the raw ones that
    ``reference`` was made of. ``told``: the answers to what is in each growing set. ``doubtful``: measures that would
    say another thing of the last query, had another one been chosen of several that are equally near."""

    reference: Reference
    rows: Vector
    asked: set[bytes] = field(default_factory=set)
    specification: tuple[float, float] | None = None
    told: dict[int, list[float]] = field(default_factory=dict)
    prada: OraclePrincipal = field(default_factory=lambda: OraclePrincipal(0.9))
    places: list[Vector] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    averaged: int = 0
    was_far: bool = False
    doubtful: set[str] = field(default_factory=set)
    _unsure: set[str] = field(default_factory=set)

    def query(self, query: Query) -> tuple[dict[str, float], dict[str, float]]:
        """The value of each measure, NaN if it has none, and the weight on each clock."""
        vector = (query.features / self.reference.scale).astype(np.float32)
        point, beside = self._place(vector)
        self.places.append(point)
        self._unsure = set()
        near = self._near(point, beside)
        own, nearest = self._own(vector)
        nearness = own / max(near.distance, 1e-9)
        same = self._nearest(vector, query.label)
        said = [
            self._of_step(own, step)
            | {"leaps": self._leap(query, before, own < same, nearness)}
            | self._blends(vector, point, nearness, step)
            for step, before in nearest
        ]
        self.doubtful = {name for name in said[0] if any(one[name] != said[0][name] for one in said)}
        self.doubtful |= (set() if near.sure else {"surprise"}) | self._unsure
        repeated = vector.tobytes() in self.asked
        values = {
            "synthetic": self._synthetic([*point.tolist(), beside], repeated),
            "novelty": log(near.distance + 1e-6),
            "unseen_values": log2(1 + self._unseen(vector)),
            "outlyingness": self._outlyingness(vector),
            "surprise": self._surprise(query.output, near),
            **self._margins(query.output),
            "hardness": self._hardness(query.hardness),
            "near_duplicate": min(max(-log(nearness + 1e-9), 0.0), 5.0) if isfinite(nearness) else 0.0,
            "tiny_steps": float(nearness < 0.01),
            **said[0],
            "crossings": nan if isinf(same) else min(max(log(max(same / max(own, 1e-9), 1e-9)), 0.0), 3.0),
            "specification_changes": self._changes(query.specification),
            "missing_features": 0.0 if query.missing is None else float(sum(query.missing)) / len(vector),
        }
        new = 0.0 if repeated or nearness <= 1e-6 else 1.0
        self.specification = query.specification
        self.asked.add(vector.tobytes())
        self._learn(vector, query)
        weight = min(max(nearness**2, 0.05), 1.0) if isfinite(nearness) else 1.0
        return values, {"each": new, "effective": new * weight, "near": new if nearness < 0.5 else 0.0}

    def _place(self, vector: Vector) -> tuple[Vector, float]:
        embedding = self.reference.embedding
        centred = vector.astype(np.float64) - embedding.centre
        along = [float(centred @ axis) for axis in embedding.axes.T]
        beside = sqrt(max(float(centred @ centred) - sum(value**2 for value in along), 0.0))
        return np.array(along, np.float32).astype(np.float64), float(np.float32(beside))

    def _synthetic(self, along: list[float], repeated: bool) -> float:
        """The log-odds by how far it is from the mean of the queries before, along each axis; and a new mean."""
        weights = self.reference.synthetic
        assert weights is not None
        self.mean = self.mean or [0.0] * len(along)
        scaled = [
            abs(value - mean) / float(deviation)
            for value, mean, deviation in zip(along, self.mean, weights.deviation, strict=True)
        ]
        squares = [min(gap**2 * self.averaged / (self.averaged + 1), 36.0) for gap in scaled]
        odds = float(weights.at_mean[0]) + sum(
            float(weight) * square for weight, square in zip(weights.weight, squares, strict=True)
        )
        value = min(max(odds, 0.0), 6.0) if self.averaged >= 4 else nan
        if not repeated:
            self._move(along, [4.0 * float(deviation) for deviation in weights.deviation], max(scaled) > 8)
        return value

    def _move(self, along: list[float], most: list[float], far: bool) -> None:
        """Moves the mean by a query; the second far one in a row is the new mean."""
        jumps, self.was_far = far and self.was_far, far
        self.averaged = min(self.averaged, 4) + 1 if jumps else self.averaged + 1
        for axis, (value, farthest) in enumerate(zip(along, most, strict=True)):
            gap = value - self.mean[axis]
            self.mean[axis] += gap if jumps else min(max(gap, -farthest), farthest) / self.averaged

    def _near(self, point: Vector, beside: float) -> Near:
        found = []
        for at, (other, off) in enumerate(zip(self.reference.points, self.reference.residual, strict=True)):
            along = float(((other.astype(np.float64) - point) ** 2).sum())
            itself = sqrt(along + (off - beside) ** 2) <= 1e-3 * self.reference.median_distance
            found.append((inf if itself else sqrt(along + off**2 + beside**2), at))
        found.sort()
        best = found[0][0]
        sure = len(found) == 3 or found[3][0] > found[2][0] * (1 + 1e-5)
        return Near(best if isfinite(best) else 0.0, [at for _, at in found[:3]], sure)

    def _learn(self, vector: Vector, query: Query) -> None:
        before = self.prada.growing_size
        self.prada.query(vector, query.label)
        if self.prada.growing_size > before:
            self.told.setdefault(query.label, []).append(self._word(query.output))

    def _word(self, output: Vector | None) -> float:
        """An answer in one number."""
        return nan if output is None else 1.0 if self.reference.output_kind == "label" else float(max(output))

    def _own(self, vector: Vector) -> tuple[float, list[tuple[list[float], float]]]:
        """Distance to the nearest own earlier query that is in a growing set, the step from it and what it was told;
        of each of them, if several are as near."""
        best, nearest = inf, [([nan] * len(vector), nan)]
        for label, own in self.prada.growing.items():
            for other, told in zip(own, self.told[label], strict=True):
                distance = _distance(vector, other)
                found = ((vector - other.astype(np.float32)).tolist(), told)
                if distance <= best:
                    nearest = [*(nearest if distance == best else []), found]
                    best = distance
        return best, nearest

    def _nearest(self, vector: Vector, label: int) -> float:
        """The same of those that were told ``label``; inf where there is none."""
        return min((_distance(vector, other) for other in self.prada.growing.get(label, [])), default=inf)

    def _leap(self, query: Query, before: float, other_class: bool, nearness: float) -> float:
        if query.output is None or isnan(before):
            return nan
        now = self._word(query.output)
        apart = abs(now - before)
        if self.reference.output_kind == "score":
            apart /= self._range()
        elif other_class:
            apart = max(apart, now + before - 1)
        return min(apart / max(nearness, 0.05), 3.0)

    def _range(self) -> float:
        everything = self.reference.outputs.ravel().tolist()
        return max(max(everything) - min(everything), 1e-9)

    def _of_step(self, own: float, step: list[float]) -> dict[str, float]:
        """Returns the scores of the ``step`` from an own query at distance ``own``."""
        changed = [abs(change) > 1e-4 * width for change, width in zip(step, self._spread, strict=True)]
        return {
            "one_feature": float(isfinite(own) and sum(changed) <= 2),
            "sign_steps": float(isfinite(own) and self._one_magnitude(step, changed)),
            "parallel_steps": float(sum(changed) >= 3 and self._parallel()),
        }

    @cached_property
    def _spread(self) -> list[float]:
        """How widely each feature ranges once divided by its scale; those that never change as the median one."""
        widths = np.ptp(self.rows, axis=0).astype(np.float64)
        usual = float(np.median(widths[widths > 0]))
        return [(width or usual) / scale for width, scale in zip(widths.tolist(), self.reference.scale, strict=True)]

    @cached_property
    def _known(self) -> list[dict[int, list[float]]]:
        """The distinct values of each feature in the reference, by the bin of its range that they fall into."""
        scaled = (self.rows / self.reference.scale).astype(np.float32)
        return [
            _by_bin(sorted(set(column.tolist())), width) for column, width in zip(scaled.T, self._spread, strict=True)
        ]

    def _unseen(self, vector: Vector) -> int:
        columns = zip(vector.tolist(), self._known, self._spread, strict=True)
        return sum(not _is_seen(value, known, width) for value, known, width in columns)

    def _outlyingness(self, vector: Vector) -> float:
        """From how far it lies along each direction of the embedding."""
        embedding = self.reference.embedding
        centred = vector.astype(np.float64) - embedding.centre
        along = [float(centred @ direction) for direction in embedding.whitening.T]
        return log(sum(value**2 for value in along) / len(along) + 1e-12)

    def _surprise(self, output: Vector | None, near: Near) -> float:
        if output is None:
            return nan
        told = [self.reference.outputs[at].astype(np.float64) for at in near.rows]
        if self.reference.output_kind == "label":
            return sum(float(other[0] != output[0]) for other in told) / len(told)
        mean = sum(told) / len(told)
        gap = [abs(float(value) - float(usual)) for value, usual in zip(output, mean, strict=True)]
        if self.reference.output_kind == "probabilities":
            return sum(gap) / 2
        return sum(gap) / len(gap) / self._range()

    def _margins(self, output: Vector | None) -> dict[str, float]:
        if output is None or self.reference.output_kind != "probabilities":
            return {"low_margin": nan, "high_margin": nan}
        second, first = sorted(max(float(value), 1e-6) for value in output)[-2:]
        share = _share_below(log(first) - log(second), self.reference.margins.tolist())
        return {"low_margin": -log(share), "high_margin": -log(1 - share)}

    def _hardness(self, hardness: float) -> float:
        honest = self.reference.hardness.tolist()
        return nan if isnan(hardness) or not honest else -log(1 - _share_below(hardness, honest))

    def _changes(self, specification: tuple[float, float] | None) -> float:
        if specification is None:
            return nan
        return float(self.specification is not None and specification != self.specification)

    def _blends(self, vector: Vector, point: Vector, nearness: float, step: list[float]) -> dict[str, float]:
        """How much more own queries make up of ``vector`` than honest rows do."""
        changed = sum(abs(change) > 1e-4 * width for change, width in zip(step, self._spread, strict=True))
        if changed <= 2:
            return dict.fromkeys(("recombination", "interpolation"), 0.0)
        held = [row for rows in self.prada.growing.values() for row in rows]
        if len(held) < 8 or nearness == 0:
            return dict.fromkeys(("recombination", "interpolation"), 0.0)
        compared, rows = self.reference.compared, np.array(held, np.float32)
        x, distances = vector[compared.features], np.abs(rows - (vector - np.array(step, np.float32))).sum(axis=1)
        own = rows[int(distances.argmin())]
        blender = Blender(compared, x, rows[:, compared.features], own[compared.features])
        if len(vector) >= 32:
            blender.projections = np.array([self._place(row)[0][:7] for row in rows])
            blender.ends = np.array([self._place(own)[0][:7], point[:7]])
        first, common, second, base = blender.says()
        count = min(len(held), len(compared.rows))
        honest = compared.rows[[at * (len(compared.rows) // count) for at in range(count)]]
        adding, between = Blender(compared, x, honest, base), Blender(compared, x, honest, blender.base)
        theirs = adding.recombined() if first > 0.2 else 0.0, between.spanned() if second > 1.0 else 0.0
        if blender.doubtful or adding.doubtful or between.doubtful:
            self._unsure |= {"recombination", "interpolation"}
        return {
            "recombination": min(max(first - max(theirs[0], common, 0.2), 0.0), 3.0),
            "interpolation": min(max(second - max(theirs[1], 1.0), 0.0), 3.0) * min(4 * nearness, 1.0),
        }

    def _one_magnitude(self, step: list[float], changed: list[bool]) -> bool:
        every = -(-len(step) // 128)
        sizes = [
            abs(change) * float(scale)
            for change, scale, moved in list(zip(step, self.reference.scale, changed, strict=True))[::every]
            if moved
        ]
        if len(sizes) < 5:
            return False
        count, equal = len(sizes), _equal(sizes)
        share, chance = (equal - 1) / (count - 1), self._chance
        if equal <= count / 2 or share <= chance:
            return False
        sure = share * log(share / chance)
        sure += (1 - share) * log((1 - share) / (1 - chance)) if share < 1 else 0.0
        return (count - 1) * sure > 6

    @cached_property
    def _chance(self) -> float:
        """The share of equal sizes that one in twenty honest steps exceeds."""
        compared, shares = self.reference.compared, []
        rows, scale = compared.rows.astype(np.float64), self.reference.scale[compared.features]
        for row in rows[:: max(len(rows) // 128, 1)]:
            distances = np.sqrt(((rows - row) ** 2).sum(axis=1))
            distances[distances <= 1e-3] = np.inf
            step = np.abs(rows[distances.argmin()] - row)
            sizes = (step * scale)[step > compared.limits].tolist()
            if len(sizes) >= 5:
                shares.append((_equal(sizes) - 1) / (len(sizes) - 1))
        return min(max(float(np.quantile(shares, 0.95)), 0.005), 0.5) if shares else 0.005

    def _parallel(self) -> bool:
        if len(self.places) < 3:
            return False
        first, second, third = (place[:16] for place in self.places[-3:])
        last, before = third - second, second - first
        length = sqrt(sum(last**2)) * sqrt(sum(before**2))
        return length > 1e-20 and abs(sum(last * before)) > 0.98 * length


def _equal(sizes: list[float]) -> int:
    middle = sorted(sizes)[(len(sizes) - 1) // 2]
    return sum(abs(size - middle) <= 1e-3 * middle for size in sizes)


def _distance(one: Vector, other: Vector) -> float:
    return float(np.sqrt(((one.astype(np.float64) - other) ** 2).sum()))


def _share_below(value: float, honest: list[float]) -> float:
    """Ties count half, and one more is taken to lie on either side."""
    below = sum(other < value for other in honest) + sum(other == value for other in honest) / 2
    return (below + 0.5) / (len(honest) + 1)


def _by_bin(values: list[float], width: float) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for value in values:
        found.setdefault(_bin(value, values[0], width), []).append(value)
    return found


def _is_seen(value: float, known: dict[int, list[float]], width: float) -> bool:
    """Whether ``value`` is one of the ``known`` ones; of those that share a bin, whatever lies in that bin."""
    low = known[0][0]
    if not -1e-5 <= (value - low) / width <= 1 + 1e-5:
        return False
    if sum(len(own) for own in known.values()) > 200:
        return True
    near = [known.get(_bin(value + side * width, low, width), []) for side in (-1e-5, 0, 1e-5)]
    return any(len(own) > 1 or abs(value - own[0]) <= 1e-5 * width for own in near if own)


def _bin(value: float, low: float, width: float) -> int:
    return int(min(max(float(np.float32(value - low) / np.float32(width)), 0.0), 1.0) * 255)


@dataclass
class Judge:
    """The fading sums of one account, and what they say against ``standards``."""

    measures: list[Measure]
    standards: Standards
    totals: dict[tuple[str, float], float] = field(default_factory=dict)
    weights: dict[tuple[str, float], float] = field(default_factory=dict)
    evidence: dict[str, float] = field(default_factory=dict)

    def query(
        self, values: dict[str, float], weights: dict[str, float], others: dict[str, float]
    ) -> tuple[dict[str, float], float, bool]:
        """z of each measure and other signal and of what follows these, D, and the verdict."""
        self._add_extremes(values, weights)
        for measure in self.measures:
            self._add(measure, values[measure.name], weights[measure.clock])
        z = {measure.name: self._measure(measure) for measure in self.measures}
        for name, score in others.items():
            mean, between, _ = self._standard(name)
            z[name] = 0.0 if isnan(score) else min((score - mean) / between, 2.0)
        content = [self._change(measure) for measure in self.measures if measure.family == "content"]
        z["change"] = min(max(0.0, *content), 3.0)
        z |= {name: max(nats - 4.0, 0.0) for name, nats in self.evidence.items()}
        left = min(self._left(z, exemplar) for exemplar in self.standards.exemplars.tolist())
        return z, left, left > self.standards.threshold

    def _standard(self, name: str) -> tuple[float, float, float]:
        at, spread = self.standards.measures.index(name), self.standards.spread
        return float(spread.mean[at]), float(spread.between[at]), float(spread.within[at])

    def _add(self, measure: Measure, value: float, weight: float) -> None:
        mean, between, within = self._standard(measure.name)
        reach = 8 * sqrt(between**2 + within**2)
        value = mean if isnan(value) else min(max(value, mean - reach), mean + reach)
        for memory in MEMORIES:
            at = (measure.name, memory)
            self.totals[at] = self.totals.get(at, 0.0) * exp(-weight / memory) + weight * value
            self.weights[at] = self.weights.get(at, 0.0) * exp(-weight / memory) + weight

    def _add_extremes(self, values: dict[str, float], weights: dict[str, float]) -> None:
        """The likelihood that one query in sixteen has tails four times as long as honest ones."""
        groups = {
            "extreme_content": ["novelty", "unseen_values", "outlyingness"],
            "extreme_interpolation": ["interpolation"],
            "extreme_steps": ["sign_steps"],
        }
        for name, members in groups.items():
            before = self.evidence.setdefault(name, 0.0)
            if values["one_feature"] > 0:
                continue
            beyond = [self._beyond(member, values, weights) for member in members]
            nats = log(15 / 16)
            excess = sum(max(own, 0.0) for own in beyond) / 1.2
            if excess > 0 and self._is_extreme(members[0], values, weights):
                nats = min(
                    log(15 / 16 + exp(excess * 3 / 4) / (4 * (0.05 if name == "extreme_content" else 0.03)) / 16), 3.5
                )
            self.evidence[name] = min(max(before + weights["effective"] * nats, 0.0), 24.0)

    def _is_extreme(self, name: str, values: dict[str, float], weights: dict[str, float]) -> bool:
        own = next(measure for measure in self.measures if measure.name == name)
        tails = self.standards.tails
        return tails is not None and weights[own.clock] > 0 and values[name] > tails.start[tails.measures.index(name)]

    def _beyond(self, name: str, values: dict[str, float], weights: dict[str, float]) -> float:
        """How far beyond the start of the tail, in mean excesses, as seen from the account's average."""
        own = next(measure for measure in self.measures if measure.name == name)
        tails = self.standards.tails
        if tails is None or isnan(values[name]) or weights[own.clock] == 0:
            return -1.0
        at = tails.measures.index(name)
        self.totals.setdefault((name, 32.0), 0.0)
        self.weights.setdefault((name, 32.0), 0.0)
        shift = self._average(own, 32.0)[0] - tails.mean[at] if name != "sign_steps" else 0.0
        return float(min((values[name] - max(shift, 0.0) - tails.start[at]) / tails.excess[at], 20.0))

    def _average(self, measure: Measure, memory: float) -> tuple[float, float]:
        """With the ordinary queries that come before everybody's first; and over how many."""
        mean, queries = self._standard(measure.name)[0], self.weights[measure.name, memory] + PRIOR
        return (self.totals[measure.name, memory] + PRIOR * mean) / queries, queries

    def _measure(self, measure: Measure) -> float:
        mean, between, within = self._standard(measure.name)
        of_all = [self._average(measure, memory) for memory in MEMORIES]
        return max((average - mean) / sqrt(between**2 + within**2 / queries) for average, queries in of_all)

    def _change(self, measure: Measure) -> float:
        """How far the last 32 queries lie above the last 512."""
        lately, usually = (self._average(measure, memory)[0] for memory in (32.0, 512.0))
        return (lately - usually) / sqrt(measure.between**2 + measure.within**2 / (32 + PRIOR))

    def _left(self, z: dict[str, float], exemplar: list[float]) -> float:
        reached = dict(zip(self.standards.measures, exemplar, strict=True))
        return sum(min(max(0.0, value - reached[name]), 12.0) for name, value in z.items())
