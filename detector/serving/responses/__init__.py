"""Answers for suspects: pure functions of class probabilities, and their registry.

To add a response: a function in the file of its family and one line there; the contract suite
(``tests/serving/test_responses.py``) checks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detector.contracts.actions import RATE, RESPONSE
from detector.contracts.errors import ConfigurationError
from detector.serving.responses.keyed import Draws, NoiseKey
from detector.serving.responses.modelguard import MODELGUARD
from detector.serving.responses.noise import RANDOM
from detector.serving.responses.perturbation import DECEPTIVE
from detector.serving.responses.response import Response
from detector.serving.responses.rounding import COARSE

if TYPE_CHECKING:
    from collections.abc import Mapping


__all__ = ["DEFAULTS", "RESPONSES", "SPECIFICATION", "Draws", "NoiseKey", "Response", "response_of"]

RESPONSES: dict[str, Response] = {response.name: response for response in (*COARSE, *DECEPTIVE, *MODELGUARD, *RANDOM)}

DEFAULTS = {"round": "round", "label_only": "label_only", "perturb": "modelguard_w"}
"""The response of each action where a decision names none."""

SPECIFICATION = "spec_noise"
"""The action that changes what a request asks of a model zoo, and no answer."""


def response_of(action: str, parameters: Mapping[str, object]) -> tuple[Response, dict[str, float]]:
    """Returns the response that ``parameters`` name under ``response``, and its other parameters; a rate is the gate's.

    Raises ConfigurationError for an unknown one, one of another action, and parameters that it does not take.
    """
    given = {name: value for name, value in parameters.items() if name not in (RATE, RESPONSE)}
    name = parameters.get(RESPONSE, DEFAULTS.get(action))
    response = RESPONSES.get(name) if isinstance(name, str) else None
    if response is None or response.action != action:
        known = ", ".join(response.name for response in RESPONSES.values() if response.action == action) or "none"
        raise ConfigurationError(f"{action} has no response {name!r:.40}; it has {known}")
    return response, response.checked(given)
