"""A user's own data, for attacks on their own model."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import LabError
from detector.lab.data import Dataset, Examples

_SPLIT_SEED = 20_260_101
_SHARES = (0.3, 0.3)
"""The shares of the rows for honest users and for the thief. The rest judges clones; none trains a model."""


def read_dataset(path: Path) -> Dataset:
    """The data set in the .npz file ``path``: ``features`` (n, d), what the model takes, and ``labels`` (n,) 0, 1, ...

    At least ten rows. Each feature is continuous and ranges as it does there. Raises LabError.
    """
    features, labels = _read(path)
    if features.ndim != 2 or len(features) < 10 or labels.shape != (len(features),) or not np.isfinite(features).all():
        shapes = f"features {features.shape}, labels {labels.shape}"
        raise LabError(f"{path}: {shapes}; a data set has ten or more rows of finite numbers, and a label for each")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or not labels.max():
        raise LabError(f"{path}: labels must be whole numbers from 0, of two classes or more")
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(features))
    cuts = (np.cumsum(_SHARES) * len(features)).astype(np.int64)
    honest, thief, test = (Examples(features[part], labels[part]) for part in np.split(order, cuts))
    nothing = Examples(features[:0], labels[:0])
    low, high = features.min(axis=0), features.max(axis=0)
    categories = np.zeros(features.shape[1], np.int64)
    return Dataset(path.stem, int(labels.max()) + 1, nothing, honest, thief, test, low, high, categories)


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            features, labels = file["features"].astype(np.float32), file["labels"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise LabError(f"{path}: cannot read features and labels as .npz: {error}") from error
    return features, labels if labels.dtype.kind not in "iu" else labels.astype(np.int64)
