"""The WSGI middleware around small applications: over httpx without a network, and on the server of the library."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.validate import validator

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from detector.serving import Authenticated, Gate, Header, Identity, Responder
from detector.serving import wsgi as weirguard
from detector.serving.extractors import Extractor, kserve_v1
from detector.serving.wsgi import WsgiMiddleware, route
from tests.serving.doubles import NOWHERE, FedGate, KeepingLogger, decision, notice
from tests.serving.stage import ANSWER, BODY, THIEF, Guarded
from tests.serving.test_respond import GRADED, KEY, OUTPUTS, OWN, ROWS, Service, graded

App = Callable[[Any, Any], Iterable[bytes]]


def answering(
    body: bytes = json.dumps(ANSWER).encode(), status: str = "200 OK", pieces: int = 1, **headers: str
) -> App:
    """An application that reads its request and answers ``body`` in ``pieces``."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(status, [("Content-Type", "application/json"), *headers.items()])
        step = -(-len(body) // pieces) or 1
        return [body[at : at + step] for at in range(0, len(body), step)]

    return app


def logging_app(environ: Any, start_response: Any) -> Iterable[bytes]:
    rows = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))["instances"]
    weirguard.log(environ, rows, ANSWER["predictions"], organisation="acme")
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(ANSWER).encode()]


class WsgiStage:
    """``app`` behind the middleware, and a client of the thief's."""

    def __init__(
        self,
        app: App,
        gate: Gate | None = None,
        extract: Extractor | None = None,
        max_body_bytes: int = 1 << 20,
        identity: Identity | None = None,
    ) -> None:
        self.logger = KeepingLogger()
        self.app = WsgiMiddleware(
            app,
            logger=self.logger,
            gate=gate or FedGate(),
            target=route("/predict", "digits", "1"),
            identity=identity or Identity([Header("x-account")]),
            extract=extract,
            max_body_bytes=max_body_bytes,
        )

    def ask(self, path: str = "/predict", method: str = "POST", **request: Any) -> httpx.Response:
        if "content" not in request:
            request.setdefault("json", BODY)
        transport = httpx.WSGITransport(app=validator(self.app))
        with httpx.Client(transport=transport, base_url="http://model", headers=THIEF) as client:
            return client.request(method, f"http://model{path}", **request)

    @property
    def accounts(self) -> tuple[int, dict[str, int]]:
        rows = sum(rows.queries for rows in self.logger.kept() if rows.principal == "thief")
        return rows, {reason: queries for (who, reason), queries in self.logger.unread.items() if who == "thief"}


def test_an_endpoint_logs_by_itself() -> None:
    stage = WsgiStage(logging_app)
    assert stage.ask().json() == ANSWER
    (rows,) = stage.logger.kept()
    assert (rows.origin.principal, rows.origin.model, rows.origin.model_version) == ("thief", "digits", "1")
    assert rows.features.tolist() == BODY["instances"]
    assert rows.columns == {"organisation": ["acme", "acme"]}
    assert stage.app.counters.snapshot()["logged"] == 1


def test_a_throttled_principal_learns_when_to_come_back_and_not_why() -> None:
    stage = WsgiStage(logging_app, FedGate([decision("refuse", expires_at=130.5)]))
    response = stage.ask()
    assert (response.status_code, response.headers["retry-after"]) == (429, "31")
    assert response.headers["weirguard-decision"] == "d" * 32
    assert response.json() == {"error": "too many requests"}
    assert stage.logger.refusals() == {"thief": 1}
    assert stage.app.counters.snapshot()["throttled"] == 1
    assert stage.ask(headers={"x-account": "honest"}).status_code == 200


def test_who_nears_a_budget_is_told_how_much_is_left() -> None:
    response = WsgiStage(logging_app, FedGate([notice(15.0)])).ask()
    assert (response.status_code, response.headers["ratelimit"]) == (200, '"budget";r=15')
    assert "ratelimit" not in WsgiStage(logging_app).ask().headers


@pytest.mark.parametrize("name", GRADED)
def test_each_response_is_served_and_logged_as_under_asgi(name: str) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        rows = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))["instances"]
        answer = weirguard.respond(environ, rows, np.array(OUTPUTS, np.float32), organisation="acme")
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps({"predictions": answer.tolist()}).encode()]

    asgi = Service(graded(name))
    wsgi = WsgiStage(app, FedGate([graded(name)], responder=Responder(KEY)))
    assert wsgi.ask(json={"instances": ROWS}).json()["predictions"] == asgi.predict() != OWN
    (kept,) = wsgi.logger.kept()
    assert (kept.outputs.tolist(), kept.columns["served_mode"]) == asgi.logged


def test_a_gate_that_does_not_know_and_refuses_says_that_the_service_is_at_fault() -> None:
    stage = WsgiStage(logging_app, Gate(NOWHERE, when_stale={"digits": "refuse"}))
    assert stage.ask().status_code == 503


