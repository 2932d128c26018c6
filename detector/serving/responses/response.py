"""The interface of every response: what it takes, what it promises, and how its parameters are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from detector.contracts.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from detector.serving.responses.keyed import Draws

    Array = NDArray[Any]
    """Class probabilities float64 (n, k): each row at least 0, and 1 in sum."""

ResponseAction = Literal["round", "label_only", "perturb"]
"""The actions that change an answer; a decision may name any response of its action."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number from ``low`` to ``high``, ``default`` where a decision names none."""

    default: float
    low: float
    high: float
    whole: bool = False

    def checked(self, name: str, value: object) -> float:
        """Returns ``value`` as a number. Raises ConfigurationError unless it is one, and within the limits."""
        if not isinstance(value, int | float) or isinstance(value, bool) or not self._fits(value):
            kind = "whole number" if self.whole else "number"
            raise ConfigurationError(f"{name} is {value!r:.40}; use a {kind} from {self.low:g} to {self.high:g}")
        return int(value) if self.whole else float(value)

    def _fits(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.whole and value != int(value))


@dataclass(frozen=True, slots=True)
class Response:
    """A pure function of class probabilities.

    ``change``: (rows float64 (n, k), draws, parameters) -> rows of the same shape, each on the simplex again. Equal
    rows with equal draws give equal answers, however rows are batched. ``bound``: (parameters, k) -> the largest L1
    distance of a row from its answer. ``keeps_argmax``: ``argmax`` of each row, the first of equal ones, stays.
    ``keyed``: its answers depend on the draws, and so on the principal and the input. A parameter ``suspicion`` is
    the principal's score (1 is the threshold). ``cost``: what it costs the caller. ``labels``: why an answer that holds
    labels alone stays unchanged. ``change_scores``: the same of scores float64 (n, k), any finite numbers, each of
    which moves by at most ``scores_bound`` (parameters) of itself; None: they stay unchanged.
    """

    name: str
    action: ResponseAction
    change: Callable[[Array, Draws, Mapping[str, float]], Array]
    bound: Callable[[Mapping[str, float], int], float]
    cost: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    keeps_argmax: bool = True
    keyed: bool = False
    labels: str = "a label has no probabilities to change"
    change_scores: Callable[[Array, Draws, Mapping[str, float]], Array] | None = None
    scores_bound: Callable[[Mapping[str, float]], float] = lambda _: 0.0

    def checked(self, given: Mapping[str, object]) -> dict[str, float]:
        """Returns all parameters, those ``given`` and the defaults. Raises ConfigurationError for an unknown one and
        for a value out of its limits."""
        unknown = sorted(set(given) - set(self.parameters))
        if unknown:
            known = ", ".join(self.parameters) or "none"
            raise ConfigurationError(f"the response {self.name} has no parameter {unknown[0]!r:.40}; it has {known}")
        return {
            name: parameter.checked(f"{name} of the response {self.name}", given.get(name, parameter.default))
            for name, parameter in self.parameters.items()
        }
