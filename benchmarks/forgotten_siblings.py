"""The design of Forgotten Siblings (Quiring, Arp and Rieck, EuroS&P 2018): a thief who maps a tree leaf by leaf is
blocked where the mean over all leaves of the share of queries in the leaf's margin exceeds 0.3, checked after
every tenth query.

As published: half of the data trains scikit-learn's tree (at least four rows a leaf, balanced classes) and its
margins, the other half is the honest user; seeds 101 to 105; bottom-up path finding with the true numbers of leaves,
lines searched to a thousandth of the range; with each query of the thief 1 to 40 cover queries, uniform over the
ranges or drawn from the training half. Iris is one of their six data sets; the others do not come with a package here,
so breast cancer (30 measurements) stands in for their numeric tables and the lab's `categorical` for those with
categories. Run: python -m benchmarks.forgotten_siblings
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab._markdown import table
from detector.cli.foreign import from_scikit_learn
from detector.contracts.queries import OutputKind
from detector.core.engine import Engine, EngineConfig
from detector.core.owner_model import Features, Tree
from detector.core.owner_model.margins import Margins
from detector.core.signals import prada
from detector.core.signals.margin import BLOCKED_AT, LEAST_IN_LEAF, Margin
from detector.lab.answers import Answers
from detector.lab.attackers.attacker import Knowledge
from detector.lab.attackers.input_space import InputSpace
from detector.lab.attackers.path_finding import BottomUp
from detector.lab.data import Dataset
from detector.lab.datasets import DATASETS
from tests.core.profiles import profile
from tests.core.streams import batch

NAMES = ("iris", "breast cancer", "categorical")
SEEDS = range(101, 106)
COVERS = (1, 2, 5, 10, 20, 40)
FEWER_COVERS = (0, 1, 2, 5, 10)
KINDS = ((False, "uniform"), (True, "from the data"))
CHECK_EVERY = 10
STEP = 1_000
PLENTY = 1_000_000

Rows = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Numbered:
    """``tree`` behind an API that numbers its leaves."""

    tree: Tree
    output_kind: OutputKind = "probabilities"

    def probabilities(self, features: Rows) -> NDArray[np.float64]:
        return self.tree.outputs(features)

    def answer(self, features: Rows) -> Answers:
        return Answers(self.probabilities(features), self.tree.leaf(features))


@dataclass(frozen=True, slots=True)
class Case:
    """One data set and seed. ``attack`` (n, d): all queries of the undisturbed thief; ``extracted`` int64 (n,): the
    number of leaves mapped as of each."""

    tree: Tree
    margins: Margins
    space: InputSpace
    training: Rows
    honest: Rows
    attack: Rows
    extracted: Ints

    def ratios(self, features: Rows) -> NDArray[np.float64]:
        """float64 (n,): the published ratio as of each of one user's queries ``features`` (n, d)."""
        close = self.margins.close(self.tree, features, None)
        gain = np.empty(len(features))
        for leaf in np.unique(close.leaf).tolist():
            own = np.flatnonzero(close.leaf == leaf)
            queries = np.arange(1, len(own) + 1)
            share = np.where(queries > LEAST_IN_LEAF, np.cumsum(close.inside[own]) / queries, 0.0)
            gain[own] = np.diff(share, prepend=0.0)
        return np.cumsum(gain) / self.tree.leaves

    def blocked_at(self, features: Rows) -> int | None:
        """After how many queries the ratio was first found too high."""
        found = np.flatnonzero(self.ratios(features)[CHECK_EVERY - 1 :: CHECK_EVERY] > BLOCKED_AT)
        return int((found[0] + 1) * CHECK_EVERY) if len(found) else None

    def covered(self, cover: int, drawn: bool, seed: int) -> Rows:
        """What a thief asks with ``cover`` others after each query, uniform or ``drawn`` from the training half."""
        rng = np.random.default_rng(seed)
        count = len(self.attack) * cover
        rows = rng.integers(len(self.training), size=count)
        others = self.training[rows] if drawn else self.space.uniform(count, rng)
        mixed = np.concatenate(
            (self.attack[:, None], others.reshape(len(self.attack), cover, self.training.shape[1])), axis=1
        )
        return mixed.reshape(-1, mixed.shape[2])

    def mapped(self, at: int | None, cover: int) -> float:
        """Returns the share of leaves mapped when the thief is blocked after ``at`` queries, or at the end."""
        own = len(self.attack) if at is None else -(-at // (cover + 1))
        return float(self.extracted[own - 1] / self.tree.leaves)

    def scores(self, features: Rows) -> Iterator[NDArray[np.float64]]:
        """Returns the results of Weirguard's ``margin`` for one user's queries, some at a time."""
        known = replace(profile(self.training), owner_model=self.tree, margins=self.margins)
        engine = Engine(EngineConfig(profiles=(known,)), {"prada": prada, "margin": Margin})
        for start in range(0, len(features), STEP):
            part = features[start : start + STEP]
            outputs = self.tree.leaf(part)[:, None]
            yield engine.observe([batch(part, ["one"] * len(part), outputs=outputs)]).signals["margin"]

    def suspected_at(self, features: Rows) -> int | None:
        """After how many queries the score first reached 1."""
        for step, scores in enumerate(self.scores(features)):
            if len(found := np.flatnonzero(scores >= 1)):
                return int(step * STEP + found[0] + 1)
        return None


def case_of(name: str, seed: int) -> Case:
    from sklearn.tree import DecisionTreeClassifier

    dataset = DATASETS[name]()
    parts = (dataset.training, dataset.honest, dataset.thief, dataset.test)
    rows, labels = np.concatenate([part.features for part in parts]), np.concatenate([part.labels for part in parts])
    order = np.random.default_rng(seed).permutation(len(rows))
    train, test = np.split(order, [len(rows) // 2])
    fitted = DecisionTreeClassifier(min_samples_leaf=4, class_weight="balanced", random_state=seed)
    bare = from_scikit_learn(fitted.fit(rows[train], labels[train]))
    assert isinstance(bare, Tree)
    features = Features(bare.features.names, dataset.low.astype(np.float64), dataset.high.astype(np.float64))
    tree = Tree(features, bare.feature, bare.threshold, bare.children, bare.values)
    margins = Margins.of(tree, rows[train])
    assert margins is not None
    knowledge = _knowledge(dataset)
    attack, extracted = _attacked(tree, knowledge, seed)
    return Case(tree, margins, InputSpace.of(knowledge), rows[train], rows[test], attack, extracted)


def _knowledge(dataset: Dataset) -> Knowledge:
    """The ranges alone: path finding asks for no data."""
    nothing = np.empty((0, dataset.dimension), np.float32)
    return Knowledge(dataset.classes, dataset.low, dataset.high, dataset.categories, nothing, nothing)


def _attacked(tree: Tree, knowledge: Knowledge, seed: int) -> tuple[Rows, Ints]:
    victim, thief = Numbered(tree), BottomUp(knowledge, PLENTY, seed)
    asked: list[Rows] = []
    extracted: list[Ints] = []
    while len(batch := thief.next_batch()):
        thief.observe(batch, victim.answer(batch))
        asked.append(batch)
        mapped = sum(bool((region.high > region.low).any()) for region in thief.clone()._regions)
        extracted.append(np.append(np.full(len(batch) - 1, extracted[-1][-1] if extracted else 0), mapped))
    return np.concatenate(asked), np.concatenate(extracted).astype(np.int64)


def main() -> None:
    started = time.monotonic()
    cases = {name: [case_of(name, seed) for seed in SEEDS] for name in NAMES}
    for part in (_undisturbed, _with_cover, _by_the_signal):
        print(table(*part(cases)), end="\n\n")
    print(f"{time.monotonic() - started:.0f} s")


def _undisturbed(cases: dict[str, list[Case]]) -> tuple[list[str], list[list[str]]]:
    columns = ["data", "leaves", "attack needs", "benign max", "attack end ratio", "blocked"]
    rows = []
    for name, of_name in cases.items():
        rows.append(
            [
                name,
                _span([case.tree.leaves for case in of_name]),
                _span([len(case.attack) for case in of_name]),
                _span([float(case.ratios(case.honest).max()) for case in of_name]),
                _span([float(case.ratios(case.attack)[-1]) for case in of_name]),
                _outcome(of_name, Case.blocked_at, 0),
            ]
        )
    return columns, rows


def _with_cover(cases: dict[str, list[Case]]) -> tuple[list[str], list[list[str]]]:
    """Of the five seeds how many are blocked, after how many queries in all, and with which share of the leaves
    mapped."""
    columns = ["data", "cover", *(f"{cover} : 1" for cover in COVERS)]
    rows = []
    for name, of_name in cases.items():
        for drawn, said in KINDS:
            rows.append([name, said, *(_outcome(of_name, Case.blocked_at, cover, drawn) for cover in COVERS)])
    return columns, rows


def _by_the_signal(cases: dict[str, list[Case]]) -> tuple[list[str], list[list[str]]]:
    columns = ["data", "cover", "largest honest score", *(f"{cover} : 1" for cover in FEWER_COVERS)]
    rows = []
    for name, of_name in cases.items():
        honest = _span([max(float(np.nanmax(scores)) for scores in case.scores(case.honest)) for case in of_name])
        for drawn, said in KINDS:
            blocked = (_outcome(of_name, Case.suspected_at, cover, drawn) for cover in FEWER_COVERS)
            rows.append([name, said, honest, *blocked])
    return columns, rows


def _outcome(cases: list[Case], judge: Callable[[Case, Rows], int | None], cover: int, drawn: bool = False) -> str:
    """How many seeds are blocked, after how many queries in all, and with which share of the leaves mapped."""
    found = [judge(case, case.covered(cover, drawn, seed)) for case, seed in zip(cases, SEEDS, strict=True)]
    shares = [case.mapped(at, cover) for case, at in zip(cases, found, strict=True) if at]
    queries = [at for at in found if at]
    return f"{len(queries)}/{len(found)}" + (f", {_span(queries)} ({_span_of_shares(shares)})" if queries else "")


def _span(values: list[int] | list[float]) -> str:
    low, high = (f"{value:,}" if isinstance(value, int) else f"{value:.2f}" for value in (min(values), max(values)))
    return low if low == high else f"{low}-{high}"


def _span_of_shares(values: list[float]) -> str:
    low, high = (f"{100 * value:.0f}" for value in (min(values), max(values)))
    return f"{low}%" if low == high else f"{low}-{high}%"


if __name__ == "__main__":
    main()
