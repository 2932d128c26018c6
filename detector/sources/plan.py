"""Assigns roles to the columns of a table: by the given mapping, by name, or by a guess with a note."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from detector.contracts.errors import ConfigurationError
from detector.sources.files import partitions
from detector.sources.kinds import ColumnLook, Kind
from detector.sources.mapping import LISTS, ROLES, VECTORS, ColumnSource, ColumnSources, quoted

STAND_INS = MappingProxyType({"model": "model", "model_version": "1"})
"""Values for all rows if no column has them."""

_FITTING = ("principal", "occurred_at", "model", "model_version", "features", "outputs")
_SCALARS = frozenset[Kind]({"number", "text", "time"})


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """``columns``: the columns of each role; only features and outputs may have several. ``constants``: texts for all
    rows. ``kinds``: the kinds of the columns. ``notes``: sentences on assumptions."""

    columns: Mapping[str, tuple[str, ...]]
    constants: Mapping[str, str]
    kinds: Mapping[str, Kind]
    notes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """All columns that the plan needs."""
        return list(dict.fromkeys(name for own in self.columns.values() for name in own))

    def column(self, role: str) -> str | None:
        """Returns the only column of ``role``, or None if there are none or several."""
        own = self.columns.get(role, ())
        return own[0] if len(own) == 1 else None

    def is_one(self, role: str) -> bool:
        """Returns whether one column holds whole vectors, and not one number or text of them."""
        name = self.column(role)
        return name is not None and (role == "outputs" or self.kinds[name] not in _SCALARS)


def make_plan(path: Path, looks: Looks, sources: ColumnSources) -> ColumnPlan:
    """Returns the plan for the table in ``path``, whose columns have ``looks``. Raises ConfigurationError, with a
    proposal, if they do not match."""
    search = _Search(path, looks, sources)
    search.said()
    search.named()
    _check_kinds(path, search.columns, looks)
    search.fit()
    search.assume()
    kinds = {name: looks[name].kind for name in dict.fromkeys(name for own in search.columns.values() for name in own)}
    return ColumnPlan(search.columns, search.constants, kinds, tuple(search.notes))


@dataclass(slots=True)
class _Search:
    path: Path
    looks: Looks
    sources: ColumnSources
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def said(self) -> None:
        """Assigns the given sources: full names first, then patterns for the remaining columns."""
        for role, source in self.sources.items():
            if source.constant is not None:
                self.constants[role] = source.constant
        exact = {name for source in self.sources.values() for name in self.looks if source.names(name)}
        claimed = {name for name in ROLES if name not in self.sources} | exact
        for role, source in self.sources.items():
            own: dict[str, None] = {}
            for pattern in source.patterns:
                one = ColumnSource((pattern,))
                found = [name for name in self.looks if one.matches(name) and (one.names(name) or name not in claimed)]
                if not found:
                    raise self._error(f"there is no column {pattern} for {role}")
                own |= dict.fromkeys(found)
            if own:
                self.columns[role] = tuple(own)

    def named(self) -> None:
        """Assigns columns with the name of a role."""
        for role in ROLES:
            if role in self.looks and role not in self.sources:
                self.columns[role] = (role,)

    def fit(self) -> None:
        """Raises if an important role has no column and a likely column exists."""
        lacking = [role for role in _FITTING if not self._has(role)]
        likely = {role: alias(role, self.looks, self._taken()) for role in lacking if role not in self.sources}
        if "features" in lacking and not likely.get("features") and feature_columns(self.looks, self._taken()):
            lacking.remove("features")
        unfit = [role for role in lacking if role in {"principal", "features"} or likely.get(role)]
        if unfit:
            raise self._error(f"there is no column {' or '.join(unfit)}")

    def assume(self) -> None:
        """Sets the defaults for absent columns."""
        if not self._has("features"):
            own = self.columns["features"] = feature_columns(self.looks, self._taken())
            others = [name for name in self.looks if name not in self._taken()]
            but = f", and not {listed(others)}" if others else ""
            self.notes.append(f"took as features the columns {listed(own)}{but}; others with --map features=COLUMNS")
        if not self._has("outputs"):
            self.notes.append("no outputs; only what was asked is judged. Name them with --map outputs=COLUMNS")
        if not self._has("occurred_at"):
            self.notes.append(
                "no occurred_at; rows count as one second apart, as they stand. Name it with --map occurred_at=COLUMN"
            )
        for role, stand_in in STAND_INS.items():
            if not self._has(role):
                self.constants[role] = stand_in
                self.notes.append(
                    f"no {role}; all rows are of {stand_in!r}. Name it with --map {role}=COLUMN or {role}=@NAME"
                )

    def _has(self, role: str) -> bool:
        return role in self.columns or role in self.constants

    def _taken(self) -> set[str]:
        return {name for own in self.columns.values() for name in own}

    def _error(self, what: str) -> ConfigurationError:
        """Returns an error with ``what`` is wrong, the columns, and a ``--map`` to paste."""
        columns: dict[str, tuple[str, ...]] = {}
        for role in (*_FITTING[:4], "event_id", "outputs", "features"):
            if not self._has(role):
                taken = self._taken() | {name for own in columns.values() for name in own}
                found = alias(role, self.looks, taken)
                columns[role] = found or (feature_columns(self.looks, taken) if role == "features" else ())
        asked = {role: own for role, own in columns.items() if own or role in {"principal", "features"}}
        given = {role: _text(source) for role, source in self.sources.items() if role not in asked}
        blank = [role for role, own in asked.items() if not own]
        advice = f" with the {' and the '.join(blank)} filled in" if blank else ""
        told = proposal(given, asked, self.looks)
        return ConfigurationError(f"{self.path}: {what}, only {listed(self.looks)}; try {told}{advice}")


def _text(source: ColumnSource) -> str:
    return "|".join(source.patterns) if source.constant is None else f"@{source.constant}"


def _check_kinds(path: Path, columns: Mapping[str, tuple[str, ...]], looks: Looks) -> None:
    for role, own in columns.items():
        whole = len(own) == 1 and role in (*VECTORS, *LISTS)
        fitting = _KINDS.get(role, _SCALARS)
        odd = None if whole else next((name for name in own if looks[name].kind not in fitting), None)
        if odd is not None:
            raise ConfigurationError(f"{path}: the column {odd} is a {looks[odd].kind} and cannot be {role}")


_KINDS: dict[str, frozenset[Kind]] = {"outputs": frozenset({"number"})}
"""Kinds that one of several columns may have, if not any scalar."""


Looks = Mapping[str, ColumnLook]

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
"""Common column names, likeliest first, in lower case with ``_`` between words."""

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
    """Returns the columns of ``looks`` that are likely ``role``, without those ``taken``."""
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
    """Returns the columns of ``looks`` that may be features: numbers, and texts with few different values. Leaves out
    those ``taken``, and those that look like ids, times, truths or another role."""
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
    """Returns the option that maps ``columns`` by role, with the sources ``found`` already, quoted for a shell."""
    sources = dict(found)
    for role, names in columns.items():
        others = [name for name in looks if name not in names]
        sources[role] = "|".join(_patterns(names, others)) or role.upper()
    text = ",".join(f"{role}={source}" for role, source in sources.items())
    return f"--map {shlex.quote(text)}"


def listed(names: Iterable[str]) -> str:
    """Returns the first ``names``, and the number of the others."""
    own = list(names)
    more = f" and {len(own) - _SHOWN} more" if len(own) > _SHOWN else ""
    return ", ".join(own[:_SHOWN]) + more


def _patterns(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Returns ``names`` as sources. Numbered names become one pattern if it matches none of the ``others``."""
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


