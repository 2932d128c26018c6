"""The principal of a request, as it was authenticated, from an ordered list of sources.

No request may choose its principal. Only the application knows what it checked: by default its own result is believed,
or else the bearer token, which is HTTP's standard way; the owner must name any other credential.
"""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from detector.contracts.principals import ANONYMOUS, PrincipalHasher, principal_of
from detector.serving.metrics import Counters, RateLimitedLogger

AMBIGUOUS = "ambiguous"
"""The common principal of all requests with several credentials, of which only the application knows the right one."""

Headers = Mapping[str, str | None]
"""HTTP header values by lower-case name; None for one that came several times with different values."""
Scope = Mapping[str, Any]


class IdentitySource(Protocol):
    """A source of principals: the headers, or the ASGI scope of the request."""

    def find(self, headers: Headers, scope: Scope, hasher: PrincipalHasher) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The account that the application authenticated before: ``scope["user"]``, or ``principal`` in its ``state``.

    Starlette's AuthenticationMiddleware and Django set the first, a custom middleware sets ``request.state.principal``.
    They must come before this middleware, nearer to the server.
    """

    def find(self, headers: Headers, scope: Scope, hasher: PrincipalHasher) -> str | None:
        state = scope.get("state")
        account = state.get("principal") if isinstance(state, Mapping) else None
        if account in (None, ""):
            user = scope.get("user")
            account = _account(user) if getattr(user, "is_authenticated", False) is True else None
        return None if account in (None, "") else principal_of(account)


@dataclass(frozen=True, slots=True)
class Header:
    """The account id in the header ``name``, unchanged. Only for a header that your own proxy sets and removes from
    incoming requests: a caller who can choose it can get a rival banned.
    """

    name: str

    def find(self, headers: Headers, scope: Scope, hasher: PrincipalHasher) -> str | None:
        account = headers.get(self.name.lower(), "")
        if account is None:
            return AMBIGUOUS
        return principal_of(account) if account else None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The API key in the header ``name``, hashed. Only if the application requires a valid one."""

    name: str = "x-api-key"

    def find(self, headers: Headers, scope: Scope, hasher: PrincipalHasher) -> str | None:
        secret = headers.get(self.name.lower(), "")
        if secret is None:
            return AMBIGUOUS
        return hasher.api_key(secret) if secret else None


@dataclass(frozen=True, slots=True)
class Bearer:
    """The bearer token of the Authorization header, hashed. Only if the application requires one.

    Of a JSON Web Token only issuer and subject are used: tokens are renewed, and one can be written in many ways. The
    application must have verified it, like any token.
    """

    def find(self, headers: Headers, scope: Scope, hasher: PrincipalHasher) -> str | None:
        value = headers.get("authorization", "")
        if value is None:
            return AMBIGUOUS
        scheme, token, *_ = [*_SEPARATORS.split(value), "", ""]
        return hasher.api_key(_subject(token)) if scheme.lower() == "bearer" and token else None


_SEPARATORS = re.compile(r"[\s,;]+")


class Identity:
    """The principal is that of the first of ``sources`` that finds one; else it is ``anonymous``.

    Prior authentication, by :class:`Authenticated` or :class:`Header`, takes precedence over credentials. If a request
    has several different credentials, only the application knows which counts, and a caller could add another one to
    each request. So all such requests are one principal, ``ambiguous``.

    The default is :class:`Authenticated`, then :class:`Bearer`. An API key next to the token makes the request
    ambiguous, and an API key alone is not believed, as it may be anything. An application that checks something else
    must name it.

    ``hasher`` must have the key that the detector's commands hash with. Counters: ``identified``, ``ambiguous``,
    ``anonymous``.
    """

    NAME = "identity"

    def __init__(
        self,
        sources: Sequence[IdentitySource] | None = None,
        hasher: PrincipalHasher = PrincipalHasher(),  # noqa: B008  immutable
    ) -> None:
        self.counters = Counters("identified", "ambiguous", "anonymous")
        self._untrusted = (ApiKey(),) if sources is None else ()
        named = _DEFAULT if sources is None else sources
        self._credentials = tuple(source for source in named if isinstance(source, ApiKey | Bearer))
        self._trusted = tuple(source for source in named if source not in self._credentials)
        self._hasher = hasher
        self._log = RateLimitedLogger(logging.getLogger(__name__))

    def principal(self, headers: Headers, scope: Scope | None = None) -> str:
        """Returns the principal of a request with ``headers`` and, under ASGI, ``scope``."""
        principal = self._find(headers, scope or {})
        if principal == AMBIGUOUS:
            self.counters.add("ambiguous")
            self._log.warning("ambiguous", _SEVERAL)
        else:
            self.counters.add("anonymous" if principal == ANONYMOUS else "identified")
        return principal

    def gauges(self) -> Mapping[str, float]:
        return {}

    def _find(self, headers: Headers, scope: Scope) -> str:
        for source in self._trusted:
            principal = source.find(headers, scope, self._hasher)
            if principal is not None:
                return principal
        if self._untrusted and "user" in scope:
            return ANONYMOUS  # the application authenticates requests, and this one has no user
        found = {source.find(headers, scope, self._hasher) or ANONYMOUS for source in self._credentials} - {ANONYMOUS}
        if len(found) > 1 or (found and any(source.find(headers, scope, self._hasher) for source in self._untrusted)):
            return AMBIGUOUS
        return found.pop() if found else ANONYMOUS


_DEFAULT: tuple[IdentitySource, ...] = (Authenticated(), Bearer())
_SEVERAL = (
    "a request carries several credentials, or a header twice: it counts under the principal 'ambiguous'; "
    "give Identity only the one that authenticates a request"
)


def headers_of(scope: Scope) -> Headers:
    """Returns the headers of the request of ``scope``, stripped of surrounding white space."""
    pairs: Iterable[tuple[bytes, bytes]] = scope["headers"]
    headers: dict[str, str | None] = {}
    for name, data in pairs:
        value = data.decode("latin-1").strip()
        if headers.setdefault(name.decode("latin-1").lower(), value) != value:
            headers[name.decode("latin-1").lower()] = None
    return headers


def _account(user: Any) -> object:
    """Returns the identifier of ``user``. Not every class has all attributes, and Starlette's raise without them."""
    for name in ("identity", "username", "display_name"):
        try:
            account = getattr(user, name, None)
        except NotImplementedError:
            continue
        if account not in (None, ""):
            return account
    return None


def _subject(token: str) -> str:
    """Returns issuer and subject of a JSON Web Token, else ``token`` unchanged."""
    head, _, rest = token.partition(".")
    payload, _, signature = rest.partition(".")
    if not (head and payload and signature):
        return token
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        subject = claims["sub"]
    except (ValueError, KeyError, TypeError):
        return token
    return json.dumps([claims.get("iss"), subject]) if isinstance(subject, str) and subject else token
