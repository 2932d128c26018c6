"""Principals whose alerts are published but whose automatic decisions are withheld: from a file, and by commands."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import cached_property, lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, get_args

import msgspec

from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import ExemptionScope
from detector.contracts.principals import NAME_CHARACTERS, is_name, is_plain
from detector.policy.activity import UNAFFILIATED, Affiliation, Section, decode_section

SCOPES: tuple[ExemptionScope, ...] = get_args(ExemptionScope)
_REQUIRED = {"owner", "reason", "expires"}
_FIELDS = {*_REQUIRED, *SCOPES, "model"}
FORMAT = 1
MOST_EXEMPTIONS = 10_000
"""Exemptions by command at most, in each partition."""
MOST_SECONDS = 90 * 86_400.0
"""The longest exemption by command: as long as the audit topic is kept, from which the list can be read."""


@dataclass(frozen=True, slots=True)
class Exemption:
    """One principal, of one model or (``model`` None) of all, until ``expires_at`` (seconds UTC).

    With another ``scope``, ``principal`` names the organisation or the network of the principals' queries.
    """

    principal: str
    owner: str
    reason: str
    expires_at: float
    model: str | None = None
    scope: ExemptionScope = "principal"

    def __post_init__(self) -> None:
        if not (is_name(self.principal) and is_plain(str(self), NAME_CHARACTERS)):
            raise ConfigurationError(
                f"allowlist entry of {self.principal!r}: principal, or owner and reason together, are empty, hold "
                f"control characters or are longer than {NAME_CHARACTERS} characters"
            )
        if self.scope == "network" and _network(self.principal) is None:
            raise ConfigurationError(
                f"allowlist entry of {self.principal!r}: this is no network; write it like 203.0.113.0/24"
            )

    def covers(self, principal: str, affiliation: Affiliation) -> bool:
        """Returns whether ``principal``, whose last query had this ``affiliation``, is exempt."""
        organisation, network = affiliation
        if self.scope == "principal":
            return principal == self.principal
        return organisation == self.principal if self.scope == "organisation" else _lies_in(network, self.principal)

    def __str__(self) -> str:
        return f"allowlist: {self.reason} ({self.owner})"


@lru_cache(maxsize=4_096)
def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _lies_in(text: str, other: str) -> bool:
    """Returns whether the network or address ``text`` is a part of the network ``other``; False for no network."""
    inner, outer = _network(text), _network(other)
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network) and inner.subnet_of(outer)


@dataclass(frozen=True)
class Allowlist:
    """Exemptions by principal. They hold for automatic decisions, not for an operator's commands.

    ``unreadable``: why the list could not be read; then nothing is enforced automatically.
    """

    exemptions: tuple[Exemption, ...] = ()
    unreadable: str | None = None

    @cached_property
    def _by_principal(self) -> dict[str, list[Exemption]]:
        """The exemptions of each principal; those of organisations and networks under the empty name."""
        found: dict[str, list[Exemption]] = {}
        for exemption in self.exemptions:
            name = exemption.principal if exemption.scope == "principal" else ""
            found.setdefault(name, []).append(exemption)
        return found

    @property
    def needs_affiliations(self) -> bool:
        """Whether an organisation or a network is exempt, so that it matters from where queries come."""
        return "" in self._by_principal

    def covering(
        self, model: str, principal: str, now: float, affiliation: Affiliation = UNAFFILIATED
    ) -> Exemption | None:
        """Returns the exemption of ``principal``, whose last query had this ``affiliation``, for ``model`` that lasts
        longest after ``now``, or None."""
        wide = [exemption for exemption in self._by_principal.get("", ()) if exemption.covers(principal, affiliation)]
        current = [
            exemption
            for exemption in (*self._by_principal.get(principal, ()), *wide)
            if exemption.model in (None, model) and exemption.expires_at > now
        ]
        return max(current, key=lambda exemption: exemption.expires_at, default=None)


Subject = tuple[ExemptionScope, str, str | None]
"""(scope, principal, model), model None for all."""

Row = tuple[ExemptionScope, str, str | None, Exemption | None]
"""A subject and its exemption, None for one that was removed."""

_decoder = msgspec.msgpack.Decoder(list[Row])


class CommandedExemptions:
    """The exemptions that operators gave by command to principals of one partition, in addition to those ``listed``.

    Its state is a section of its own in the state log; a change is logged whole.
    """

    def __init__(self, listed: Allowlist) -> None:
        self._listed = listed
        self._all = listed
        self._held: dict[Subject, Exemption] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def needs_affiliations(self) -> bool:
        """As in ``Allowlist``."""
        return self._all.needs_affiliations

    def covering(self, model: str, principal: str, now: float, affiliation: Affiliation) -> Exemption | None:
        """As in ``Allowlist``; of equal ends, one by command counts."""
        return self._all.covering(model, principal, now, affiliation)

    def allow(self, exemption: Exemption, now: float) -> Section:
        """Adds an exemption, or replaces that of the same principal and model, and drops those that have expired.
        Raises ConfigurationError."""
        if not now < exemption.expires_at <= now + MOST_SECONDS:
            raise ConfigurationError(f"not allowed: an exemption lasts at most {MOST_SECONDS / 86_400:g} days")
        expired = [subject for subject, exemption in self._held.items() if exemption.expires_at <= now]
        if len(self) - len(expired) >= MOST_EXEMPTIONS:
            raise ConfigurationError(f"not allowed: there are {MOST_EXEMPTIONS:,} exemptions; remove some first")
        dropped: list[Row] = [(*subject, None) for subject in expired]
        return self._change([*dropped, (exemption.scope, exemption.principal, exemption.model, exemption)])

    def disallow(self, subject: Subject) -> tuple[Exemption, Section]:
        """Removes an exemption and returns it. Raises ConfigurationError if there is none by command."""
        exemption = self._held.get(subject)
        if exemption is None:
            scope, _, model = subject
            raise ConfigurationError(
                f"not removed: no command has exempted the {scope} for "
                + ("all models" if model is None else f"the model {model}")
                + "; an entry of policy.allowlist is removed from its file"
            )
        return exemption, self._change([(*subject, None)])

    def absorb(self, section: Section) -> None:
        """Applies a change or a dump. Raises NewerStateLog, StateLogError."""
        self._apply(decode_section("allowlist", section, FORMAT, _decoder))

    def dump(self) -> Section | None:
        """Returns all exemptions by command, None if there are none."""
        rows = [(*subject, exemption) for subject, exemption in self._held.items()]
        return (FORMAT, msgspec.msgpack.encode(rows)) if rows else None

    def _change(self, rows: list[Row]) -> Section:
        self._apply(rows)
        return FORMAT, msgspec.msgpack.encode(rows)

    def _apply(self, rows: list[Row]) -> None:
        for scope, principal, model, exemption in rows:
            if exemption is not None:
                self._held[scope, principal, model] = exemption
            else:
                self._held.pop((scope, principal, model), None)
        self._all = Allowlist((*self._held.values(), *self._listed.exemptions))


def parse_allowlist(text: str) -> Allowlist:
    """Parses the allowlist in ``text``, TOML of this form; ``model`` is optional::

        [[allow]]
        principal = "account-7"
        model = "digits"
        owner = "partner team"
        reason = "load test agreed in ticket 812"
        expires = 2027-01-31

    ``organisation`` or ``network`` may stand in place of ``principal``. ``expires`` is a day (its start, UTC) or a time
    with an offset. Raises ConfigurationError for a list that cannot be read: the detector must not start as if the
    list were empty.
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
    scopes = [scope for scope in SCOPES if scope in table]
    if missing or unknown or len(scopes) != 1:
        raise ConfigurationError(
            f"allowlist entry {number}: missing {missing}, unknown {unknown}; it needs {sorted(_REQUIRED)} and one of "
            f"{', '.join(SCOPES)}, and may name a model"
        )
    words = {name: _word(number, name, value) for name, value in table.items() if name != "expires"}
    name = words.pop(scopes[0])
    return Exemption(name, **words, expires_at=_expiry(number, table["expires"]), scope=scopes[0])


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
