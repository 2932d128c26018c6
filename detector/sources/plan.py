"""Which column of a table is what: by its name, by what was said, and aloud where neither tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from detector.contracts.errors import ConfigurationError
from detector.sources.looks import Kind
from detector.sources.mapping import LISTS, ROLES, VECTORS, Source, Sources
from detector.sources.proposing import Looks, alias, feature_columns, listed, proposal

STAND_INS = MappingProxyType({"model": "model", "model_version": "1"})
"""What all rows are of where no column says it."""

_FITTING = ("principal", "occurred_at", "model", "model_version", "features", "outputs")
_SCALARS = frozenset[Kind]({"number", "text", "time"})


@dataclass(frozen=True, slots=True)
class Plan:
    """``columns``: those of each role, more than one of features and outputs at most; ``constants``: texts that hold
    for all rows. ``kinds``: of the columns. ``notes``: what was assumed, for people."""

    columns: Mapping[str, tuple[str, ...]]
    constants: Mapping[str, str]
    kinds: Mapping[str, Kind]
    notes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """All columns that it needs."""
        return list(dict.fromkeys(name for own in self.columns.values() for name in own))

    def column(self, role: str) -> str | None:
        """The one column of ``role``; None where there is none, or are several."""
        own = self.columns.get(role, ())
        return own[0] if len(own) == 1 else None

    def is_one(self, role: str) -> bool:
        """Whether one column holds all of a vector, rather than a number or text of it."""
        name = self.column(role)
        return name is not None and (role == "outputs" or self.kinds[name] not in _SCALARS)


def make_plan(path: Path, looks: Looks, sources: Sources) -> Plan:
    """The plan for the table in ``path``, whose columns have ``looks``. Raises ConfigurationError, with what to say,
    where they do not fit."""
    search = _Search(path, looks, sources)
    search.said()
    search.named()
    _check_kinds(path, search.columns, looks)
    search.fit()
    search.assume()
    kinds = {name: looks[name].kind for name in dict.fromkeys(name for own in search.columns.values() for name in own)}
    return Plan(search.columns, search.constants, kinds, tuple(search.notes))


@dataclass(slots=True)
class _Search:
    path: Path
    looks: Looks
    sources: Sources
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def said(self) -> None:
        """What the sources say: whole names before patterns, which mean what is left."""
        for role, source in self.sources.items():
            if source.constant is not None:
                self.constants[role] = source.constant
        exact = {name for source in self.sources.values() for name in self.looks if source.names(name)}
        claimed = {name for name in ROLES if name not in self.sources} | exact
        for role, source in self.sources.items():
            own: dict[str, None] = {}
            for pattern in source.patterns:
                one = Source((pattern,))
                found = [name for name in self.looks if one.matches(name) and (one.names(name) or name not in claimed)]
                if not found:
                    raise self._error(f"there is no column {pattern} for {role}")
                own |= dict.fromkeys(found)
            if own:
                self.columns[role] = tuple(own)

    def named(self) -> None:
        """Columns called as a role is."""
        for role in ROLES:
            if role in self.looks and role not in self.sources:
                self.columns[role] = (role,)

    def fit(self) -> None:
        """Raise where a role that matters has no column and some column is likely meant."""
        lacking = [role for role in _FITTING if not self._has(role)]
        likely = {role: alias(role, self.looks, self._taken()) for role in lacking if role not in self.sources}
        if "features" in lacking and not likely.get("features") and feature_columns(self.looks, self._taken()):
            lacking.remove("features")
        unfit = [role for role in lacking if role in {"principal", "features"} or likely.get(role)]
        if unfit:
            raise self._error(f"there is no column {' or '.join(unfit)}")

    def assume(self) -> None:
        """What stands in for columns that there are none of."""
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
        """``what`` is wrong, the columns there are, and what to paste."""
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


def _text(source: Source) -> str:
    return "|".join(source.patterns) if source.constant is None else f"@{source.constant}"


def _check_kinds(path: Path, columns: Mapping[str, tuple[str, ...]], looks: Looks) -> None:
    for role, own in columns.items():
        whole = len(own) == 1 and role in (*VECTORS, *LISTS)
        fitting = _KINDS.get(role, _SCALARS)
        odd = None if whole else next((name for name in own if looks[name].kind not in fitting), None)
        if odd is not None:
            raise ConfigurationError(f"{path}: the column {odd} is a {looks[odd].kind} and cannot be {role}")


_KINDS: dict[str, frozenset[Kind]] = {"outputs": frozenset({"number"})}
"""What one of several columns may be, where it is not any scalar."""
