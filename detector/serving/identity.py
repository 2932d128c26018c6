"""Who asks: the principal of a request, from an ordered list of places to look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from detector.contracts.codecs.limits import names_one
from detector.contracts.principals import ANONYMOUS, PrincipalHasher
from detector.serving.metrics import Counters

Headers = Mapping[str, str]
"""HTTP header values by lower-case name."""


class IdentitySource(Protocol):
    """One place where a principal may be found."""

    def find(self, headers: Headers, hasher: PrincipalHasher) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Header:
    """The account id in the header ``name``, as it stands.

    Only for a header that your own proxy sets and strips from outside: whoever can choose it can get a rival banned.
    """

    name: str

    def find(self, headers: Headers, hasher: PrincipalHasher) -> str | None:
        account = headers.get(self.name.lower())
        if not account:
            return None
        return account if names_one(account) else hasher.api_key(account)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The API key in the header ``name``, hashed."""

    name: str = "x-api-key"

    def find(self, headers: Headers, hasher: PrincipalHasher) -> str | None:
        secret = headers.get(self.name.lower())
        return hasher.api_key(secret) if secret else None


@dataclass(frozen=True, slots=True)
class Bearer:
    """The bearer token of the Authorization header, hashed. For keys, not for tokens that change by the hour."""

    def find(self, headers: Headers, hasher: PrincipalHasher) -> str | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        secret = token.strip()
        return hasher.api_key(secret) if scheme.lower() == "bearer" and secret else None


class Identity:
    """The first of ``sources`` that finds somebody names the principal; else he is ``anonymous``.

    ``hasher`` must have the key that the detector's commands hash with. An account id that cannot be a principal
    (too long, control characters, ``*``) is hashed as well. Counters: ``identified``, ``anonymous``.
    """

    NAME = "identity"

    def __init__(
        self,
        sources: Sequence[IdentitySource] = (ApiKey(), Bearer()),
        hasher: PrincipalHasher = PrincipalHasher(),  # noqa: B008  immutable
    ) -> None:
        self.counters = Counters("identified", "anonymous")
        self._sources = tuple(sources)
        self._hasher = hasher

    def principal(self, headers: Headers) -> str:
        """The principal of a request with ``headers``."""
        for source in self._sources:
            principal = source.find(headers, self._hasher)
            if principal is not None:
                self.counters.add("identified")
                return principal
        self.counters.add("anonymous")
        return ANONYMOUS

    def gauges(self) -> Mapping[str, float]:
        return {}
