"""Who a request comes from."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    BaseUser,
    SimpleUser,
    UnauthenticatedUser,
)
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from detector.contracts.principals import ANONYMOUS, PrincipalHasher, is_name, usable_principal
from detector.serving import ApiKey, Bearer, Header, Identity
from detector.serving.identity import AMBIGUOUS, headers_of
from tests.serving.stage import ANSWER, Guarded

HASHER = PrincipalHasher(b"secret")
SOURCES = (Header("X-Account"), ApiKey(), Bearer())


@pytest.mark.parametrize(
    ("headers", "principal"),
    [
        ({"x-account": "acme", "x-api-key": "k"}, "acme"),
        ({"x-account": "", "x-api-key": "k"}, HASHER.api_key("k")),
        ({"authorization": "Bearer  t "}, HASHER.api_key("t")),
        ({"authorization": "bearer t"}, HASHER.api_key("t")),
        ({"authorization": "Basic t"}, ANONYMOUS),
        ({"authorization": "Bearer "}, ANONYMOUS),
        ({}, ANONYMOUS),
        ({"x-account": "*"}, usable_principal("*")),
        ({"x-account": "x" * 300}, usable_principal("x" * 300)),
    ],
)
def test_the_first_source_that_finds_somebody_names_them(headers: dict[str, str], principal: str) -> None:
    identity = Identity(SOURCES, HASHER)
    assert identity.principal(headers) == principal
    found = "anonymous" if principal == ANONYMOUS else "identified"
    assert identity.counters.snapshot()[found] == 1


def test_whatever_is_found_can_be_a_principal() -> None:
    identity = Identity(SOURCES, HASHER)
    for account in ("*", "a\x00b", "x" * 10_000, "\N{SNOWMAN}" * 500):
        assert is_name(identity.principal({"x-account": account}))


def test_a_header_that_anybody_could_set_is_not_believed_unless_named() -> None:
    assert Identity().principal({"x-account": "rival", "x-account-id": "rival"}) == ANONYMOUS


def test_by_default_no_key_beside_a_token_and_none_alone_names_a_principal() -> None:
    made_up = [
        {"x-api-key": "random"},
        {"x-forwarded-for": "1.2.3.4"},
        {"cookie": "session=random"},
        {"authorization": "Basic random"},
    ]
    assert {Identity().principal(headers) for headers in made_up} == {ANONYMOUS}
    beside = [{"x-api-key": f"random-{n}", "authorization": "Bearer real"} for n in range(5)]
    assert {Identity().principal(headers) for headers in beside} == {AMBIGUOUS}


def test_by_default_a_token_names_its_principal_unless_the_application_authenticates_before() -> None:
    names = [Identity().principal({"authorization": f"Bearer {token}"}) for token in ("one", "two", "one")]
    assert names[0] == names[2] != names[1]
    assert Identity().principal({"authorization": "Bearer one"}, {"user": UnauthenticatedUser()}) == ANONYMOUS


@pytest.mark.parametrize("sources", [(ApiKey(), Bearer()), (Bearer(), ApiKey())])
def test_a_made_up_credential_beside_a_real_one_gives_no_fresh_principal(sources: Any) -> None:
    identity = Identity(sources, HASHER)
    real = {"authorization": "Bearer real", "x-api-key": "real-too"}
    found = {identity.principal(real | {name: f"Bearer {n}"}) for name in real for n in range(5)}
    assert found == {AMBIGUOUS}
    assert identity.counters.snapshot()["ambiguous"] == 10


def test_one_secret_in_two_places_is_one() -> None:
    both = {"authorization": "Bearer k", "x-api-key": "k"}
    assert Identity((ApiKey(), Bearer()), HASHER).principal(both) == HASHER.api_key("k")


def test_what_a_proxy_set_goes_before_credentials_in_any_order() -> None:
    for sources in ((ApiKey(), Header("x-account")), (Header("x-account"), ApiKey())):
        assert Identity(sources).principal({"x-api-key": "random", "x-account": "acme"}) == "acme"


@pytest.mark.parametrize(
    "spelling",
    [
        "Bearer t",
        "bearer t",
        "BEARER  t",
        "Bearer\tt",
        " Bearer t ",
        "Bearer t,",
        "Bearer t x",
        "Bearer t, Bearer u",
        "Bearer t;u",
    ],
)
def test_spellings_of_one_token_are_one_principal(spelling: str) -> None:
    headers = headers_of({"headers": [(b"Authorization", spelling.encode())]})
    assert Identity([Bearer()], HASHER).principal(headers) == HASHER.api_key("t")


def _jwt(signature: str = "c2ln", **claims: Any) -> dict[str, str]:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "x"}, claims)
    ]
    return {"authorization": "Bearer " + ".".join([*parts, signature])}


def test_web_tokens_of_one_subject_are_one_principal_however_fresh_and_however_written() -> None:
    identity = Identity([Bearer()], HASHER)
    tokens = [_jwt(iss="a", sub="u", exp=1), _jwt(iss="a", sub="u", exp=2), _jwt("c2ln!!", iss="a", sub="u", jti="z")]
    assert len({identity.principal(token) for token in tokens}) == 1
    others = [_jwt(iss="b", sub="u"), _jwt(iss="a", sub="v"), _jwt(sub="u")]
    assert len({identity.principal(token) for token in [*tokens, *others]}) == 4


@pytest.mark.parametrize("token", ["a.b.c", "a.bnVsbA.c", "a.e30.c", "..", "a.b", _jwt(sub=7)["authorization"][7:]])
def test_a_token_that_only_looks_like_one_counts_as_it_stands(token: str) -> None:
    assert Identity([Bearer()], HASHER).principal({"authorization": f"Bearer {token}"}) == HASHER.api_key(token)


def test_a_header_that_comes_twice_with_different_values_names_nobody() -> None:
    pairs = [(b"x-account", b"acme"), (b"X-Account", b" acme "), (b"x-api-key", b"k"), (b"x-api-key", b"random")]
    headers = headers_of({"headers": pairs})
    assert Identity([Header("x-account")]).principal(headers) == "acme"
    assert Identity([ApiKey()]).principal(headers) == AMBIGUOUS
    assert Identity([Bearer()]).principal({"authorization": None}) == AMBIGUOUS


class _User:
    """A user of a class of its own, as Django's."""

    is_authenticated = True
    username = "ada"


