"""A support vector machine with a Gaussian kernel: the victim of adaptive retraining."""

from __future__ import annotations

from detector.lab.data import Dataset
from detector.lab.victims.learned import Columns, Learned

_PENALTY = 10.0
_FOLDS = 3


def new(dataset: Dataset, seed: int) -> Learned:
    """Its distances to the planes become probabilities by a sigmoid (Platt 1999), fitted over folds cut by ``seed``."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import SVC

    columns = Columns(dataset.categories)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    model = CalibratedClassifierCV(SVC(C=_PENALTY), ensemble=False, cv=folds)
    model.fit(columns(dataset.training.features), dataset.training.labels)
    return Learned(columns, model.predict_proba)
