"""The demo's other victim: a decision tree that tells benign tumours from malignant ones by 30 measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detector.lab.data import Dataset
from detector.lab.datasets import sklearn_table
from detector.lab.victims.tree import LEAVES, TreeVictim

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeClassifier

MODEL = "tumours"
MODEL_VERSION = "1"
DIMENSION = 30

_SEED = 0


def load() -> Dataset:
    """The Wisconsin breast cancer data that scikit-learn carries, in four disjoint sets, always the same."""
    return sklearn_table("breast cancer")


def victim(dataset: Dataset) -> TreeVictim:
    """The tree behind its API, the same in every process."""
    return TreeVictim(dataset, seed=_SEED)


def fitted(dataset: Dataset) -> DecisionTreeClassifier:
    """The same tree as its owner has it."""
    from sklearn.tree import DecisionTreeClassifier

    rows = dataset.training
    return DecisionTreeClassifier(max_leaf_nodes=LEAVES, random_state=_SEED).fit(rows.features, rows.labels)
