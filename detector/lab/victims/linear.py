"""Logistic regression, binary or softmax: the victim of equation solving."""

from __future__ import annotations

from detector.lab.data import Dataset
from detector.lab.victims.learned import Columns, Learned


def new(dataset: Dataset, seed: int) -> Learned:
    """Multinomial over all classes, with scikit-learn's penalty. The problem is convex: ``seed`` changes nothing."""
    from sklearn.linear_model import LogisticRegression

    columns = Columns(dataset.categories)
    model = LogisticRegression(max_iter=5_000, random_state=seed)
    model.fit(columns(dataset.training.features), dataset.training.labels)
    return Learned(columns, model.predict_proba)
