"""Who a request comes from."""

from __future__ import annotations

import pytest

from detector.contracts.codecs.limits import names_one
from detector.contracts.principals import ANONYMOUS, PrincipalHasher, usable_principal
from detector.serving import ApiKey, Bearer, Header, Identity

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
        assert names_one(identity.principal({"x-account": account}))


def test_a_header_that_anybody_could_set_is_not_believed_unless_named() -> None:
    assert Identity().principal({"x-account": "rival", "x-account-id": "rival"}) == ANONYMOUS
