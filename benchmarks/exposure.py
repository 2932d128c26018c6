"""The curves of Kesarwani et al. (ACSAC 2018): the share of a tree that an account has learned by number of queries, as
``information_gain`` and ``coverage`` measure it, for an honest user, uniform queries and path finding.

The owner's tree (at most 30 leaves) and the validation set come from the training part of a data set of the lab, honest
queries from the part that honest users hold, again and again when they have all been sent. The thief sends what path
finding needs, the others as much, but 2,000 at least; three seeds, medians. ``information_gain`` keeps 512 pairs at
most, as the signal does, but looks at a few dozen lengths, where the signal looks at 20, 160, 1,280 and so on.
Besides, what a budget leaves to a thief (``_exposure_budget``), and how well the odometer ranks clones (``_odometer``).
Run: python -m benchmarks.exposure [curves] [budget] [odometer] [--picture FILE]
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import _exposure_budget, _odometer
from benchmarks._panels import Line, Panel, picture
from benchmarks.lab._markdown import table
from detector.cli.foreign import from_scikit_learn
from detector.core.exposure import TreeProbe, Validation, entropy, hash_pairs, information_gain, smallest_of
from detector.core.owner_model import Tree
from detector.lab.attackers import ATTACKS
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.input_space import InputSpace
from detector.lab.data import Dataset
from detector.lab.datasets import DATASETS
from detector.lab.victims.tabular import LEAVES, TreeVictim

NAMES = ("digits", "categorical")
SEEDS = range(3)
LEAST_QUERIES = 2_000
PLENTY = 100_000
FIRST, GROWTH = 10, 1.15
LEVELS = (50, 70, 80, 90)
METERS = ("information gain", "coverage")
HONEST, UNIFORM, PATHS = "honest", "uniform", "path finding"

Rows = NDArray[np.float32]


class Curve(NamedTuple):
    """Exposures in percent at ``lengths``; ``published``: information gain at the end by a tree that learned from all
    queries and all features."""

    lengths: list[int]
    exposures: dict[str, list[float]]
    published: float

    def first(self, meter: str, level: float) -> int | None:
        """The least length at which ``meter`` stands at ``level`` percent."""
        reached = [
            length for length, exposure in zip(self.lengths, self.exposures[meter], strict=True) if exposure >= level
        ]
        return reached[0] if reached else None


class Owned(NamedTuple):
    """An owner's tree with its validation set."""

    dataset: Dataset
    victim: TreeVictim
    tree: Tree
    validation: Validation

    @classmethod
    def of(cls, name: str, seed: int) -> Owned:
        from sklearn.tree import DecisionTreeClassifier

        dataset = DATASETS[name]()
        rows = dataset.training
        fitted = DecisionTreeClassifier(max_leaf_nodes=LEAVES, random_state=seed).fit(rows.features, rows.labels)
        tree = from_scikit_learn(fitted)
        assert isinstance(tree, Tree)
        validation = Validation.of(rows.features, tree.outputs(rows.features).argmax(axis=1))
        return cls(dataset, TreeVictim(dataset, seed=seed), tree, validation)

    def curve(self, queries: Rows) -> Curve:
        own, labels = self.validation, self.tree.outputs(queries).argmax(axis=1)
        steps = int(np.log(len(queries) / FIRST) / np.log(GROWTH)) + 1
        lengths = sorted({*(FIRST * GROWTH ** np.arange(steps)).astype(int).tolist(), len(queries)})
        sketches = own.levels.sketch(queries[:, own.levels.columns])
        examination = TreeProbe(own.levels.sketch(own.features[:, own.levels.columns]), own.labels)
        hashes = hash_pairs(sketches, labels, own.tag)
        leaves, held = self.tree.leaf(queries), np.bincount(self.tree.leaf(own.features), minlength=self.tree.leaves)
        gained, covered = [], []
        for length in lengths:
            kept = smallest_of(hashes[:length], np.zeros(length, np.int64))
            gained.append(examination.exposure(sketches[kept], labels[kept]))
            covered.append(100 * float(held[np.unique(leaves[:length])].sum() / held.sum()))
        return Curve(lengths, dict(zip(METERS, (gained, covered), strict=True)), self._published(queries, labels))

    def _published(self, queries: Rows, labels: NDArray[np.int64]) -> float:
        from sklearn.tree import DecisionTreeClassifier

        own = self.validation
        learned = DecisionTreeClassifier(criterion="entropy", random_state=0).fit(queries, labels)
        gain = information_gain(learned.apply(own.features), own.labels)
        return 100 * gain / float(entropy(np.bincount(own.labels)[None])[0])


