"""The middleware around a small application, over httpx without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from detector.contracts.principals import PrincipalHasher
from detector.serving import ApiKey, Gate, Header, Identity
from detector.serving import asgi as weirguard
from detector.serving.asgi import WeirguardMiddleware, kserve_routes, route
from detector.serving.extractors import Extractor, kserve_v1
from tests.serving.doubles import NOWHERE, FedGate, KeepingLogger, decision, notice

Endpoint = Callable[[Request], Awaitable[Response]]
BODY = {"instances": [[1.0, 2.0], [3.0, 4.0]]}
ANSWER = {"predictions": [[0.25, 0.75], [0.5, 0.5]]}
THIEF = {"x-account": "thief"}


async def answer(_request: Request) -> Response:
    return JSONResponse(ANSWER)


async def read_and_answer(request: Request) -> Response:
    await request.json()
    return JSONResponse(ANSWER)


async def log_and_answer(request: Request) -> Response:
    rows = np.array((await request.json())["instances"])
    weirguard.log(request.scope, rows, ANSWER["predictions"], organisation="acme")
    return JSONResponse(ANSWER)


class Stage:
    """A middleware around one endpoint at /predict, with a gate and a logger that need no broker."""

    def __init__(
        self,
        endpoint: Endpoint = read_and_answer,
        gate: Gate | None = None,
        extract: Extractor | None = None,
        max_body_bytes: int = 1 << 20,
    ) -> None:
        self.logger = KeepingLogger()
        routes = [Route("/predict", endpoint, methods=["POST"]), Route("/other", answer, methods=["POST"])]
        self.app = WeirguardMiddleware(
            Starlette(routes=routes),
            logger=self.logger,
            gate=gate or FedGate(),
            target=route("/predict", "digits", "1"),
            identity=Identity([Header("x-account")]),
            extract=extract,
            max_body_bytes=max_body_bytes,
        )

    def post(self, path: str = "/predict", *, times: int = 1, **request: Any) -> httpx.Response:
        request.setdefault("json", BODY)
        return asyncio.run(self._post(path, times, request))

    async def _post(self, path: str, times: int, request: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
            for _ in range(times - 1):
                await client.post(path, **request)
            return await client.post(path, **request)

    @property
    def counted(self) -> dict[str, int]:
        return {name: total for name, total in self.app.counters.snapshot().items() if total}


def test_an_endpoint_logs_by_itself() -> None:
    stage = Stage(log_and_answer)
    assert stage.post(headers=THIEF).json() == ANSWER
    (rows,) = stage.logger.kept()
    assert (rows.origin.principal, rows.origin.model, rows.origin.model_version) == ("thief", "digits", "1")
    assert rows.features.tolist() == BODY["instances"]
    assert rows.columns == {"organisation": ["acme", "acme"]}
    assert stage.counted == {"logged": 1}


@pytest.mark.parametrize("endpoint", [read_and_answer, log_and_answer])
def test_bodies_are_read_by_the_extractor_unless_the_endpoint_logged(endpoint: Endpoint) -> None:
    stage = Stage(endpoint, extract=kserve_v1())
    stage.post()
    (rows,) = stage.logger.kept()
    assert rows.features.tolist() == BODY["instances"]
    assert rows.outputs.tolist() == ANSWER["predictions"]
    assert rows.principal == "anonymous"


def test_a_throttled_principal_learns_when_to_come_back_and_not_why() -> None:
    gate = FedGate([decision("refuse", principal="thief", expires_at=130.5)])
    stage = Stage(log_and_answer, gate)
    response = stage.post(headers=THIEF, times=3)
    assert response.status_code == 429
    assert response.headers["retry-after"] == "31"
    assert response.headers["ratelimit"] == '"queries";r=0;t=31'
    assert response.headers["weirguard-decision"] == "d" * 32
    assert response.json() == {"error": "too many requests"}
    assert stage.logger.kept() == []
    assert stage.logger.refusals() == {"thief": 3}
    assert stage.counted == {"throttled": 3}
    assert stage.post(headers={"x-account": "honest"}).status_code == 200


def test_who_nears_a_budget_is_told_how_much_is_left_with_the_answer_itself() -> None:
    gate = FedGate([notice(15.0), notice(5.0, principal="watched", mode="observe")])
    stage = Stage(log_and_answer, gate)
    response = stage.post(headers=THIEF)
    assert (response.status_code, response.json()) == (200, ANSWER)
    assert response.headers["ratelimit"] == '"budget";r=15'
    assert response.headers["ratelimit-policy"] == '"budget";q=100'
    assert "ratelimit" not in stage.post(headers={"x-account": "watched"}).headers
    counts = gate.counters.snapshot()
    assert (counts["noticed"], counts["would_have_noticed"]) == (1, 1)


@pytest.mark.parametrize(
    ("rate", "policy"),
    [
        (0.25, '"queries";q=1;w=4'),
        (3.0, '"queries";q=3;w=1'),
        (5e-324, '"queries";q=1;w=1000000000'),
    ],
)
def test_slow_names_its_quota(rate: float, policy: str) -> None:
    stage = Stage(answer, FedGate([decision("slow", rate=rate)]))
    response = stage.post(headers=THIEF, times=4)
    assert response.status_code == 429
    assert response.headers["ratelimit-policy"] == policy


@pytest.mark.parametrize(("endpoint", "extract"), [(log_and_answer, None), (read_and_answer, kserve_v1())])
def test_many_rows_in_one_request_are_all_paid_for(endpoint: Endpoint, extract: Extractor | None) -> None:
    gate = FedGate([decision("slow", rate=1.0)])
    stage = Stage(endpoint, gate, extract)
    stage.post(headers=THIEF, json={"instances": [[1.0, 2.0]] * 2})
    assert gate.check("digits", "thief").retry_after == 2.0


def test_a_gate_that_does_not_know_and_refuses_says_that_the_service_is_at_fault() -> None:
    stage = Stage(answer, Gate(NOWHERE, when_stale="refuse"))
    response = stage.post()
    assert response.status_code == 503
    assert "weirguard-decision" not in response.headers


def test_other_paths_are_none_of_its_business() -> None:
    stage = Stage(answer, FedGate([decision("refuse")]), kserve_v1())
    assert stage.post("/other", headers=THIEF).status_code == 200
    assert stage.logger.kept() == []
    assert stage.counted == {"unmatched": 1}


def _raise(*_arguments: Any) -> Any:
    raise RuntimeError("ours")


def test_an_extractor_that_raises_breaks_nothing_and_is_counted() -> None:
    stage = Stage(extract=_raise)
    assert stage.post(times=2).json() == ANSWER
    assert stage.counted == {"extract_failures": 2, "unlogged": 2}


def test_a_target_that_raises_breaks_nothing_and_is_counted() -> None:
    stage = Stage()
    stage.app._target = _raise
    assert stage.post().json() == ANSWER
    assert stage.counted == {"failures": 1}


class _Broken:
    def find(self, *_arguments: Any) -> str | None:
        raise RuntimeError("ours")


def test_an_identity_that_raises_leaves_the_request_to_the_gate_and_in_the_log() -> None:
    stage = Stage(log_and_answer, FedGate([decision("refuse", principal="anonymous", expires_at=130.5)]))
    stage.app._identity = Identity([_Broken()])
    assert stage.post().status_code == 429
    stage = Stage(log_and_answer)
    stage.app._identity = Identity([_Broken()])
    assert stage.post().json() == ANSWER
    assert [rows.principal for rows in stage.logger.kept()] == ["anonymous"]
    assert stage.counted == {"failures": 1, "logged": 1}


def test_an_endpoint_that_logs_nonsense_answers_all_the_same() -> None:
    async def endpoint(request: Request) -> Response:
        nonsense: Any = object()
        weirguard.log(request.scope, nonsense, nonsense)
        return JSONResponse(ANSWER)

    stage = Stage(endpoint, FedGate([decision("slow", rate=5.0)]))
    assert stage.post(headers=THIEF).json() == ANSWER
    assert stage.logger.snapshot()["invalid"] >= 1


def test_the_hook_without_the_middleware_does_nothing() -> None:
    weirguard.log({"type": "http"}, [1.0], [1.0])
    assert weirguard.verdict({"type": "http"}).stale


def test_an_application_that_raises_raises_as_before() -> None:
    async def endpoint(_request: Request) -> Response:
        raise KeyError("theirs")

    stage = Stage(endpoint, extract=kserve_v1())
    with pytest.raises(KeyError, match="theirs"):
        stage.post()


def test_failed_answers_are_not_logged() -> None:
    async def endpoint(request: Request) -> Response:
        await request.json()
        return JSONResponse(ANSWER, status_code=500)

    stage = Stage(endpoint, extract=kserve_v1())
    stage.post()
    assert stage.logger.kept() == []
    assert stage.counted == {}


@pytest.mark.parametrize("limit", [10, 37])
def test_bodies_over_the_limit_pass_and_are_counted(limit: int) -> None:
    stage = Stage(extract=kserve_v1(), max_body_bytes=limit)
    assert stage.post().json() == ANSWER
    assert stage.logger.kept() == []
    assert stage.counted == {"too_large": 1, "unlogged": 1}


def test_what_is_not_json_passes_unread() -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        return Response(b"\x00\x01", media_type="application/octet-stream")

    stage = Stage(endpoint, extract=_raise)
    assert stage.post().content == b"\x00\x01"
    assert stage.counted == {"unlogged": 1}


def test_a_stream_reaches_the_client_piece_by_piece() -> None:
    """Each piece is with the client before the application makes the next one."""
    sent: list[int] = []
    seen: list[list[int]] = []

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d," % number
            seen.append(list(sent))

    async def endpoint(_request: Request) -> Response:
        return StreamingResponse(pieces(), media_type="application/json")

    async def send(message: Any) -> None:
        if message.get("body"):
            sent.append(len(sent))

    async def receive() -> Any:
        await asyncio.sleep(0 if not sent else 3600)
        return {"type": "http.request", "body": b"{}", "more_body": False}

    stage = Stage(endpoint, extract=kserve_v1())
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
    asyncio.run(stage.app(scope, receive, send))
    assert seen == [[0], [0, 1], [0, 1, 2]]
    assert stage.counted == {"unlogged": 1}


def test_a_request_in_pieces_is_put_together() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        text = json.dumps(BODY).encode()
        for start in range(0, len(text), 7):
            yield text[start : start + 7]

    stage = Stage(extract=kserve_v1())
    stage.post(content=pieces(), json=None)
    assert [rows.queries for rows in stage.logger.kept()] == [2]


def test_an_api_key_is_never_logged_in_clear() -> None:
    stage = Stage(log_and_answer)
    stage.app._identity = Identity([ApiKey()], PrincipalHasher(b"k"))
    stage.post(headers={"x-api-key": "sk-123"})
    (rows,) = stage.logger.kept()
    assert rows.principal == PrincipalHasher(b"k").api_key("sk-123")


@pytest.mark.parametrize("forged", ["rival", "fresh-1", "fresh-2"])
def test_of_two_account_headers_neither_counts(forged: str) -> None:
    """Some proxies put their header before the caller's, some behind it."""
    stage = Stage(log_and_answer)
    stage.post(headers=[("x-account", "proxy"), ("x-account", forged)])
    stage.post(headers=[("x-account", forged), ("x-account", "proxy")])
    assert [rows.principal for rows in stage.logger.kept()] == ["ambiguous", "ambiguous"]


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v1/models/digits:predict", ("digits", "7")),
        ("/v2/models/digits/infer", ("digits", "7")),
        ("/v2/models/digits/versions/3/infer", ("digits", "3")),
        ("/v1/models/digits/versions/3:predict", ("digits", "3")),
        ("/v1/models/digits/labels/stable:predict", ("digits", "stable")),
        ("/v1/models/digits:explain", ("digits", "7")),
        ("/v1/models/digits:1:predict", ("digits:1", "7")),
        ("/v2/models/digits/infer_stream", ("digits", "7")),
        ("/v2/models/digits/ready", None),
        ("/v1/models/digits", None),
    ],
)
def test_kserve_paths_name_their_model(path: str, target: tuple[str, str] | None) -> None:
    assert kserve_routes("7")({"path": path}) == target


def test_other_protocols_pass() -> None:
    seen = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    async def nothing(*_message: Any) -> Any:
        return {"type": "lifespan.shutdown"}

    middleware = WeirguardMiddleware(
        app, logger=KeepingLogger(), gate=FedGate(), target=route("/predict", "digits", "1")
    )
    asyncio.run(middleware({"type": "websocket"}, nothing, nothing))
    asyncio.run(middleware({"type": "lifespan"}, nothing, nothing))
    assert seen == ["websocket", "lifespan"]