@pytest.mark.parametrize(
    ("body", "status", "pieces", "request_body", "limit"),
    [
        (json.dumps(ANSWER).encode(), 200, 1, BODY, 1 << 20),
        (json.dumps(ANSWER).encode(), 201, 7, BODY, 1 << 20),
        (b"", 200, 1, BODY, 1 << 20),
        (b"not json", 200, 2, BODY, 1 << 20),
        (json.dumps(ANSWER).encode(), 500, 1, BODY, 1 << 20),
        (json.dumps(ANSWER).encode(), 200, 3, BODY, 30),
        (json.dumps({"predictions": [[0.5, 0.5]]}).encode(), 200, 1, BODY, 1 << 20),
        (json.dumps(ANSWER).encode(), 200, 1, {"instances": [[1.0, 2.0], "odd"]}, 1 << 20),
    ],
)
def test_each_answer_is_accounted_for_as_under_asgi(
    body: bytes, status: int, pieces: int, request_body: Any, limit: int
) -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        return Response(body, status)

    asgi = Guarded(Starlette(routes=[Route("/predict", endpoint, methods=["POST"])]), max_body_bytes=limit)
    wsgi = WsgiStage(answering(body, f"{status} Status", pieces), extract=kserve_v1(), max_body_bytes=limit)
    assert wsgi.ask(json=request_body).content == asgi.ask(json=request_body).content == body
    assert wsgi.accounts == asgi.accounts
    assert wsgi.app.counters.snapshot() == asgi.app.counters.snapshot()


def test_an_answer_without_a_log_call_counts_as_unjudged() -> None:
    stage = WsgiStage(answering())
    stage.ask()
    assert stage.accounts == (0, {"not-logged": 1})


@pytest.mark.parametrize("path", ["/predict", "/predict/", "//predict", "/PREDICT", "/predict%0A", "/a/../predict"])
def test_no_spelling_passes_the_gate(path: str) -> None:
    assert WsgiStage(logging_app, FedGate([decision("refuse")])).ask(path).status_code == 429


def test_a_mounted_application_and_another_path() -> None:
    stage = WsgiStage(answering(), FedGate([decision("refuse")]))
    transport = httpx.WSGITransport(app=stage.app, script_name="/models")
    with httpx.Client(transport=transport, base_url="http://model", headers=THIEF) as client:
        assert client.post("/predict", json=BODY).status_code == 429
    assert stage.ask("/other").status_code == 200
    assert stage.app.counters.snapshot()["unmatched"] == 1


def test_whoever_the_server_authenticated_is_the_principal() -> None:
    gate = FedGate([decision("refuse")])
    identity = Identity([Authenticated()])
    stage = WsgiStage(logging_app, gate, identity=identity)
    transport = httpx.WSGITransport(app=stage.app)
    with httpx.Client(transport=transport, base_url="http://model") as client:
        assert client.post("/predict", json=BODY, headers={"remote-user": "thief"}).status_code == 200

    def authenticated(environ: Any, start_response: Any) -> Iterable[bytes]:
        return stage.app({**environ, "REMOTE_USER": "thief"}, start_response)

    with httpx.Client(transport=httpx.WSGITransport(app=authenticated), base_url="http://model") as client:
        assert client.post("/predict", json=BODY).status_code == 429


class Closing(list[bytes]):
    closed = False

    def close(self) -> None:
        self.closed = True


def test_the_applications_own_answer_is_closed_and_its_errors_are_its_own() -> None:
    answer = Closing([json.dumps(ANSWER).encode()])

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return answer

    def broken(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise RuntimeError("the model is gone")

    WsgiStage(app).ask()
    assert answer.closed
    stage = WsgiStage(broken)
    with pytest.raises(RuntimeError, match="the model is gone"):
        stage.ask()
    assert stage.accounts == (0, {})


def test_a_stream_is_not_held_up_and_one_that_breaks_off_is_unjudged() -> None:
    seen: list[str] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        for piece in (b'{"predictions":', b" [[0.25, 0.75]"):
            seen.append("made")
            yield piece

    def start(*_: object) -> Callable[[bytes], object]:
        seen.append("started")
        return seen.append  # type: ignore[return-value]

    stage = WsgiStage(app, extract=kserve_v1())
    environ = {"PATH_INFO": "/predict", "HTTP_X_ACCOUNT": "thief", "wsgi.input": None, "REQUEST_METHOD": "POST"}
    answer = stage.app(environ, start)
    assert next(iter(answer)) == b'{"predictions":'
    assert seen == ["started", "made"]
    answer.close()  # type: ignore[attr-defined]
    assert list(stage.accounts[1]) == ["empty"]  # of the request: nobody read it


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None: ...


def test_on_a_real_server_a_length_is_still_sent_and_rows_are_logged() -> None:
    stage = WsgiStage(answering(), extract=kserve_v1())
    with make_server("127.0.0.1", 0, stage.app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        response = httpx.post(f"http://127.0.0.1:{server.server_port}/predict", json=BODY, headers=THIEF)
        thread.join(20)
    assert response.json() == ANSWER
    assert int(response.headers["content-length"]) == len(response.content)
    assert stage.accounts == (2, {})