def paths(owned: Owned, seed: int) -> Rows:
    """What path finding asks until it knows the tree."""
    thief, batches = ATTACKS["path finding bottom-up"](Knowledge.of(owned.dataset), PLENTY, seed), []
    while len(batch := thief.next_batch()):
        batches.append(batch)
        thief.observe(batch, owned.victim.answer(batch))
    return np.concatenate(batches)


def honest(owned: Owned, count: int, seed: int) -> Rows:
    rows, rng = owned.dataset.honest.features, np.random.default_rng(seed)
    rounds = [rng.permutation(len(rows)) for _ in range(-(-count // len(rows)))]
    return rows[np.concatenate(rounds)[:count]]


def uniform(owned: Owned, count: int, seed: int) -> Rows:
    return InputSpace.of(Knowledge.of(owned.dataset)).uniform(count, np.random.default_rng(seed))


def curves(name: str) -> dict[str, list[Curve]]:
    """Of each kind of account, one a seed."""
    found: dict[str, list[Curve]] = {HONEST: [], UNIFORM: [], PATHS: []}
    for seed in SEEDS:
        owned = Owned.of(name, seed)
        stolen = paths(owned, seed)
        count = max(len(stolen), LEAST_QUERIES)
        for kind, queries in (
            (HONEST, honest(owned, count, seed)),
            (UNIFORM, uniform(owned, count, seed)),
            (PATHS, stolen),
        ):
            found[kind].append(owned.curve(queries))
    return found


def lines_of_table(name: str, found: dict[str, list[Curve]]) -> list[Sequence[str]]:
    return [
        (
            f"{name}, {kind}",
            meter,
            *(_median([curve.first(meter, level) for curve in own]) for level in LEVELS),
            f"{statistics.median(curve.exposures[meter][-1] for curve in own):.0f}",
            f"{statistics.median(curve.published for curve in own):.0f}" if meter == METERS[0] else "",
            f"{statistics.median(curve.lengths[-1] for curve in own):,.0f}",
        )
        for kind, own in found.items()
        for meter in METERS
    ]


def _median(lengths: list[int | None]) -> str:
    reached = statistics.median(float("inf") if length is None else length for length in lengths)
    return "-" if reached == float("inf") else f"{reached:,.0f}"


def panels(every: dict[str, dict[str, list[Curve]]]) -> list[Panel]:
    """One a data set and meter, with the curves of the first seed."""
    return [
        Panel(
            f"{meter}, {name}",
            [Line(kind, own[0].lengths, own[0].exposures[meter]) for kind, own in found.items()],
        )
        for name, found in every.items()
        for meter in METERS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--picture", type=Path, help="SVG file of the curves to write")
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        PARTS[part](arguments)


def print_budget(_: argparse.Namespace) -> None:
    print(table(_exposure_budget.COLUMNS, _exposure_budget.lines()))


def print_shared(_: argparse.Namespace) -> None:
    print(table(_exposure_budget.SHARED_COLUMNS, _exposure_budget.shared_lines()))


def print_odometer(_: argparse.Namespace) -> None:
    found = _odometer.measured()
    print(table(_odometer.COLUMNS, _odometer.lines(found)))
    knots = _odometer.curve(np.concatenate(list(found.values())))
    print(
        table(
            ("agreement", "lowest tenth", "median", "highest tenth"), [[f"{own:.2f}" for own in one] for one in knots]
        )
    )


def print_curves(arguments: argparse.Namespace) -> None:
    target: Path | None = arguments.picture
    every = {name: curves(name) for name in NAMES}
    columns = ["tree and account", "meter", *(f"{level}%" for level in LEVELS), "end, %", "all kept, %", "queries"]
    print(table(columns, [line for name, found in every.items() for line in lines_of_table(name, found)]))
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(picture(panels(every), "Exposure") + "\n")


PARTS = {"curves": print_curves, "budget": print_budget, "shared": print_shared, "odometer": print_odometer}


if __name__ == "__main__":
    main()
