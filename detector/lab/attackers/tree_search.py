"""Where a tree's answer changes along one feature (the LINE_SEARCH and CATEGORY_SPLIT of Tramèr et al. 2016)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Knowledge

EPSILON = 1e-3
"""How near a threshold is found, as a share of the feature's range."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Line i varies feature ``features[i]`` (n,) of the input ``bases[i]`` (n, d)."""

    bases: NDArray[np.float32]
    features: NDArray[np.int64]

    def points(self, line: NDArray[np.int64], value: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 (m, d): for each j the input on ``line[j]`` (m,) where its feature is ``value[j]``."""
        points = self.bases[line]
        points[np.arange(len(line)), self.features[line]] = value
        return points


@dataclass(frozen=True, slots=True)
class Marks:
    """Points asked on some lines, sorted by line and, on a line, by value.

    ``line`` int64 (m,): on which; ``value`` float32 (m,): of the feature that varies; ``identity`` float64 (m,): where
    in the tree it ended. Two neighbours that differ are within ``EPSILON`` of the range, unless categories.
    """

    line: NDArray[np.int64]
    value: NDArray[np.float32]
    identity: NDArray[np.float64]

    def insert(self, where: NDArray[np.intp], value: NDArray[np.float32], identity: NDArray[np.float64]) -> Marks:
        """With further marks, each standing behind the one at ``where`` (r,) and on its line."""
        return Marks(
            np.insert(self.line, where + 1, self.line[where]),
            np.insert(self.value, where + 1, value),
            np.insert(self.identity, where + 1, identity),
        )

    def changes(self) -> NDArray[np.intp]:
        """Positions p such that p and p + 1 are on one line and differ in identity."""
        return np.flatnonzero((np.diff(self.line) == 0) & (np.diff(self.identity) != 0))

    def by_line(self) -> list[Marks]:
        """Those of each line."""
        starts = np.flatnonzero(np.diff(self.line)) + 1
        parts = [np.split(each, starts) for each in (self.line, self.value, self.identity)]
        return [Marks(*each) for each in zip(*parts, strict=True)]


def identities(answers: Answers) -> NDArray[np.float64]:
    """Float64 (n,), equal where two inputs ended in the same node, as far as a thief can tell.

    The node's number where the API tells. Otherwise from label and confidence, which some leaves may share.
    """
    if answers.leaf is not None:
        return answers.leaf.astype(np.float64)
    return np.asarray(2.0 * answers.labels + answers.probabilities.max(axis=1))


def search(
    knowledge: Knowledge, lines: Lines, first: Sequence[NDArray[np.float32]]
) -> Generator[NDArray[np.float32], Answers, Marks]:
    """Asks the values ``first[i]``, ascending, on line i; and where neighbours differ, the value halfway between them.

    Goes on until they are within ``EPSILON`` of the feature's range, every pair of every line in one round. Categories
    have nothing between them.
    """
    line = np.repeat(np.arange(len(first)), [len(values) for values in first])
    value = np.concatenate(first)
    marks = Marks(line, value, identities((yield lines.points(line, value))))
    narrow = EPSILON * (knowledge.high - knowledge.low)[lines.features]
    narrow[knowledge.categories[lines.features] > 0] = np.inf
    while len(wide := _wide(marks, narrow)):
        line, value = marks.line[wide], np.asarray((marks.value[wide] + marks.value[wide + 1]) / 2, np.float32)
        marks = marks.insert(wide, value, identities((yield lines.points(line, value))))
    return marks


def _wide(marks: Marks, narrow: NDArray[np.float32]) -> NDArray[np.intp]:
    where = marks.changes()
    return where[marks.value[where + 1] - marks.value[where] > narrow[marks.line[where]]]
