"""Decision-tree path finding from leaf to leaf (Tramèr, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers
from detector.lab.attackers import tree_search
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.dialogue import Dialogue, Questions
from detector.lab.attackers.regions import Region, RegionClone
from detector.lab.attackers.tree_search import Lines, Marks


class BottomUp:
    """Their algorithm 1: from the input ``start`` (d,), every feature in turn is varied over its range.

    Where the answer changes gives the bounds of the leaf's region, and inputs of its neighbours, from which the search
    goes on until no leaf is new. Whole inputs only. All lines of a leaf advance together: successive queries differ in
    one feature, or in two where one line follows another. Leaves that share label and confidence, on an API that does
    not number them, pass for one.
    """

    def __init__(self, knowledge: Knowledge, start: NDArray[np.float32], budget: int) -> None:
        self._knowledge = knowledge
        ends = np.stack([knowledge.low, knowledge.high], axis=1)
        counts = knowledge.categories.tolist()
        self._first = [np.arange(n, dtype=np.float32) if n else end for n, end in zip(counts, ends, strict=True)]
        self._regions: dict[float, Region] = {}
        self._waiting: dict[float, NDArray[np.float32]] = {}
        self._dialogue = Dialogue(self._questions(start), budget)

    def next_batch(self) -> NDArray[np.float32]:
        return self._dialogue.next_batch()

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        self._dialogue.observe(features, answers)

    def clone(self) -> RegionClone:
        """The regions of the leaves searched; of each other leaf seen, the one input asked in it."""
        return RegionClone(self._knowledge, list(self._regions.values()))

    def _questions(self, start: NDArray[np.float32]) -> Questions:
        unseen = start[None]
        while len(unseen) or self._waiting:
            if len(unseen):
                self._see(unseen, (yield unseen))
            leaf, point = next(iter(self._waiting.items()))
            lines = Lines(np.tile(point, (len(point), 1)), np.arange(len(point)))
            marks = yield from tree_search.search(self._knowledge, lines, self._first)
            self._regions[leaf] = self._searched(leaf, point, marks)
            del self._waiting[leaf]
            unseen = self._unseen(lines, marks)

    def _see(self, points: NDArray[np.float32], answers: Answers) -> None:
        leaves = tree_search.identities(answers).tolist()
        for leaf, point, answer in zip(leaves, points, answers.probabilities, strict=True):
            self._regions[leaf] = replace(Region.everywhere(self._knowledge, answer), low=point, high=point)
            self._waiting[leaf] = point

    def _unseen(self, lines: Lines, marks: Marks) -> NDArray[np.float32]:
        """An input of each leaf that was met on the lines for the first time; asked already, so free to ask."""
        leaves, first = np.unique(marks.identity, return_index=True)
        rows = np.sort(first[~np.isin(leaves, list(self._regions))])
        return lines.points(marks.line[rows], marks.value[rows])

    def _searched(self, leaf: float, point: NDArray[np.float32], marks: Marks) -> Region:
        low, high = self._bounds(leaf, point, marks)
        allowed = np.zeros_like(self._regions[leaf].allowed)
        inside = (marks.identity == leaf) & (self._knowledge.categories[marks.line] > 0)
        allowed[marks.line[inside], marks.value[inside].astype(np.int64)] = True
        return replace(self._regions[leaf], low=low, high=high, allowed=allowed)

    def _bounds(
        self, leaf: float, point: NDArray[np.float32], marks: Marks
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """How far ``leaf`` reaches from ``point`` on each feature's line; line i is that of feature i."""
        features = np.arange(len(point))
        below = np.bincount(marks.line[marks.value <= point[marks.line]], minlength=len(point))
        before = np.searchsorted(marks.line, features) + below - 1
        marks = marks.insert(before, point, np.full(len(point), leaf))
        own, changes = before + 1 + features, marks.changes()
        is_lower = changes < own[marks.line[changes]]
        lower, upper = changes[is_lower], changes[~is_lower]
        low, high = self._knowledge.low.copy(), self._knowledge.high.copy()
        np.maximum.at(low, marks.line[lower], marks.value[lower + 1])
        np.minimum.at(high, marks.line[upper], marks.value[upper])
        return low, high


def new(knowledge: Knowledge, budget: int, seed: int) -> BottomUp:
    """From a random input, with lines searched to a thousandth of the range, as published."""
    rng = np.random.default_rng([seed, 1])
    start = rng.uniform(knowledge.low, knowledge.high)
    drawn = rng.integers(0, np.maximum(knowledge.categories, 1))
    return BottomUp(knowledge, np.where(knowledge.categories > 0, drawn, start).astype(np.float32), budget)
