"""Answers a query as the decision about its principal asks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from detector.contracts.actions import ACTIONS, RATE
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Action, Graded
from detector.contracts.queries import OutputKind
from detector.serving.calls import count_rows
from detector.serving.isolation import suppress_errors
from detector.serving.metrics import Counters, RateLimitedLogger
from detector.serving.responses import SPECIFICATION, Draws, NoiseKey, Response, response_of
from detector.serving.responses.noise import specification_noise
from detector.serving.responses.outputs import NoProbabilities, changed, changed_scores
from detector.serving.responses.response import Parameter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from detector.serving.responses.response import Array
else:
    from detector.contracts.lazy import np

_SCALE = Parameter(0.05, 0, 1)
"""The parameter ``scale`` of ``spec_noise``."""


def check_response(action: Action) -> None:
    """Raises ConfigurationError for an ``action`` whose response, or a parameter of it, this version does not know."""
    graded = action.graded
    if graded is None or not ACTIONS[graded.name].is_response:
        return
    if graded.name != SPECIFICATION:
        response_of(graded.name, graded.parameters)
        return
    parameters = {name: value for name, value in graded.parameters.items() if name != RATE}
    _SCALE.checked("scale of spec_noise", parameters.pop("scale", _SCALE.default))
    if parameters:
        raise ConfigurationError(f"spec_noise has no parameter {min(parameters)!r:.40}; it has scale")


class NoiseHolder(NamedTuple):
    """The holder of the noise: a principal or a group, for one model."""

    holder: str
    model: str


class Answer(NamedTuple):
    """``outputs`` to send to the caller, and ``served_mode`` for the log: the response, empty for the model's own."""

    outputs: Any
    served_mode: str = ""


class Responder:
    """Applies the responses that decisions ask for. ``key``: 16 to 64 secret bytes for noise, the same in every gate.

    ``step``: as :class:`NoiseKey` takes it. Counters, in queries: ``changed``; ``unchanged``: the model's own answer
    was served because the response does not change such outputs; ``unserved``: likewise because this version does not
    know the response or its parameters; ``failures``: likewise because the response failed.
    """

    NAME = "responder"

    def __init__(self, key: bytes, step: ArrayLike | None = None) -> None:
        self.counters = Counters("changed", "unchanged", "unserved", "failures")
        self._key = NoiseKey(key, step)
        self._log = RateLimitedLogger(logging.getLogger(__name__))
        self._settings = key, step

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Gives a spawned process its own responder, with the same noise."""
        return type(self), self._settings

    def gauges(self) -> Mapping[str, float]:
        return {}

    def answer(
        self,
        graded: Graded,
        holder: NoiseHolder,
        features: Any,
        outputs: Any,
        *,
        output_kind: OutputKind = "probabilities",
    ) -> Answer:
        """Returns the answer to ``features`` under the decision's action. Never raises.

        ``features`` and ``outputs``: as :meth:`QueryLogger.log` takes them; ``outputs`` stay as they are.
        """
        queries = count_rows(features)
        if graded.name == SPECIFICATION:
            return Answer(outputs, SPECIFICATION)
        try:
            response, numbers = response_of(graded.name, graded.parameters)
            answer = self._changed(response, numbers, holder, features, outputs, output_kind)
        except ConfigurationError as fault:
            return self._own(outputs, "unserved", queries, fault)
        except NoProbabilities as fault:
            return self._own(outputs, "unchanged", queries, fault)
        except Exception as fault:  # noqa: BLE001  no fault of the SDK may break the caller
            return self._own(outputs, "failures", queries, fault)
        self.counters.add("changed", queries)
        return Answer(answer, response.name)

    def specification(
        self, graded: Graded, holder: NoiseHolder, features: Any, requested: ArrayLike, offered: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Returns the specification by which to choose a model for ``requested`` (n, 2) under ``spec_noise``, the same
        for equal inputs. A thief who sweeps specifications finds other borders with each input, and no single model
        answers all inputs.

        ``offered``: as :func:`specification_noise` takes it. Never raises.
        """
        wanted: NDArray[np.float64] = np.asarray(requested, dtype=np.float64).reshape(-1, 2)
        with suppress_errors(lambda fault: self._own(None, "unserved", len(wanted), fault)):
            scale = _SCALE.checked("scale of spec_noise", graded.parameters.get("scale", _SCALE.default))
            draws = self._key.draws(*holder, features, len(wanted))
            return specification_noise(wanted, draws, scale, offered)
        return wanted

    def _changed(
        self,
        response: Response,
        parameters: Mapping[str, float],
        holder: NoiseHolder,
        features: Any,
        outputs: Any,
        output_kind: OutputKind,
    ) -> Any:
        changes = {"probabilities": response.change, "score": response.change_scores}.get(output_kind)
        if changes is None:
            declined = {"label": response.labels, "score": "a score is no probability"}
            raise NoProbabilities(declined.get(output_kind, "there are no outputs"))
        queries = count_rows(features)
        draws = self._key.draws(*holder, features, queries) if response.keyed else Draws.none(queries)

        def change(rows: Array, numbers: NDArray[np.int64]) -> Array:
            return changes(rows, draws.take(numbers), parameters)

        return (changed_scores if output_kind == "score" else changed)(outputs, queries, change)

    def _own(self, outputs: Any, counter: str, queries: int, fault: BaseException) -> Answer:
        """Returns the model's own answer, and counts why."""
        self.counters.add(counter, queries)
        self._log.warning(counter, "the model's own answer is served: %s", fault)
        return Answer(outputs)
