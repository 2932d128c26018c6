"""Models worth stealing, one file each, and their registry."""

from __future__ import annotations

from collections.abc import Callable

from detector.lab.answers import Victim
from detector.lab.data import Dataset
from detector.lab.victims import convolution, diverse, forest, hardened, linear, perceptron, svm

NewVictim = Callable[[Dataset, int], Victim]
"""(what its training set is part of, seed) -> a victim, the same for the same arguments."""


def _tree(dataset: Dataset, seed: int) -> Victim:
    from detector.lab.victims.tree import TreeVictim

    return TreeVictim(dataset, seed=seed)


def _on_one_thread(new: NewVictim) -> NewVictim:
    """Sums that several threads share are not the same twice."""

    def trained(dataset: Dataset, seed: int) -> Victim:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1):
            return new(dataset, seed)

    return trained


HARDENED: dict[str, NewVictim] = {
    "adversarial training": _on_one_thread(hardened.adversarially_trained),
    "defensive distillation": _on_one_thread(hardened.distilled),
    "diverse ensemble": _on_one_thread(diverse.new),
    "label smoothing": _on_one_thread(hardened.label_smoothed),
    "logit squeezing": _on_one_thread(hardened.logit_squeezed),
}
"""Those with a defence in their training; compare them with the multilayer perceptron."""

VICTIMS: dict[str, NewVictim] = {
    "convolutional network": _on_one_thread(convolution.new),
    "decision tree": _on_one_thread(_tree),
    "logistic regression": _on_one_thread(linear.new),
    "multilayer perceptron": _on_one_thread(perceptron.new),
    "random forest": _on_one_thread(forest.new),
    "support vector machine": _on_one_thread(svm.new),
    **HARDENED,
}
