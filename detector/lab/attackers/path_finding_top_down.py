"""Decision-tree path finding from the root (Tramèr, Zhang, Juels, Reiter and Ristenpart, USENIX Security 2016)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.answers import Answers
from detector.lab.attackers import tree_search
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.dialogue import Dialogue, Questions
from detector.lab.attackers.regions import Region, RegionClone
from detector.lab.attackers.tree_search import Lines, Marks


@dataclass(frozen=True, slots=True)
class _Node:
    """``point`` float32 (d,) ends there; ``asked`` is the feature missed there, -1 at a leaf."""

    point: NDArray[np.float32]
    region: Region
    asked: int


class _Below:
    """The nodes that one inner node leads to when its feature is given.

    A feature that was given before can be tested again on the way, unseen. So not only the feature asked for is
    varied: from every node found, each other feature given is too, within the inner node's region.
    """

    def __init__(self, inner: _Node, categories: NDArray[np.int64]) -> None:
        self._inner = inner
        self._categories = categories
        self._given = [*np.flatnonzero(~np.isnan(inner.point)).tolist(), inner.asked]
        self.found: dict[float, tuple[NDArray[np.float32], Region]] = {}
        """An input of each, asked already, and its region, by identity."""
        self.lines: list[tuple[NDArray[np.float32], int]] = [(inner.point, inner.asked)]
        """To search next: from an input, along a feature."""

    def first_values(self, point: NDArray[np.float32], feature: int) -> NDArray[np.float32]:
        """All categories that lead to the inner node; or the ends of its region, and where ``point`` is, if given."""
        region = self._inner.region
        if self._categories[feature]:
            return np.flatnonzero(region.allowed[feature]).astype(np.float32)
        values = np.array([region.low[feature], point[feature], region.high[feature]])
        return np.unique(values[~np.isnan(values)])

    def learn(self, marks: list[Marks]) -> None:
        """Takes what was asked on each of ``lines``, and sets the next ones."""
        next_lines = []
        for (point, feature), line in zip(self.lines, marks, strict=True):
            for identity, values in _parts(line, bool(self._categories[feature])):
                if point[feature] in values:
                    known, region = self.found[identity]
                    self.found[identity] = (known, region.cut(feature, values))
                elif identity not in self.found:
                    self.found[identity] = self._at(point, feature, values)
                    there = self.found[identity][0]
                    next_lines += [(there, other) for other in self._given if other != feature]
        self.lines = next_lines

    def _at(
        self, point: NDArray[np.float32], feature: int, values: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], Region]:
        there = point.copy()
        there[feature] = values[len(values) // 2]
        return there, self._inner.region.cut(feature, values)


class TopDown:
    """Their algorithm 2: inputs with features left out, on an API that says which one it misses.

    Starts with nothing given. Of every node of a layer together, the feature it asks for is varied; the nodes reached
    are the next layer. Ends when all are leaves.
    """

    def __init__(self, knowledge: Knowledge, budget: int) -> None:
        self._knowledge = knowledge
        self._nodes: list[_Node] = []
        self._dialogue = Dialogue(self._questions(), budget)

    def next_batch(self) -> NDArray[np.float32]:
        return self._dialogue.next_batch()

    def observe(self, features: NDArray[np.float32], answers: Answers) -> None:
        """Raises LabError for an API that does not say which feature it misses."""
        if answers.asked is None:
            raise LabError("path finding top-down needs an API that says which feature it misses; use bottom-up")
        self._dialogue.observe(features, answers)

    def clone(self) -> RegionClone:
        """The regions of the leaves, and of the other nodes of the last layer that is whole."""
        return RegionClone(self._knowledge, [node.region for node in self._nodes])

    def _questions(self) -> Questions:
        nothing = np.full((1, self._knowledge.dimension), np.nan, dtype=np.float32)
        answers = yield nothing
        everywhere = Region.everywhere(self._knowledge, answers.probabilities[0])
        self._nodes = _nodes([(nothing[0], everywhere)], answers)
        while inner := [node for node in self._nodes if node.asked >= 0]:
            next_layer = yield from self._next_layer(inner)
            self._nodes = [node for node in self._nodes if node.asked < 0] + next_layer

    def _next_layer(self, inner: list[_Node]) -> Generator[NDArray[np.float32], Answers, list[_Node]]:
        below = [_Below(node, self._knowledge.categories) for node in inner]
        while unfinished := [each for each in below if each.lines]:
            lines = [(each, point, feature) for each in unfinished for point, feature in each.lines]
            first = [each.first_values(point, feature) for each, point, feature in lines]
            bases, features = np.stack([point for _, point, _ in lines]), np.array([feature for *_, feature in lines])
            marks = yield from tree_search.search(self._knowledge, Lines(bases, features), first)
            by_line = iter(marks.by_line())
            for each in unfinished:
                each.learn([next(by_line) for _ in each.lines])
        found = [node for each in below for node in each.found.values()]
        answers = yield np.stack([point for point, _ in found])
        return _nodes(found, answers)


def _parts(line: Marks, categorical: bool) -> list[tuple[float, NDArray[np.float32]]]:
    """Identity and values of each stretch of ``line`` that ends in one node; categories need not lie side by side."""
    order = np.argsort(line.identity, kind="stable") if categorical else np.arange(len(line.value))
    pieces = np.split(order, np.flatnonzero(np.diff(line.identity[order])) + 1)
    return [(float(line.identity[piece[0]]), line.value[piece]) for piece in pieces]


def _nodes(found: list[tuple[NDArray[np.float32], Region]], answers: Answers) -> list[_Node]:
    assert answers.asked is not None
    return [
        _Node(point, replace(region, answer=answer), asked)
        for (point, region), answer, asked in zip(found, answers.probabilities, answers.asked.tolist(), strict=True)
    ]


def new(knowledge: Knowledge, budget: int, _seed: int) -> TopDown:
    """With lines searched to a thousandth of the range, as published. Nothing in it is random."""
    return TopDown(knowledge, budget)
