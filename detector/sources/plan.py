"""Assigns roles to the columns of a table: by the given mapping, by name, or by a guess with a note.

A table whose columns cannot be assigned is an error that proposes a ``--map`` to paste.
"""

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
from detector.sources.kinds import ColumnKind, Kind
from detector.sources.mapping import LISTS, ROLES, VECTORS, ColumnSource, ColumnSources, quoted

Kinds = Mapping[str, ColumnKind]
"""The kind of each column of a table, by name."""

STAND_INS = MappingProxyType({"model": "model", "model_version": "1"})
"""Values for all rows if no column has them."""

_IMPORTANT = ("principal", "occurred_at", "model", "model_version", "features", "outputs")
_SCALARS = frozenset[Kind]({"number", "text", "time"})
_ONE_FEATURE = frozenset[Kind]({"list", "record", "value"})
_MAX_LISTED_COLUMNS = 40


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ALIASES: dict[str, tuple[str, ...]] = {
    "principal": _words(
        "user_id account_id customer_id client_id api_key api_key_id key_id tenant_id tenant org_id organization_id "
        "member_id subscriber_id consumer_id caller_id caller uid user account customer client username user_name "
        "userid apikey login"
    ),
    "occurred_at": _words(
        "ts timestamp time event_time request_time created_at created datetime date logged_at requested_at received_at "
        "event_timestamp when at"
    ),
    "features": _words("inputs input feature_vector features_json instance instances x payload data"),
    "outputs": _words(
        "probabilities probs probability proba prob prediction predictions score scores y_pred y_hat yhat y_score "
        "y_proba y_prob output predicted predicted_label pred label predicted_class class response result logits p"
    ),
    "event_id": _words("request_id query_id prediction_id event id uuid trace_id"),
    "model": _words("model_name model_id endpoint endpoint_name"),
    "model_version": _words("version model_revision model_ver revision"),
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


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """``columns``: the columns of each role; only features and outputs may have several. ``constants``: texts for all
    rows. ``kinds``: the kinds of the columns. ``notes``: sentences on assumptions."""

    columns: Mapping[str, tuple[str, ...]]
    constants: Mapping[str, str]
    kinds: Mapping[str, Kind]
    notes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Returns all columns that the plan needs."""
        return list(dict.fromkeys(name for names in self.columns.values() for name in names))

    def column(self, role: str) -> str | None:
        """Returns the only column of ``role``, or None if there are none or several."""
        names = self.columns.get(role, ())
        return names[0] if len(names) == 1 else None

    def is_one(self, role: str) -> bool:
        """Returns whether one column holds complete vectors, and not one number or text of them."""
        name = self.column(role)
        return name is not None and (role == "outputs" or self.kinds[name] not in _SCALARS)


@dataclass(slots=True)
class LogReader:
    """The options and the state of reading one set of logs.

    ``sources``: the column mapping given by the user. ``on_assumption`` is called once with each assumption.
    ``merge``: read several logs as one, sorted by ``occurred_at``, instead of one after another. Logs with the same
    columns share a plan. Rows without a time are numbered through all logs.
    """

    sources: ColumnSources = field(default_factory=dict)
    on_assumption: Callable[[str], None] = lambda _: None
    merge: bool = False
    _plans: dict[frozenset[str], ColumnPlan] = field(default_factory=dict)
    _notes: set[str] = field(default_factory=set)
    _rows_without_time: int = 0

    def plan(self, path: Path, kinds: Callable[[], Kinds], names: Iterable[str]) -> ColumnPlan:
        """Returns the plan for the table in ``path`` with columns ``names``, besides those that its folders name. Calls
        ``kinds`` only for new columns. Raises ConfigurationError."""
        from_path = {name: ColumnKind("text", varied=True) for name in partitions(path)}
        columns = frozenset([*names, *from_path])
        if columns not in self._plans:
            plan = self._plans[columns] = _Assignment(path, {**from_path, **kinds()}, self.sources).plan()
            for note in plan.notes:
                if note not in self._notes:
                    self._notes.add(note)
                    self.on_assumption(f"{path}: {note}")
        return self._plans[columns]

    def times(self, rows: int) -> NDArray[np.float64]:
        """Returns times for the next ``rows`` rows without a time, float64 (rows,), seconds UTC."""
        first = self._rows_without_time + 1
        self._rows_without_time += rows
        return np.arange(first, first + rows, dtype=np.float64)


@dataclass(slots=True)
class _Assignment:
    """Assigns the columns of the table in ``path``, whose columns have ``kinds``."""

    path: Path
    kinds: Kinds
    sources: ColumnSources
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def plan(self) -> ColumnPlan:
        """Returns the plan. Raises ConfigurationError, with a proposal, if the columns do not match."""
        self._assign_given()
        self.columns |= {role: (role,) for role in ROLES if role in self.kinds and role not in self.sources}
        self._check_kinds()
        self._check_important()
        self._assume()
        kinds = {name: self.kinds[name].kind for names in self.columns.values() for name in names}
        return ColumnPlan(self.columns, self.constants, kinds, tuple(self.notes))

    def _assign_given(self) -> None:
        """Assigns the given sources: full names first, then patterns for the remaining columns."""
        named = {name for source in self.sources.values() for name in self.kinds if source.names(name)}
        claimed = {name for name in ROLES if name not in self.sources} | named
        for role, source in self.sources.items():
            if source.constant is not None:
                self.constants[role] = source.constant
            names: dict[str, None] = {}
            for pattern in source.patterns:
                column = ColumnSource((pattern,))
                matches = [
                    name for name in self.kinds if column.matches(name) and (column.names(name) or name not in claimed)
                ]
                if not matches:
                    raise self._error(f"there is no column {pattern} for {role}")
                names |= dict.fromkeys(matches)
            if names:
                self.columns[role] = tuple(names)

    def _check_kinds(self) -> None:
        for role, names in self.columns.items():
            if len(names) == 1 and role in (*VECTORS, *LISTS):
                continue
            # An output among several is a number; anything else that is not a vector is a scalar.
            fitting: Collection[Kind] = {"number"} if role == "outputs" else _SCALARS
            unfit = next((name for name in names if self.kinds[name].kind not in fitting), None)
            if unfit is not None:
                kind = self.kinds[unfit].kind
                raise ConfigurationError(f"{self.path}: the column {unfit} is a {kind} and cannot be {role}")

    def _check_important(self) -> None:
        """Raises if an important role has no column and a likely column exists."""
        lacking = [role for role in _IMPORTANT if not self._has(role)]
        likely = {role: alias(role, self.kinds, self._taken()) for role in lacking if role not in self.sources}
        if "features" in lacking and not likely.get("features") and feature_columns(self.kinds, self._taken()):
            lacking.remove("features")
        unfit = [role for role in lacking if role in {"principal", "features"} or likely.get(role)]
        if unfit:
            raise self._error(f"there is no column {' or '.join(unfit)}")

    def _assume(self) -> None:
        """Sets the defaults for absent columns."""
        if not self._has("features"):
            names = self.columns["features"] = feature_columns(self.kinds, self._taken())
            others = [name for name in self.kinds if name not in self._taken()]
            but = f", and not {_listed(others)}" if others else ""
            self.notes.append(f"took as features the columns {_listed(names)}{but}; others with --map features=COLUMNS")
        if not self._has("outputs"):
            self.notes.append("no outputs; only the inputs are judged. Name them with --map outputs=COLUMNS")
        if not self._has("occurred_at"):
            self.notes.append(
                "no occurred_at; rows count as one second apart, in file order. Name it with --map occurred_at=COLUMN"
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
        return {name for names in self.columns.values() for name in names}

    def _error(self, mistake: str) -> ConfigurationError:
        """Returns an error with the ``mistake``, the columns, and a ``--map`` to paste."""
        guesses: dict[str, tuple[str, ...]] = {}
        for role in (*_IMPORTANT[:4], "event_id", "outputs", "features"):
            if not self._has(role):
                used = self._taken().union(*guesses.values())
                names = alias(role, self.kinds, used)
                guesses[role] = names or (feature_columns(self.kinds, used) if role == "features" else ())
        proposed = {role: names for role, names in guesses.items() if names or role in {"principal", "features"}}
        sources = {role: str(source) for role, source in self.sources.items() if role not in proposed}
        for role, names in proposed.items():
            others = [name for name in self.kinds if name not in names]
            sources[role] = "|".join(_patterns(names, others)) or role.upper()
        option = shlex.quote(",".join(f"{role}={source}" for role, source in sources.items()))
        blank = [role for role, names in proposed.items() if not names]
        advice = f" with the {' and the '.join(blank)} filled in" if blank else ""
        columns = _listed(self.kinds)
        return ConfigurationError(f"{self.path}: {mistake}, only {columns}; try --map {option}{advice}")


def alias(role: str, kinds: Kinds, used: Collection[str]) -> tuple[str, ...]:
    """Returns the columns of ``kinds`` that are likely ``role``, without those ``used``."""
    free = {_plain(name): name for name in kinds if name not in used}
    if role == "outputs":
        group = [name for plain, name in free.items() if _OUTPUT_GROUPS.fullmatch(plain)]
        numbers = tuple(name for name in group if kinds[name].kind == "number")
        if len(numbers) > 1:
            return numbers
    for plain in ALIASES.get(role, ()):
        name = free.get(plain)
        if name is not None and (role != "features" or kinds[name].kind in _ONE_FEATURE):
            return (name,)
    return ()


def feature_columns(kinds: Kinds, used: Collection[str]) -> tuple[str, ...]:
    """Returns the columns of ``kinds`` that may be features: numbers, and texts with few different values. Leaves out
    those ``used``, and those whose names are like those of ids, times, truths or another role."""
    others = {name for role, names in ALIASES.items() if role != "features" for name in names}
    excluded = {*used, *alias("outputs", kinds, used)}
    return tuple(
        name
        for name, column in kinds.items()
        if name not in excluded
        and (column.kind == "number" or (column.kind == "text" and not column.varied))
        and (plain := _plain(name)) not in others
        and not any(test.fullmatch(plain) for test in (_IDS, _TIMES, _TRUTHS))
    )


def _patterns(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Returns ``names`` as sources. Numbered names become one pattern if it does not match any of the ``others``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"(?<=\D)\d+$", "", name), []).append(name)
    patterns: list[str] = []
    for start, group in groups.items():
        outside = [*others, *(name for name in names if name not in group)]
        is_pattern = len(group) > 2 and not any(name.startswith(start) for name in outside)
        patterns += [f"{quoted(start)}*"] if is_pattern else [quoted(name) for name in group]
    return patterns


def _listed(names: Iterable[str]) -> str:
    """Returns the first ``names``, and the number of the others."""
    listed = list(names)
    more = f" and {len(listed) - _MAX_LISTED_COLUMNS} more" if len(listed) > _MAX_LISTED_COLUMNS else ""
    return ", ".join(listed[:_MAX_LISTED_COLUMNS]) + more


def _plain(name: str) -> str:
    """Returns ``name`` in lower case with ``_`` between words."""
    return re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()
