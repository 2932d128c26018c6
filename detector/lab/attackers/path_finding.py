"""Decision-tree path finding from leaf to leaf and from the root (Tramèr, Zhang, Juels, Reiter and Ristenpart, USENIX
Security 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Dialogue, Inputs, Knowledge, Labels, Questions, Search
from detector.lab.networks import Array

EPSILON = 1e-3
"""The distance within which a threshold is found, as a share of the feature's range; as published."""

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Region:
    """Known inputs of a leaf: each continuous feature in [``low``, ``high``], each categorical one ``allowed``.

    ``low``, ``high`` float32 (d,), not read for categorical features; ``allowed`` bool (d, most categories), not read
    for continuous ones; ``answer`` float64 (k,): the victim's answer there.
    """

    low: Values
    high: Values
    allowed: NDArray[np.bool_]
    answer: Array

    @classmethod
    def everywhere(cls, knowledge: Knowledge, answer: Array) -> Region:
        allowed = np.ones((knowledge.dimension, knowledge.categories.max()), dtype=np.bool_)
        return cls(knowledge.low, knowledge.high, allowed, answer)

    def cut(self, feature: int, values: Values) -> Region:
        """Returns the part where ``feature`` has one of ``values`` or a value between them."""
        low, high, allowed = self.low.copy(), self.high.copy(), self.allowed.copy()
        low[feature], high[feature] = values.min(), values.max()
        allowed[feature] = np.isin(np.arange(allowed.shape[1]), values)
        return replace(self, low=low, high=high, allowed=allowed)


class RegionClone:
    """Answers an input as the nearest region, so that the space between two is shared evenly.

    Distance is the sum over the features of how far the value is out of bounds, in parts of the feature's range; 1 for
    a category that is not allowed.
    """

    def __init__(self, knowledge: Knowledge, regions: Sequence[Region]) -> None:
        self._regions = regions
        self._range = np.maximum(knowledge.high - knowledge.low, np.finfo(np.float32).tiny)
        self._continuous = np.flatnonzero(knowledge.categories == 0)
        self._categorical = np.flatnonzero(knowledge.categories)

    def probabilities(self, features: Inputs) -> Array:
        """Returns class probabilities (n, k) of ``features`` (n, d)."""
        distances = np.stack([self._distance(features, region) for region in self._regions])
        answers = np.stack([region.answer for region in self._regions])
        return np.asarray(answers[distances.argmin(axis=0)], np.float64)

    def _distance(self, features: Inputs, region: Region) -> Array:
        beyond = np.maximum(region.low - features, 0) + np.maximum(features - region.high, 0)
        beyond = (beyond / self._range)[:, self._continuous]
        refused = ~region.allowed[self._categorical, features[:, self._categorical].astype(np.int64)]
        return np.asarray(beyond.sum(axis=1, dtype=np.float64) + refused.sum(axis=1))


@dataclass(frozen=True, slots=True)
class Marks:
    """Queried points of some lines, sorted by line and, on a line, by value.

    ``line`` int64 (m,): the line of each; ``value`` float32 (m,): of the feature that varies; ``identity`` float64
    (m,): the node of the tree in which it ended. Two neighbours that differ are within ``EPSILON`` of the range, unless
    categories.
    """

    line: Labels
    value: Values
    identity: Array

    def insert(self, where: NDArray[np.intp], value: Values, identity: Array) -> Marks:
        """Returns these with further marks, each behind the one at ``where`` (r,) and on its line."""
        return Marks(
            np.insert(self.line, where + 1, self.line[where]),
            np.insert(self.value, where + 1, value),
            np.insert(self.identity, where + 1, identity),
        )

    def changes(self) -> NDArray[np.intp]:
        """Returns the positions p such that p and p + 1 are on one line and differ in identity."""
        return np.flatnonzero((np.diff(self.line) == 0) & (np.diff(self.identity) != 0))

    def by_line(self) -> list[Marks]:
        """Returns the marks of each line."""
        starts = np.flatnonzero(np.diff(self.line)) + 1
        parts = [np.split(column, starts) for column in (self.line, self.value, self.identity)]
        return [Marks(*columns) for columns in zip(*parts, strict=True)]


def identities(answers: Answers) -> Array:
    """Returns float64 (n,), equal where two inputs ended in the same node, as far as a thief can see.

    The node's number where the API returns it. Otherwise from label and confidence, which some leaves may share.
    """
    if answers.leaf is not None:
        return answers.leaf.astype(np.float64)
    return np.asarray(2.0 * answers.labels + answers.probabilities.max(axis=1))


