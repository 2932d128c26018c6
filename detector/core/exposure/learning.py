"""Strategy 1 of Kesarwani et al.: what a tree learned from a principal's answers knows of the owner's labels.

status = 100 * IG(S, T_user) / IG(S, T_owner) with S the validation set. Its labels are the owner's model's own
predictions, so whatever the model is, IG(S, T_owner) is Entropy(S), and agreement with the model counts, not with
the truth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.core.arrays import Array
from detector.core.exposure.information import entropy, information_gain
from detector.core.exposure.levels import Sketches

FIRST = 20
"""The first fit is after so many queries..."""
GROWTH = 8
"""...and the next when there are so many times as many. A fit costs about as much as PRADA on a hundred queries."""
_SCHEDULE = FIRST * GROWTH ** np.arange(19, dtype=np.int64)


def is_due(queries: Array) -> NDArray[np.bool_]:
    """bool (n,): whether a tree is fitted after so many ``queries`` int64 (n,)."""
    return np.isin(queries, _SCHEDULE)


class Examination:
    """Of trees, on validation rows with levels uint8 (v, 16) and ``labels`` int64 (v,)."""

    def __init__(self, sketches: Sketches, labels: Array) -> None:
        self._rows = np.ascontiguousarray(sketches, np.float32)
        self._labels = np.unique(labels, return_inverse=True)[1]
        self._all = float(entropy(np.bincount(self._labels)[None])[0])

    @property
    def asks(self) -> bool:
        """Whether there is anything to know: the model says more than one thing of the rows."""
        return self._all > 0.0

    def exposure(self, sketches: Sketches, labels: Array) -> float:
        """Percent: what an entropy tree learned from pairs of levels (n, 16) and ``labels`` int64 (n,) knows."""
        if len(np.unique(labels)) < 2:
            return 0.0
        from sklearn import config_context
        from sklearn.tree import DecisionTreeClassifier

        with config_context(assume_finite=True, skip_parameter_validation=True):
            tree = DecisionTreeClassifier(criterion="entropy", random_state=0)
            tree.fit(np.ascontiguousarray(sketches, np.float32), labels, check_input=False)
        gain = information_gain(tree.tree_.apply(self._rows), self._labels)
        return 100.0 * min(max(gain / self._all, 0.0), 1.0)
