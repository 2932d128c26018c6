"""What the columns of a log may be whose names do not say so: for features taken as such, and for a text to paste."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence

from detector.sources.looks import Kind, Look
from detector.sources.mapping import quoted

Looks = Mapping[str, Look]

ALIASES: dict[str, tuple[str, ...]] = {
    "principal": (
        *(
            "user_id",
            "account_id",
            "customer_id",
            "client_id",
            "api_key",
            "api_key_id",
            "key_id",
            "tenant_id",
            "tenant",
        ),
        *("org_id", "organization_id", "member_id", "subscriber_id", "consumer_id", "caller_id", "caller", "uid"),
        *("user", "account", "customer", "client", "username", "user_name", "userid", "apikey", "login"),
    ),
    "occurred_at": (
        *("ts", "timestamp", "time", "event_time", "request_time", "created_at", "created", "datetime", "date"),
        *("logged_at", "requested_at", "received_at", "event_timestamp", "when", "at"),
    ),
    "features": ("inputs", "input", "feature_vector", "features_json", "instance", "instances", "x", "payload", "data"),
    "outputs": (
        *("probabilities", "probs", "probability", "proba", "prob", "prediction", "predictions", "score", "scores"),
        *("y_pred", "y_hat", "yhat", "y_score", "y_proba", "y_prob", "output", "predicted", "predicted_label"),
        *("pred", "label", "predicted_class", "class", "response", "result", "logits", "p"),
    ),
    "event_id": ("request_id", "query_id", "prediction_id", "event", "id", "uuid", "trace_id"),
    "model": ("model_name", "model_id", "endpoint", "endpoint_name"),
    "model_version": ("version", "model_revision", "model_ver", "revision"),
}
"""Names that people give, the likelier first, in small letters with ``_`` between words."""

_OUTPUT_GROUPS = re.compile(r"(?:p|prob|probs|proba|probability|output|outputs|score|class|y_pred|pred)_\w+|p\d+")
_IDS = re.compile(
    r"(?:.*_)?(?:id|ids|uuid|guid|key|token|hash|ip|email|session|trace|span)|index|index_level_\d+|unnamed_.*|row(?:_?number)?"
)
_TIMES = re.compile(
    r"(?:.*_)?(?:at|ts|time|times|timestamp|date|datetime|latency|duration|elapsed)(?:_(?:s|ms|us|ns|utc|seconds))?"
)
_TRUTHS = re.compile(r"y|y_true|target|actual|ground_truth|truth|kind|split|fold")
_ONE_FEATURE = frozenset[Kind]({"list", "record", "value"})
_SHOWN = 40


def alias(role: str, looks: Looks, taken: Collection[str]) -> tuple[str, ...]:
    """The columns of ``looks`` that are likely ``role``, none of those ``taken``; nothing where none is."""
    free = {_plain(name): name for name in looks if name not in taken}
    if role == "outputs":
        group = tuple(free[name] for name in free if _OUTPUT_GROUPS.fullmatch(name) and _is_number(looks[free[name]]))
        if len(group) > 1:
            return group
    for name in ALIASES.get(role, ()):
        found = free.get(name)
        if found is not None and (role != "features" or looks[found].kind in _ONE_FEATURE):
            return (found,)
    return ()


def feature_columns(looks: Looks, taken: Collection[str]) -> tuple[str, ...]:
    """The columns of ``looks`` that a feature each may stand in: numbers, and texts of which there are few different
    ones, but for those ``taken`` and those that look like ids, times, truths or another role."""
    others = {name for role, names in ALIASES.items() if role != "features" for name in names}
    outputs = {*alias("outputs", looks, taken)}
    return tuple(
        name
        for name, look in looks.items()
        if name not in taken
        and name not in outputs
        and (look.kind == "number" or (look.kind == "text" and not look.varied))
        and not _looks_other(_plain(name), others)
    )


def proposal(found: Mapping[str, str], columns: Mapping[str, Sequence[str]], looks: Looks) -> str:
    """The option that maps ``columns`` by role, besides sources that were ``found`` already, quoted for a shell."""
    sources = dict(found)
    for role, names in columns.items():
        others = [name for name in looks if name not in names]
        sources[role] = "|".join(_patterns(names, others)) or role.upper()
    text = ",".join(f"{role}={source}" for role, source in sources.items())
    return f"--map {shlex.quote(text)}"


def listed(names: Iterable[str]) -> str:
    """Some of ``names``, and how many more there are."""
    own = list(names)
    more = f" and {len(own) - _SHOWN} more" if len(own) > _SHOWN else ""
    return ", ".join(own[:_SHOWN]) + more


def _patterns(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """``names`` as sources, those of one beginning and a number as one pattern, if it means none of the ``others``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<=\D)\d+$", "", name), []).append(name)
    patterns: list[str] = []
    for start, own in groups.items():
        whole = len(own) > 2 and not any(name.startswith(start) for name in (*others, *_not(names, own)))
        patterns += [f"{quoted(start)}*"] if whole else [quoted(name) for name in own]
    return patterns


def _not(names: Sequence[str], own: Sequence[str]) -> list[str]:
    return [name for name in names if name not in own]


def _is_number(look: Look) -> bool:
    return look.kind == "number"


def _looks_other(name: str, others: Collection[str]) -> bool:
    return name in others or any(test.fullmatch(name) for test in (_IDS, _TIMES, _TRUTHS))


def _plain(name: str) -> str:
    """``name`` in small letters, its words apart by ``_``."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()
