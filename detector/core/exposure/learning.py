"""Strategy 1 of Kesarwani et al.: how well a tree trained on a principal's answers predicts the owner's labels.

status = 100 * IG(S, T_user) / IG(S, T_owner) with S the validation set. Its labels are the predictions of the owner's
model, so IG(S, T_owner) is Entropy(S) for any model, and the exposure measures agreement with the model, not accuracy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.exposure.information import entropy, information_gain
from detector.core.exposure.levels import Sketches
from detector.core.state.arrays import Array

FIRST = 20
"""The first fit is after this many queries..."""
GROWTH = 8
"""...and the next at this many times as many. A fit costs about as much as PRADA on a hundred queries."""
_SCHEDULE = FIRST * GROWTH ** np.arange(19, dtype=np.int64)


def is_due(queries: Array) -> NDArray[np.bool_]:
    """Returns bool (n,): whether a tree is fitted after this number of ``queries`` int64 (n,)."""
    following = np.searchsorted(_SCHEDULE, queries)
    return np.asarray(_SCHEDULE[np.minimum(following, len(_SCHEDULE) - 1)] == queries)


class Examination:
    """Measures trees on validation rows with levels uint8 (v, 16) and ``labels`` int64 (v,)."""

    def __init__(self, sketches: Sketches, labels: Array) -> None:
        self._rows = np.ascontiguousarray(sketches, np.float32)
        self._labels = np.unique(labels, return_inverse=True)[1]
        self._all = float(entropy(np.bincount(self._labels)[None])[0])

    @property
    def asks(self) -> bool:
        """Whether the labels are of more than one class, so that there is something to learn."""
        return self._all > 0.0

    def exposure(self, sketches: Sketches, labels: Array) -> float:
        """Returns in percent the exposure of an entropy tree learned from pairs of levels (n, 16) and ``labels`` int64
        (n,)."""
        if len(np.unique(labels)) < 2:
            return 0.0
        from sklearn import config_context
        from sklearn.tree import DecisionTreeClassifier

        with config_context(assume_finite=True, skip_parameter_validation=True):
            tree = DecisionTreeClassifier(criterion="entropy", random_state=0)
            tree.fit(np.ascontiguousarray(sketches, np.float32), labels, check_input=False)
        gain = information_gain(tree.tree_.apply(self._rows), self._labels)
        return 100.0 * min(max(gain / self._all, 0.0), 1.0)
