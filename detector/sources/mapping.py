"""Maps roles to columns of a log: ``--map principal=user_id,features=f_*`` and the setting ``sources.map``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detector.contracts.errors import ConfigurationError

VECTORS = ("features", "outputs")
NAMES = ("event_id", "principal", "model", "model_version")
TEXTS = (*NAMES, "output_kind", "served_mode", "network_prefix", "organisation", "user_agent_hash")
LISTS = ("missing", "specification")
NUMBERS = ("hardness", "leaf")
ROLES = (*NAMES, "occurred_at", *VECTORS, *TEXTS[len(NAMES) :], *LISTS, *NUMBERS)
"""The roles of columns; a column with the name of a role has that role."""

_SPECIAL = re.compile(r"([\\,|*])")
_ADVICE = "write ROLE=COLUMN, such as principal=user_id, features=f_*, features=age|income, or model=@credit"


@dataclass(frozen=True, slots=True)
class ColumnSource:
    """The source of a role's values: columns, by name or with ``*`` for any characters, or the same ``constant`` in
    every row. Neither: the log has none."""

    patterns: tuple[str, ...] = ()
    constant: str | None = None

    def __str__(self) -> str:
        return "|".join(self.patterns) if self.constant is None else f"@{self.constant}"

    def matches(self, name: str) -> bool:
        """Returns whether the source includes the column ``name``."""
        return any(_matches(pattern, name) for pattern in self.patterns)

    def names(self, name: str) -> bool:
        """Returns whether the source has the full name of the column ``name``."""
        return any("*" not in _bare(pattern) and _matches(pattern, name) for pattern in self.patterns)


ColumnSources = Mapping[str, ColumnSource]
"""Sources by role, for the roles that were given."""


def parse_map(texts: Sequence[str]) -> dict[str, ColumnSource]:
    """Returns the sources in the values of ``--map``. Raises ConfigurationError."""
    sources: dict[str, ColumnSource] = {}
    for part in (part for text in texts for part in _split(text, ",")):
        role, equals, source = part.partition("=")
        if not equals:
            raise ConfigurationError(f"--map: {part!r} says nothing; {_ADVICE}")
        if role.strip() in sources:
            raise ConfigurationError(f"--map: {role.strip()} is there twice; join columns with |")
        sources |= sources_of({role.strip(): source.strip()}, "--map")
    return sources


def sources_of(map_: Mapping[str, str], where: str) -> dict[str, ColumnSource]:
    """Returns the sources in ``map_``, texts by role. ``where``: the name of the option or setting. Raises
    ConfigurationError."""
    if unknown := [role for role in map_ if role not in ROLES]:
        raise ConfigurationError(f"{where}: {unknown[0]!r} is no role; there are {', '.join(ROLES)}")
    return {role: _source(role, text, where) for role, text in map_.items()}


def quoted(name: str) -> str:
    """Returns the column ``name`` as a source."""
    plain = _SPECIAL.sub(r"\\\1", name)
    return "\\" + plain if plain.startswith("@") else plain


def _source(role: str, text: str, where: str) -> ColumnSource:
    if text.startswith("@"):
        if role not in TEXTS:
            raise ConfigurationError(f"{where}: {role} cannot be the same in every row; {_ADVICE}")
        return ColumnSource(constant=text[1:])
    patterns = tuple(_split(text, "|"))
    if role not in VECTORS and (len(patterns) > 1 or any("*" in _bare(pattern) for pattern in patterns)):
        raise ConfigurationError(f"{where}: {role} is one column, not {text!r}")
    return ColumnSource(patterns)


def _split(text: str, at: str) -> list[str]:
    """Returns the parts of ``text`` between ``at`` without a backslash before it."""
    return [part for part in re.split(rf"(?<!\\){re.escape(at)}", text) if part]


def _bare(pattern: str) -> str:
    """Returns ``pattern`` without escaped characters."""
    return re.sub(r"\\.", "", pattern)


def _matches(pattern: str, name: str) -> bool:
    parts = (re.sub(r"\\(.)", r"\1", part) for part in re.split(r"(?<!\\)\*", pattern))
    return re.fullmatch(".*".join(map(re.escape, parts)), name, re.DOTALL) is not None
