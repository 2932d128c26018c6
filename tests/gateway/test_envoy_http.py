"""Envoy's ext_authz over HTTP: a client sends and does what Envoy does with deploy/envoy/http.yaml."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from detector.contracts.actions import ACTIONS, RATE, make_action
from tests.gateway.stage import HASHER, ask_as_it_is, fed_authorizer, served
from tests.serving.doubles import Clock, FedGate, decision, notice

FILTER = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "envoy" / "http.yaml").read_text("utf-8"))
CONFIG: Any = FILTER["http_filters"][0]["typed_config"]
CHECK: Any = CONFIG["http_service"]
ALLOWED = {one["exact"] for one in CONFIG["allowed_headers"]["patterns"]}
SHOWN, SHOWN_ON_SUCCESS = (
    {one["exact"] for one in CHECK["authorization_response"][f"allowed_client_headers{when}"]["patterns"]}
    for when in ("", "_on_success")
)


def checked(port: int, path: str = "/predict", method: str = "POST", **headers: str) -> tuple[int, dict[str, str]]:
    """The status and headers that the client of Envoy sees; 200 means that its request goes on."""
    passed = {name: value for name, value in headers.items() if name in ALLOWED}
    own = {"host": "model.example", "content-length": "0", "x-forwarded-for": "10.0.0.1", "x-envoy-internal": "true"}
    answer = ask_as_it_is(port, method, f"{CHECK['path_prefix']}{path}", {**own, **passed})
    if answer.status >= 500:
        return (200 if CONFIG["failure_mode_allow"] else 503), {}
    shown = {name.lower(): value for name, value in answer.headers.items()}
    passing = SHOWN_ON_SUCCESS if answer.status == 200 else SHOWN
    return answer.status, {name: value for name, value in shown.items() if name in passing}


ACCOUNT = {"x-account": "thief"}


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def gate(clock: Clock) -> FedGate:
    return FedGate([decision("refuse", expires_at=130.5)], clock, when_stale={"digits": "refuse"})


@pytest.fixture
def port(gate: FedGate) -> Iterator[int]:
    with served(fed_authorizer(gate)) as number:
        yield number


def test_a_refused_principal_gets_429_and_the_id_of_the_decision(port: int, gate: FedGate) -> None:
    status, headers = checked(port, **ACCOUNT)
    assert status == 429
    assert headers.keys() == {"content-type", "retry-after", "ratelimit", "weirguard-decision"}
    assert (headers["retry-after"], headers["weirguard-decision"]) == ("31", "d" * 32)
    assert checked(port, **{"x-account": "unknown"}) == (200, {})
    gate.feed(notice(15.0, principal="near"))
    told = {"ratelimit": '"budget";r=15', "ratelimit-policy": '"budget";q=100'}
    assert checked(port, **{"x-account": "near"}) == (200, told)
    gate.feed(decision("none", epoch=(1, 2)))
    assert checked(port, **ACCOUNT) == (200, {})


@pytest.mark.parametrize(
    "path", ["/predict?x=1", "//predict", "/../predict", "/a/%2e%2e/predict", "/v2/models/digits/infer"]
)
def test_no_spelling_of_the_path_passes(path: str, port: int) -> None:
    assert checked(port, path, **ACCOUNT)[0] == 429


@pytest.mark.parametrize("path", ["/../metrics", "/../nginx", "/../../livez/../predict", "/predict/../../nginx"])
def test_no_path_reaches_a_page_of_the_service_itself(path: str, port: int) -> None:
    """Whatever the answer, it is that of a check of this path."""
    status, headers = checked(port, path, **{"x-account": "honest"})
    assert (status, headers) == (200, {})


@pytest.mark.parametrize("name", [name for name, kind in ACTIONS.items() if kind.fallback])
def test_what_a_proxy_cannot_do_falls_back_to_what_it_can(name: str, port: int, gate: FedGate) -> None:
    gate.feed(replace(decision("none", epoch=(1, 2)), action=make_action(name)))
    assert [checked(port, **ACCOUNT)[0] for _ in range(2)] == [200, 200 if ACTIONS[name].fallback == "none" else 429]


@pytest.mark.parametrize("name", [name for name in ACTIONS if name != "none"])
def test_a_decision_of_any_kind_that_observes_changes_no_answer(name: str, port: int, gate: FedGate) -> None:
    action = make_action(name, {RATE: 1.0} if name == "slow" else {})
    gate.feed(replace(decision("none", epoch=(1, 2), mode="observe"), action=action))
    assert [checked(port, **ACCOUNT) for _ in range(3)] == [(200, {})] * 3
    assert any(total for counter, total in gate.counters.snapshot().items() if counter.startswith("would_have_"))


def test_a_gate_without_current_decisions_is_closed_whatever_failure_mode_allow_is(port: int, clock: Clock) -> None:
    clock.now = 161.0
    status, headers = checked(port, **ACCOUNT)
    assert (status, headers["retry-after"]) == (403, "5")
    assert checked(port, "/v2/models/other/infer", **ACCOUNT)[0] == 200


def test_two_keys_joined_by_a_comma_are_ambiguous(port: int, gate: FedGate) -> None:
    gate.feed(decision("refuse", principal="ambiguous"))
    gate.feed(decision("refuse", principal=HASHER.api_key("stolen")))
    keys = ("stolen", "good", "good, stolen", "stolen,stolen")
    assert [checked(port, **{"x-api-key": key})[0] for key in keys] == [429, 200, 429, 429]


def test_large_headers_that_a_proxy_lets_through_are_read(port: int) -> None:
    assert checked(port, "/predict?" + "x" * 30_000, **ACCOUNT, authorization="Basic " + "x" * 30_000)[0] == 429


def test_pages_for_a_supervisor(port: int, gate: FedGate) -> None:
    checked(port, **ACCOUNT)
    expected = {"/livez": 200, "/readyz": 200, "/metrics": 200, "/nginx": 400, "/": 404}
    pages = {path: httpx.get(f"http://127.0.0.1:{port}{path}") for path in expected}
    assert {path: page.status_code for path, page in pages.items()} == expected
    assert {path: page.status_code for path, page in pages.items()} == {
        "/livez": 200,
        "/readyz": 200,
        "/metrics": 200,
        "/nginx": 400,
        "/": 404,
    }
    assert "weirguard_sdk_gate_refused_total 1.0" in pages["/metrics"].text
    assert "weirguard_sdk_gate_age_seconds 0.0" in pages["/metrics"].text
    assert "thief" not in pages["/metrics"].text
    gate._background.ready.clear()
    assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 503


def test_a_check_for_nginx_with_two_addresses_is_refused(port: int) -> None:
    asked = [("x-original-uri", "/predict"), ("x-original-uri", "/other"), ("x-account", "honest")]
    assert httpx.get(f"http://127.0.0.1:{port}/nginx", headers=asked).status_code == 400
    assert httpx.get(f"http://127.0.0.1:{port}/nginx", headers=asked[1:]).status_code == 200


def test_what_is_no_http_ends_nothing(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"\x00\xff nonsense\r\n\r\n")
        assert b"400" in client.recv(1_000)
    assert checked(port, **ACCOUNT)[0] == 429
