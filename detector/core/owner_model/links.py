"""From the scores of a linear model or an ensemble to its output for each class."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from detector.core.owner_model.features import require

Floats = NDArray[np.float64]
Link = Literal["identity", "logistic", "softmax"]


def require_link(link: str, scores: int) -> None:
    """Raises ConfigurationError for an unknown link, or one that does not fit this number of ``scores``."""
    require(link in get_args(Link), "link", f"is {link!r}; it must be one of {', '.join(get_args(Link))}")
    require(
        link != "softmax" or scores > 1,
        "link",
        "is softmax, which takes one score a class; for a single score say logistic",
    )


def linked(scores: Floats, link: Link) -> Floats:
    """Returns float64 (n, k) from ``scores`` (n, k), or (n, 1), which stand for class 1 of two.

    ``softmax`` and ``logistic`` give probabilities, ``logistic`` of several scores after division by their sum (one
    against the rest); ``identity`` gives the scores themselves, (-s, s) for a single one.
    """
    if scores.shape[1] == 1:
        scores = np.hstack((-scores, scores)) / (2.0 if link == "logistic" else 1.0)
        link = "softmax" if link == "logistic" else link
    if link == "identity":
        return scores
    if link == "softmax":
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    else:
        shares = np.exp(-np.logaddexp(0.0, -scores))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
