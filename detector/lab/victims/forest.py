"""A random forest."""

from __future__ import annotations

from detector.lab.data import Dataset
from detector.lab.victims.learned import Columns, Learned

_TREES = 50


def new(dataset: Dataset, seed: int) -> Learned:
    """50 trees, grown out, whose shares of each class are averaged."""
    from sklearn.ensemble import RandomForestClassifier

    columns = Columns(dataset.categories)
    model = RandomForestClassifier(_TREES, random_state=seed)
    model.fit(columns(dataset.training.features), dataset.training.labels)
    return Learned(columns, model.predict_proba)