def search_lines(knowledge: Knowledge, bases: Inputs, features: Labels, first: Sequence[Values]) -> Search[Marks]:
    """Queries the values ``first[i]``, ascending, on line i; and where neighbours differ, the value halfway between.

    Line i varies feature ``features[i]`` (n,) of the input ``bases[i]`` (n, d). Goes on until neighbours are within
    ``EPSILON`` of the feature's range, every pair of every line in one round. Categories have nothing between them.
    LINE_SEARCH and CATEGORY_SPLIT of Tramèr et al.
    """
    line = np.repeat(np.arange(len(first)), [len(values) for values in first])
    value = np.concatenate(first)
    marks = Marks(line, value, identities((yield _with_values(bases[line], features[line], value))))
    narrow = EPSILON * (knowledge.high - knowledge.low)[features]
    narrow[knowledge.categories[features] > 0] = np.inf
    while True:
        wide = marks.changes()
        wide = wide[marks.value[wide + 1] - marks.value[wide] > narrow[marks.line[wide]]]
        if not len(wide):
            return marks
        line, value = marks.line[wide], np.asarray((marks.value[wide] + marks.value[wide + 1]) / 2, np.float32)
        marks = marks.insert(wide, value, identities((yield _with_values(bases[line], features[line], value))))


def _with_values(points: Inputs, features: Labels, values: Values) -> Inputs:
    """Sets the feature ``features[i]`` (n,) of each of ``points`` (n, d) to ``values[i]``, and returns the points."""
    points[np.arange(len(points)), features] = values
    return points


class BottomUp(Dialogue):
    """Their algorithm 1: from a random input, every feature in turn is varied over its range.

    Where the answer changes gives the bounds of the leaf's region, and inputs of its neighbours, from which the search
    goes on until no leaf is new. Complete inputs only. All lines of a leaf advance together: successive queries differ
    in one feature, or in two where one line follows another. Leaves that share label and confidence, on an API that
    does not number them, pass for one.
    """

    def __init__(self, knowledge: Knowledge, budget: int, seed: int) -> None:
        self._knowledge = knowledge
        ends = np.stack([knowledge.low, knowledge.high], axis=1)
        counts = knowledge.categories.tolist()
        self._first = [np.arange(n, dtype=np.float32) if n else end for n, end in zip(counts, ends, strict=True)]
        self._regions: dict[float, Region] = {}
        self._waiting: dict[float, Values] = {}
        rng = np.random.default_rng([seed, 1])
        start = rng.uniform(knowledge.low, knowledge.high)
        drawn = rng.integers(0, np.maximum(knowledge.categories, 1))
        first = np.where(knowledge.categories > 0, drawn, start).astype(np.float32)
        super().__init__(self._leaf_by_leaf(first[None]), budget)

    def clone(self) -> RegionClone:
        """Returns the regions of the leaves searched; of each other leaf seen, the one input queried in it."""
        return RegionClone(self._knowledge, list(self._regions.values()))

    def _leaf_by_leaf(self, unseen: Inputs) -> Questions:
        while len(unseen) or self._waiting:
            if len(unseen):
                self._see(unseen, (yield unseen))
            leaf, point = next(iter(self._waiting.items()))
            bases = np.tile(point, (len(point), 1))
            marks = yield from search_lines(self._knowledge, bases, np.arange(len(point)), self._first)
            self._regions[leaf] = self._searched(leaf, point, marks)
            del self._waiting[leaf]
            unseen = self._unseen(point, marks)

    def _see(self, points: Inputs, answers: Answers) -> None:
        leaves = identities(answers).tolist()
        for leaf, point, answer in zip(leaves, points, answers.probabilities, strict=True):
            self._regions[leaf] = replace(Region.everywhere(self._knowledge, answer), low=point, high=point)
            self._waiting[leaf] = point

    def _unseen(self, point: Values, marks: Marks) -> Inputs:
        """Returns an input of each leaf that the lines through ``point`` met first; its answer is known already."""
        leaves, first = np.unique(marks.identity, return_index=True)
        rows = np.sort(first[~np.isin(leaves, list(self._regions))])
        return _with_values(np.tile(point, (len(rows), 1)), marks.line[rows], marks.value[rows])

    def _searched(self, leaf: float, point: Values, marks: Marks) -> Region:
        low, high = self._bounds(leaf, point, marks)
        allowed = np.zeros_like(self._regions[leaf].allowed)
        inside = (marks.identity == leaf) & (self._knowledge.categories[marks.line] > 0)
        allowed[marks.line[inside], marks.value[inside].astype(np.int64)] = True
        return replace(self._regions[leaf], low=low, high=high, allowed=allowed)

    def _bounds(self, leaf: float, point: Values, marks: Marks) -> tuple[Values, Values]:
        """Returns the ends of ``leaf`` around ``point`` on each feature's line; line i is that of feature i."""
        features = np.arange(len(point))
        below = np.bincount(marks.line[marks.value <= point[marks.line]], minlength=len(point))
        before = np.searchsorted(marks.line, features) + below - 1
        marks = marks.insert(before, point, np.full(len(point), leaf))
        ends, changes = before + 1 + features, marks.changes()
        is_lower = changes < ends[marks.line[changes]]
        lower, upper = changes[is_lower], changes[~is_lower]
        low, high = self._knowledge.low.copy(), self._knowledge.high.copy()
        np.maximum.at(low, marks.line[lower], marks.value[lower + 1])
        np.minimum.at(high, marks.line[upper], marks.value[upper])
        return low, high


