"""Principals whose alerts are published but whose automatic decisions are withheld."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any

from detector.contracts.errors import ConfigurationError
from detector.contracts.principals import NAME_CHARACTERS, is_name, is_plain

_FIELDS = {"principal", "model", "owner", "reason", "expires"}
_REQUIRED = _FIELDS - {"model"}


@dataclass(frozen=True, slots=True)
class Exemption:
    """One principal, of one model or (``model`` None) of all, until ``expires_at`` (seconds UTC)."""

    principal: str
    owner: str
    reason: str
    expires_at: float
    model: str | None = None

    def __post_init__(self) -> None:
        if not (is_name(self.principal) and is_plain(str(self), NAME_CHARACTERS)):
            raise ConfigurationError(
                f"allowlist entry of {self.principal!r}: principal, or owner and reason together, are empty, hold "
                f"control characters or are longer than {NAME_CHARACTERS} characters"
            )

    def __str__(self) -> str:
        return f"allowlist: {self.reason} ({self.owner})"


@dataclass(frozen=True)
class Allowlist:
    """Exemptions by principal. They hold for automatic decisions, not for an operator's commands."""

    exemptions: tuple[Exemption, ...] = ()
    _by_principal: dict[str, list[Exemption]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for exemption in self.exemptions:
            self._by_principal.setdefault(exemption.principal, []).append(exemption)

    def covering(self, model: str, principal: str, now: float) -> Exemption | None:
        """Returns the exemption of ``principal`` for ``model`` that lasts longest after ``now``, or None."""
        current = [
            exemption
            for exemption in self._by_principal.get(principal, ())
            if exemption.model in (None, model) and exemption.expires_at > now
        ]
        return max(current, key=lambda exemption: exemption.expires_at, default=None)


def parse_allowlist(text: str) -> Allowlist:
    """Parses the allowlist in ``text``, TOML of this form; ``model`` is optional::

        [[allow]]
        principal = "account-7"
        model = "digits"
        owner = "partner team"
        reason = "load test agreed in ticket 812"
        expires = 2027-01-31

    ``expires`` is a day (its start, UTC) or a time with an offset. Raises ConfigurationError for a list that cannot
    be read: the detector must not start as if the list were empty.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"the allowlist is not valid TOML: {error}; correct the file") from error
    unknown = sorted(set(document) - {"allow"})
    if unknown:
        raise ConfigurationError(f"the allowlist has unknown keys {unknown}; only [[allow]] tables are allowed")
    tables = document.get("allow", [])
    if not isinstance(tables, list):
        raise ConfigurationError("the allowlist has one [allow] table; write [[allow]] for each entry")
    return Allowlist(tuple(_exemption(number, table) for number, table in enumerate(tables, start=1)))


def _exemption(number: int, table: Any) -> Exemption:
    if not isinstance(table, dict):
        raise ConfigurationError(f"allowlist entry {number} is not a table; write [[allow]] for each entry")
    missing, unknown = sorted(_REQUIRED - set(table)), sorted(set(table) - _FIELDS)
    if missing or unknown:
        raise ConfigurationError(
            f"allowlist entry {number}: missing {missing}, unknown {unknown}; it needs {sorted(_REQUIRED)} and may "
            "name a model"
        )
    words = {name: _word(number, name, value) for name, value in table.items() if name != "expires"}
    return Exemption(**words, expires_at=_expiry(number, table["expires"]))


def _word(number: int, name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"allowlist entry {number}: {name} is {value!r}; write a string that is not empty")
    return value


def _expiry(number: int, value: Any) -> float:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ConfigurationError(f"allowlist entry {number}: expires has no offset; write it like {value}Z")
        return value.timestamp()
    if isinstance(value, date):
        return datetime.combine(value, time.min, UTC).timestamp()
    raise ConfigurationError(f"allowlist entry {number}: expires is {value!r}; write a date like 2027-01-31")
