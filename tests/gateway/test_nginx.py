"""Debian's nginx asks the gate service by auth_request, with the file that deploy/nginx has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from detector.contracts.principals import PrincipalHasher
from tests.gateway.nginx import CLOSED, PROGRAM, nginx
from tests.gateway.stage import HASHER, ask_as_it_is, fed_authorizer, model_server, served
from tests.serving.doubles import Clock, FedGate, decision, notice

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="nginx is not installed")

BODY = {"instances": [[1.0, 2.0]]}


def ask(address: str, account: str = "honest", path: str = "/predict", **headers: str) -> httpx.Response:
    return httpx.post(f"{address}{path}", json=BODY, headers={"x-account": account, **headers})


@pytest.fixture
def model() -> Iterator[int]:
    with model_server() as port:
        yield port


def test_a_refused_principal_gets_429_and_no_reason_and_all_others_their_answer(model: int, tmp_path: Path) -> None:
    gate = FedGate([decision("refuse", expires_at=130.5)])
    authorizer = fed_authorizer(gate)
    with served(authorizer) as port, nginx(tmp_path, port, model) as address:
        refused = ask(address, "thief")
        assert (refused.status_code, refused.json()) == (429, {"error": "too many requests"})
        assert refused.headers["retry-after"] == "31"
        assert refused.headers["ratelimit"] == '"queries";r=0;t=31'
        assert refused.headers["weirguard-decision"] == "d" * 32
        assert "ratelimit-policy" not in refused.headers
        honest = ask(address)
        assert (honest.status_code, honest.json()) == (200, {"predictions": [[0.25, 0.75]]})
        assert not {"weirguard-decision", "ratelimit"} & honest.headers.keys()
        gate.feed(notice(15.0, principal="near"))
        near = ask(address, "near")
        assert (near.status_code, near.headers["ratelimit"]) == (200, '"budget";r=15')
        assert ask(address, "unknown", "/teapot").status_code == 418
        gate.feed(decision("none", epoch=(1, 2)))
        assert ask(address, "thief").status_code == 200
    assert authorizer._logger.counters.snapshot()["refused"] == 1
    assert authorizer.counters.snapshot()["throttled"] == 1


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/predict?x=1",
            "//predict",
            "/predict/",
            "/%70redict",
            "/a/../predict",
            "/PREDICT",
            "/predict%0A",
            "/./predict",
        ),
        *("/v2/models/digits/infer", "/v1/models/digits:predict", "/v2/models/digits/versions/3/infer"),
        "http://other/predict",
    ],
)
def test_no_spelling_of_the_path_passes(path: str, model: int, tmp_path: Path) -> None:
    authorizer = fed_authorizer(FedGate([decision("refuse")]))
    with served(authorizer) as port, nginx(tmp_path, port, model) as address:
        own = int(address.rpartition(":")[2])
        assert ask_as_it_is(own, "POST", path, {"x-account": "thief"}, b"{}").status == 429


def test_slow_names_its_quota_and_an_observed_decision_changes_nothing(model: int, tmp_path: Path) -> None:
    gate = FedGate([decision("slow", rate=0.25), decision("refuse", principal="watched", mode="observe")])
    with served(fed_authorizer(gate)) as port, nginx(tmp_path, port, model) as address:
        assert ask(address, "thief").status_code == 200
        slowed = ask(address, "thief")
        assert (slowed.status_code, slowed.headers["ratelimit-policy"]) == (429, '"queries";q=1;w=4')
        assert [ask(address, "watched").status_code for _ in range(3)] == [200] * 3
    assert gate.counters.snapshot()["would_have_refused"] == 3


def test_an_api_key_is_known_by_its_hash_and_two_are_ambiguous(model: int, tmp_path: Path) -> None:
    refused = [decision("refuse", principal=name) for name in (HASHER.api_key("stolen"), "ambiguous")]
    with served(fed_authorizer(FedGate(refused))) as port, nginx(tmp_path, port, model) as address:
        statuses = [_keys(address, *keys) for keys in (["stolen"], ["good"], ["good", "stolen"], ["good, other"])]
    assert statuses == [429, 200, 429, 429]
    assert HASHER.api_key("stolen") != PrincipalHasher().api_key("stolen")


def _keys(address: str, *keys: str) -> int:
    return httpx.post(f"{address}/predict", json=BODY, headers=[("x-api-key", key) for key in keys]).status_code


def test_a_client_cannot_say_which_page_it_asks_for(model: int, tmp_path: Path) -> None:
    authorizer = fed_authorizer(FedGate([decision("refuse")]))
    with served(authorizer) as port, nginx(tmp_path, port, model) as address:
        assert ask(address, "thief", **{"X-Original-URI": "/other"}).status_code == 429
        assert ask(address, "thief", "/_weirguard").status_code == 404


@pytest.mark.parametrize(("when_stale", "expected"), [("allow", 200), ("refuse", 503)])
def test_without_current_decisions_each_model_is_open_or_closed(
    when_stale: Any, expected: int, model: int, tmp_path: Path
) -> None:
    clock = Clock(100.0)
    gate = FedGate([decision("refuse")], clock, when_stale={"digits": when_stale})
    with served(fed_authorizer(gate)) as port, nginx(tmp_path, port, model) as address:
        clock.now = 161.0
        answer = ask(address, "thief")
        assert answer.status_code == expected
        assert answer.headers.get("retry-after") == ("5" if expected == 503 else None)
        assert ask(address, "thief", "/v2/models/other/infer").status_code == 200


@pytest.mark.parametrize(("changes", "expected"), [(None, 200), (CLOSED, 503)])
def test_a_gate_service_that_is_away_is_passed_or_not_as_the_file_has_it(
    changes: dict[str, str] | None, expected: int, model: int, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        with served(fed_authorizer(FedGate([decision("refuse")]))) as port:
            address = stack.enter_context(nginx(tmp_path, port, model, changes))
            assert ask(address, "thief").status_code == 429
        assert ask(address, "thief").status_code == expected