def _is_number(look: ColumnLook) -> bool:
    return look.kind == "number"


def _looks_other(name: str, others: Collection[str]) -> bool:
    return name in others or any(test.fullmatch(name) for test in (_IDS, _TIMES, _TRUTHS))


def _plain(name: str) -> str:
    """Returns ``name`` in lower case with ``_`` between words."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()


@dataclass(slots=True)
class LogReader:
    """``sources``: the column mapping given by the user. ``tell`` is called once with each assumption. ``merge``: read
    several logs as one, sorted by ``occurred_at``, instead of one after another. Logs with the same columns share a
    plan. Rows without a time are numbered through all logs."""

    sources: ColumnSources = field(default_factory=dict)
    tell: Callable[[str], None] = lambda _: None
    merge: bool = False
    _plans: dict[frozenset[str], ColumnPlan] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _timeless: int = 0

    def plan(self, path: Path, looks: Callable[[], dict[str, ColumnLook]], names: frozenset[str]) -> ColumnPlan:
        """Returns the plan for the table in ``path`` with columns ``names``. Calls ``looks`` only for new columns.
        Raises ConfigurationError."""
        if names not in self._plans:
            given = {name: ColumnLook("text", varied=True) for name in partitions(path)}
            plan = self._plans[names] = make_plan(path, given | looks(), self.sources)
            for one in plan.notes:
                if one not in self._told:
                    self._told.add(one)
                    self.tell(f"{path}: {one}")
        return self._plans[names]

    def times(self, rows: int) -> NDArray[np.float64]:
        """Returns times for the next ``rows`` rows without a time, float64 (rows,), seconds UTC."""
        first = self._timeless + 1
        self._timeless += rows
        return np.arange(first, first + rows, dtype=np.float64)
