"""Models to steal, a file per family, and their registry."""

from __future__ import annotations

from collections.abc import Callable

from detector.lab.answers import Victim
from detector.lab.data import Dataset
from detector.lab.victims import convolution, neural, tabular

NewVictim = Callable[[Dataset, int], Victim]
"""(what its training set is part of, seed) -> a victim, the same for the same arguments."""


def _on_one_thread(new: NewVictim) -> NewVictim:
    """Returns ``new`` on one thread: sums that several threads share are not the same twice."""

    def trained(dataset: Dataset, seed: int) -> Victim:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1):
            return new(dataset, seed)

    return trained


HARDENED: dict[str, NewVictim] = {
    "adversarial training": _on_one_thread(neural.adversarially_trained),
    "defensive distillation": _on_one_thread(neural.distilled),
    "diverse ensemble": _on_one_thread(neural.diverse),
    "label smoothing": _on_one_thread(neural.label_smoothed),
    "logit squeezing": _on_one_thread(neural.logit_squeezed),
}
"""Those with a defence in their training; compare them with the multilayer perceptron."""

VICTIMS: dict[str, NewVictim] = {
    "convolutional network": _on_one_thread(convolution.new),
    "decision tree": _on_one_thread(tabular.decision_tree),
    "gradient boosting": _on_one_thread(tabular.boosting),
    "logistic regression": _on_one_thread(tabular.logistic),
    "multilayer perceptron": _on_one_thread(neural.perceptron),
    "random forest": _on_one_thread(tabular.forest),
    "support vector machine": _on_one_thread(tabular.support_vectors),
    **HARDENED,
}