class _Named(BaseUser):
    """A user of Starlette's without an identity."""

    is_authenticated = True
    display_name = "ada"


class _Guest(SimpleUser):
    is_authenticated = False


@pytest.mark.parametrize(
    ("scope", "principal"),
    [
        ({"user": SimpleUser("ada")}, "ada"),
        ({"user": _User()}, "ada"),
        ({"user": _Named()}, "ada"),
        ({"state": {"principal": "ada"}, "user": SimpleUser("bob")}, "ada"),
        ({"state": {"principal": 7}}, "7"),
        ({"state": {"principal": "\ud800"}}, usable_principal("\ud800")),
        ({"state": {"principal": ""}, "user": UnauthenticatedUser()}, ANONYMOUS),
        ({"user": _Guest("ada")}, ANONYMOUS),
        ({"user": None, "state": None}, ANONYMOUS),
        ({"user": SimpleUser("")}, ANONYMOUS),
    ],
)
def test_the_application_names_whom_it_authenticated(scope: dict[str, Any], principal: str) -> None:
    assert Identity().principal({"x-api-key": "random"}, scope) == principal


class _Backend(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        return (AuthCredentials(), SimpleUser("ada")) if conn.headers.get("authorization") == "Bearer real" else None


def test_starlettes_authentication_before_the_middleware_names_the_principal() -> None:
    guarded = Guarded(Starlette(routes=[Route("/predict", _predict, methods=["POST"])]))
    guarded.app._identity = Identity()
    around = AuthenticationMiddleware(guarded.app, backend=_Backend())
    for number in range(3):
        guarded.ask(around=around, headers={"authorization": "Bearer real", "x-api-key": f"random-{number}"})
    guarded.ask(around=around, headers={"authorization": "Bearer forged"})
    assert sorted(rows.principal for rows in guarded.logger.kept()) == ["ada", "ada", "ada", ANONYMOUS]


async def _predict(request: Request) -> JSONResponse:
    await request.body()
    return JSONResponse(ANSWER)
