"""The actions that a decision can take, from the mildest to the harshest: the one place that knows them all.

On the wire an action is a name and a rate that every gate understands: ``none``, ``slow`` or ``refuse``. Any other
action is added as :class:`Graded`; a gate that does not know it falls back to the former.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, TypeGuard

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import Action, ActionName, Graded
from detector.contracts.principals import NAME_CHARACTERS, is_name, is_plain

RATE: Final = "queries_per_second"
RESPONSE: Final = "response"
"""Parameter that names the response, where an action has several."""
NOTICE: Final = "notice"
LEFT: Final = "left_percent"
"""Parameter of a notice: percent of the exposure budget that is left."""
MOST_PARAMETERS: Final = 16
_FALLBACK_RATE: Final = 1.0

Parameters = dict[str, float | str]


@dataclass(frozen=True, slots=True)
class ActionKind:
    """An action: ``done`` as counters name it, ``effect`` in the SDK, ``cost`` to the caller.

    ``fallback``: the action of a gate that does not know this one; None for those that every gate knows. ``takes``: the
    parameters it may have. If these include ``response``, other parameters are the response's.
    """

    name: str
    done: str
    effect: str
    cost: str
    fallback: ActionName | None = None
    takes: tuple[str, ...] = ()

    @property
    def is_response(self) -> bool:
        """Whether the action changes the answer."""
        return RESPONSE in self.takes


_KINDS = (
    ActionKind("none", "allowed", "lets requests pass: a release", "nothing"),
    ActionKind("tag", "tagged", "lets requests pass, and marks their verdict", "nothing", "none"),
    ActionKind(
        NOTICE,
        "noticed",
        "lets requests pass, and says in a header how much of the exposure budget is left",
        "nothing",
        "none",
        (LEFT,),
    ),
    ActionKind("slow", "slowed", "lets requests pass at a rate, and answers others with 429", "waiting", None, (RATE,)),
    ActionKind(
        "round", "rounded", "answers with fewer digits or classes", "digits of the answer", "slow", (RATE, RESPONSE)
    ),
    ActionKind(
        "label_only",
        "labelled",
        "answers with the likeliest class alone",
        "all probabilities",
        "slow",
        (RATE, RESPONSE),
    ),
    ActionKind(
        "perturb",
        "perturbed",
        "answers with changed probabilities, the same for the same input",
        "true probabilities, and with some responses the likeliest class",
        "slow",
        (RATE, RESPONSE),
    ),
    ActionKind(
        "spec_noise",
        "noised",
        "adds noise to the accuracy and latency that a request asks for",
        "the choice of the model that answers",
        "slow",
        (RATE, RESPONSE),
    ),
    ActionKind("refuse", "refused", "answers with 429", "all answers"),
)
ACTIONS: Final = MappingProxyType({kind.name: kind for kind in _KINDS})
"""All actions, in order of harshness."""
HARSHNESS: Final = MappingProxyType({name: rank for rank, name in enumerate(ACTIONS)})


def make_action(name: str, parameters: Parameters | None = None, fallback: ActionName | None = None) -> Action:
    """Returns the action ``name`` with ``parameters``. ``fallback`` replaces the usual fallback at the same rate.
    Raises ConfigurationError."""
    kind, given = ACTIONS.get(name), dict(parameters or {})
    rate = given.get(RATE)
    if rate is not None and not _is_rate(rate):
        raise ConfigurationError(f"the action {name!r}: {RATE} is {rate!r}; use a number above 0")
    if kind is not None and kind.fallback is not None:
        basic = fallback or kind.fallback
        action = Action(basic, rate or _FALLBACK_RATE if basic == "slow" else None, Graded(name, given))
    elif fallback is not None or given.keys() - {RATE}:
        raise ConfigurationError(f"the action {name!r} takes {RATE} at most: every gate knows it")
    else:
        unchecked: Any = name
        action = Action(unchecked, rate)
    check_action(action)
    return action


def check_action(action: Action) -> None:
    """Raises ConfigurationError unless a decision may impose ``action``, and its fallback if it has one."""
    graded, rate = action.graded, action.queries_per_second
    if action.name not in (("none", "slow", "refuse") if graded else ("slow", "refuse")):
        imposed = ", ".join(name for name in ACTIONS if name != "none")
        raise ConfigurationError(f"the action {action.name!r} cannot be imposed; use one of {imposed}")
    if action.name == "slow" and not _is_rate(rate):
        raise ConfigurationError(f"slow needs {RATE} above 0, not {rate}")
    if action.name != "slow" and rate is not None:
        raise ConfigurationError(f"{action.name} takes no {RATE}")
    if graded is not None:
        _check_graded(graded)


def _check_graded(graded: Graded) -> None:
    kind = ACTIONS.get(graded.name)
    if kind is None or kind.fallback is None:
        known = ", ".join(name for name, kind in ACTIONS.items() if kind.fallback is not None)
        raise ConfigurationError(f"the action {graded.name!r} is unknown; there are {known}")
    if fault := parameters_fault(graded):
        raise ConfigurationError(f"the action {graded.name!r}: {fault}")
    for name, value in graded.parameters.items():
        if name == RATE and not _is_rate(value):
            raise ConfigurationError(f"the action {graded.name!r}: {RATE} is {value!r}; use a number above 0")
        is_text = isinstance(value, str)
        if (name not in kind.takes and not (kind.is_response and not is_text)) or (name == RESPONSE and not is_text):
            takes = f"; it takes {', '.join(kind.takes)}" if kind.takes else ", nor any other"
            raise ConfigurationError(f"the action {graded.name!r} takes no {name}={value!r}{takes}")


def parameters_fault(graded: Graded) -> str | None:
    """Returns what is wrong with the form of ``graded``, whatever the action; None if nothing is."""
    if not is_name(graded.name):
        return f"its name must be 1 to {NAME_CHARACTERS} plain characters"
    if len(graded.parameters) > MOST_PARAMETERS:
        return f"it has {len(graded.parameters)} parameters; give at most {MOST_PARAMETERS}"
    for name, value in graded.parameters.items():
        fits = is_plain(value, NAME_CHARACTERS) if isinstance(value, str) else isfinite(value)
        if not (is_name(name) and fits):
            return f"the parameter {name!r:.40} must be a finite number, or at most {NAME_CHARACTERS} plain characters"
    return None


def _is_rate(value: float | str | None) -> TypeGuard[float]:
    return isinstance(value, int | float) and value > 0 and isfinite(value)


def graded_of(action: Action) -> Graded | None:
    """Returns the graded action that this version applies; None if there is none, or it falls back."""
    graded = action.graded
    if graded is None or graded.name not in ACTIONS:
        return None
    try:
        _check_graded(graded)
    except ConfigurationError:
        return None
    return graded


def name_of(action: Action) -> str:
    """Returns the name of what this version does, one of ``ACTIONS``."""
    graded = graded_of(action)
    return action.name if graded is None else graded.name


def rate_of(action: Action) -> float | None:
    """Returns the rate that ``action`` limits queries to; None without a limit."""
    graded = graded_of(action)
    if graded is None:
        return action.queries_per_second
    rate = graded.parameters.get(RATE)
    return None if isinstance(rate, str) else rate


def is_release(action: Action) -> bool:
    """Whether ``action`` does nothing."""
    return name_of(action) == "none"


def describe_action(action: Action) -> str:
    """Returns ``action`` in words."""
    graded, rate = graded_of(action), rate_of(action)
    words = name_of(action)
    parameters = graded.parameters.items() if graded is not None else ()
    others = [
        f"{name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in parameters if name != RATE
    ]
    if others:
        words += f" ({', '.join(others)})"
    return words if rate is None else f"{words} to {rate:g}/s"
