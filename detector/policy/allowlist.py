"""Principals whose alerts are published but whose automatic decisions are withheld: from a file, and by commands."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any

import msgspec

from detector.contracts.errors import ConfigurationError
from detector.contracts.principals import NAME_CHARACTERS, is_name, is_plain
from detector.policy.activity import Section, decode_section

_FIELDS = {"principal", "model", "owner", "reason", "expires"}
_REQUIRED = _FIELDS - {"model"}
FORMAT = 1
MOST_EXEMPTIONS = 10_000
"""Exemptions by command at most, in each partition."""
MOST_SECONDS = 90 * 86_400.0
"""The longest exemption by command: as long as the audit topic is kept, from which the list can be read."""


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
    """Exemptions by principal. They hold for automatic decisions, not for an operator's commands.

    ``unreadable``: why the list could not be read; then nothing is enforced automatically.
    """

    exemptions: tuple[Exemption, ...] = ()
    unreadable: str | None = None
    _by_principal: dict[str, list[Exemption]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for exemption in self.exemptions:
            self._by_principal.setdefault(exemption.principal, []).append(exemption)

    def covering(self, model: str, principal: str, now: float) -> Exemption | None:
        """Returns the exemption of ``principal`` for ``model`` that lasts longest after ``now``, or None."""
        return longest(self._by_principal.get(principal, ()), model, now)


def longest(exemptions: Iterable[Exemption], model: str, now: float) -> Exemption | None:
    """Returns the one of ``exemptions`` for ``model`` that lasts longest after ``now``, or None."""
    current = [own for own in exemptions if own.model in (None, model) and own.expires_at > now]
    return max(current, key=lambda own: own.expires_at, default=None)


Name = tuple[str, str | None]
"""(principal, model), None for all models."""

Row = tuple[str, str | None, Exemption | None]
"""(principal, model, exemption), None for one that was removed."""

_decoder = msgspec.msgpack.Decoder(list[Row])


class CommandedExemptions:
    """The exemptions that operators gave by command to principals of one partition, beside those of ``listed``.

    Its state is a section of its own in the state log; a change is logged whole.
    """

    def __init__(self, listed: Allowlist) -> None:
        self._listed = listed
        self._held: dict[str, dict[str | None, Exemption]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def covering(self, model: str, principal: str, now: float) -> Exemption | None:
        """Returns the exemption of ``principal`` for ``model`` that lasts longest after ``now``, or None."""
        held = self._held.get(principal)
        if held is None:
            return self._listed.covering(model, principal, now)
        listed = self._listed.covering(model, principal, now)
        return longest([*held.values(), *([listed] if listed is not None else [])], model, now)

    def allow(self, exemption: Exemption, now: float) -> Section:
        """Adds an exemption, or replaces that of the same principal and model, and drops those that have expired.
        Raises ConfigurationError."""
        if not now < exemption.expires_at <= now + MOST_SECONDS:
            raise ConfigurationError(f"not allowed: an exemption lasts at most {MOST_SECONDS / 86_400:g} days")
        expired = [name for name, own in self._all() if own.expires_at <= now]
        if len(self) - len(expired) >= MOST_EXEMPTIONS:
            raise ConfigurationError(f"not allowed: there are {MOST_EXEMPTIONS:,} exemptions; remove some first")
        return self._change([*((*name, None) for name in expired), (exemption.principal, exemption.model, exemption)])

    def disallow(self, principal: str, model: str | None) -> Section:
        """Removes an exemption. Raises ConfigurationError if there is none by command."""
        if model not in self._held.get(principal, {}):
            raise ConfigurationError(
                "not removed: no command has exempted the principal for "
                + ("all models" if model is None else f"the model {model}")
                + "; an entry of policy.allowlist is removed from its file"
            )
        return self._change([(principal, model, None)])

    def absorb(self, section: Section) -> None:
        """Applies a change or a dump. Raises NewerStateLog, StateLogError."""
        self._apply(decode_section("allowlist", section, FORMAT, _decoder))

    def dump(self) -> Section | None:
        """Returns all exemptions by command, None if there are none."""
        rows = [(*name, own) for name, own in self._all()]
        return (FORMAT, msgspec.msgpack.encode(rows)) if rows else None

    def _all(self) -> list[tuple[Name, Exemption]]:
        return [((principal, model), own) for principal, held in self._held.items() for model, own in held.items()]

    def _change(self, rows: list[Row]) -> Section:
        self._apply(rows)
        return FORMAT, msgspec.msgpack.encode(rows)

    def _apply(self, rows: list[Row]) -> None:
        for principal, model, exemption in rows:
            held = self._held.setdefault(principal, {})
            if exemption is not None:
                held[model] = exemption
            else:
                held.pop(model, None)
            if not held:
                del self._held[principal]


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