@dataclass(frozen=True, slots=True)
class ReachedNode:
    """``point`` float32 (d,) ends in the node. ``missing``: the feature that it lacks there, -1 at a leaf."""

    point: Values
    region: Region
    missing: int = -1


class _ChildSearch:
    """Searches the nodes to which one inner node leads when its feature is given.

    A feature that was given before can be tested again on the way, unseen. So not only the missing feature is varied:
    from every node found, each other feature given is too, within the inner node's region.
    """

    def __init__(self, inner: ReachedNode, categories: Labels) -> None:
        self._inner = inner
        self._categories = categories
        self._given = [*np.flatnonzero(~np.isnan(inner.point)).tolist(), inner.missing]
        self.found: dict[float, ReachedNode] = {}
        """By identity, without the feature missing there."""
        self.lines: list[tuple[Values, int]] = [(inner.point, inner.missing)]
        """To search next: from an input, along a feature."""

    def first_values(self, point: Values, feature: int) -> Values:
        """Returns all categories that lead to the inner node; or the ends of its region, and the value of ``point``,
        if given."""
        region = self._inner.region
        if self._categories[feature]:
            return np.flatnonzero(region.allowed[feature]).astype(np.float32)
        values = np.array([region.low[feature], point[feature], region.high[feature]])
        return np.unique(values[~np.isnan(values)])

    def learn(self, marks: list[Marks]) -> None:
        """Takes the answers on each of ``lines``, and sets the next lines."""
        next_lines = []
        for (point, feature), line in zip(self.lines, marks, strict=True):
            for identity, values in _parts(line, bool(self._categories[feature])):
                if point[feature] in values:
                    known = self.found[identity]
                    self.found[identity] = replace(known, region=known.region.cut(feature, values))
                elif identity not in self.found:
                    moved = point.copy()
                    moved[feature] = values[len(values) // 2]
                    self.found[identity] = ReachedNode(moved, self._inner.region.cut(feature, values))
                    next_lines += [(moved, other) for other in self._given if other != feature]
        self.lines = next_lines


class TopDown(Dialogue):
    """Their algorithm 2: inputs with features left out, on an API that returns which one it misses.

    Starts with nothing given. Of every node of a layer together, the feature it misses is varied; the nodes reached
    are the next layer. Ends when all are leaves. Nothing in it is random.
    """

    def __init__(self, knowledge: Knowledge, budget: int, _seed: int) -> None:
        self._knowledge = knowledge
        self._nodes: list[ReachedNode] = []
        super().__init__(self._layer_by_layer(), budget)

    def observe(self, features: Inputs, answers: Answers) -> None:
        """Raises LabError for an API that does not return which feature it misses."""
        if answers.missing_feature is None:
            raise LabError("path finding top-down needs an API that says which feature it misses; use bottom-up")
        super().observe(features, answers)

    def clone(self) -> RegionClone:
        """Returns the regions of the leaves, and of the other nodes of the last layer that is complete."""
        return RegionClone(self._knowledge, [node.region for node in self._nodes])

    def _layer_by_layer(self) -> Questions:
        nothing = np.full((1, self._knowledge.dimension), np.nan, dtype=np.float32)
        answers = yield nothing
        everywhere = Region.everywhere(self._knowledge, answers.probabilities[0])
        self._nodes = _answered([ReachedNode(nothing[0], everywhere)], answers)
        while inner := [node for node in self._nodes if node.missing >= 0]:
            next_layer = yield from self._next_layer(inner)
            self._nodes = [node for node in self._nodes if node.missing < 0] + next_layer

    def _next_layer(self, inner: list[ReachedNode]) -> Search[list[ReachedNode]]:
        searches = [_ChildSearch(node, self._knowledge.categories) for node in inner]
        while unfinished := [search for search in searches if search.lines]:
            lines = [(search, point, feature) for search in unfinished for point, feature in search.lines]
            first = [search.first_values(point, feature) for search, point, feature in lines]
            bases, features = np.stack([point for _, point, _ in lines]), np.array([feature for *_, feature in lines])
            marks = yield from search_lines(self._knowledge, bases, features, first)
            by_line = iter(marks.by_line())
            for search in unfinished:
                search.learn([next(by_line) for _ in search.lines])
        found = [node for search in searches for node in search.found.values()]
        answers = yield np.stack([node.point for node in found])
        return _answered(found, answers)


def _parts(line: Marks, categorical: bool) -> list[tuple[float, Values]]:
    """Returns identity and values of each stretch of ``line`` that ends in one node; categories may lie apart."""
    order = np.argsort(line.identity, kind="stable") if categorical else np.arange(len(line.value))
    pieces = np.split(order, np.flatnonzero(np.diff(line.identity[order])) + 1)
    return [(float(line.identity[piece[0]]), line.value[piece]) for piece in pieces]


def _answered(nodes: list[ReachedNode], answers: Answers) -> list[ReachedNode]:
    assert answers.missing_feature is not None
    return [
        replace(node, region=replace(node.region, answer=answer), missing=missing)
        for node, answer, missing in zip(nodes, answers.probabilities, answers.missing_feature.tolist(), strict=True)
    ]
