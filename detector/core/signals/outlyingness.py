"""``outlyingness``: Mahalanobis distance of a query to the honest ones. Steps along no natural direction grow with
it."""

from __future__ import annotations

from detector.core.measure import Floats, Measure, Sight


def _score(sight: Sight) -> Floats:
    return sight.reference.embedding.outlyingness(sight.views.placed)


OUTLYINGNESS = Measure(
    name="outlyingness",
    family="content",
    about="Mahalanobis distance to the honest queries",
    unit="log squared deviations a feature",
    clock="effective",
    between=0.15,
    within=0.3,
    score=_score,
)
