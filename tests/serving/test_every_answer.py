"""What the model answered is in the log, or counted against the principal who got it, to the query.

Over HTTP through real applications, as somebody would try who wants answers and no trace.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import cramjam
import pytest
from fastapi import BackgroundTasks, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from detector.contracts.errors import Unjudged
from detector.serving import asgi as weirguard
from detector.serving.bodies import decode
from detector.serving.extractors import kserve_v1, kserve_v2
from tests.serving.doubles import FedGate, decision
from tests.serving.stage import ANSWER, BODY, Application, Guarded

TEXT = json.dumps(BODY).encode()
SAID = json.dumps(ANSWER).encode()


def starlette(endpoint: Any, methods: list[str] | None = None) -> Application:
    return Starlette(routes=[Route("/predict", endpoint, methods=methods or ["POST"])])


def fastapi(endpoint: Any, methods: list[str] | None = None) -> Application:
    app = FastAPI()
    app.add_api_route("/predict", endpoint, methods=methods or ["POST"])
    return app


FRAMEWORKS = [starlette, fastapi]


async def predict(request: Request) -> Response:
    await request.body()
    return JSONResponse(ANSWER)


async def decode_and_predict(request: Request) -> Response:
    """What a middleware that undoes encodings would give the endpoint."""
    body = await request.body()
    for encoding in request.headers.get("content-encoding", "").lower().split(",")[::-1]:
        body = ENCODERS[encoding.strip()][1](body) if encoding.strip() in ENCODERS else body
    json.loads(body)
    return JSONResponse(ANSWER)


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def _as_bytes(function: Any) -> Callable[[bytes], bytes]:
    return lambda data: bytes(function(data))


ENCODERS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gzip": (gzip.compress, gzip.decompress),
    "deflate": (zlib.compress, zlib.decompress),
    "br": (_as_bytes(cramjam.brotli.compress), _as_bytes(cramjam.brotli.decompress)),
    "zstd": (_as_bytes(cramjam.zstd.compress), _as_bytes(cramjam.zstd.decompress)),
}


@pytest.mark.parametrize("make", FRAMEWORKS)
@pytest.mark.parametrize("encoding", ENCODERS)
def test_encoded_requests_are_read(make: Any, encoding: str) -> None:
    guarded = Guarded(make(decode_and_predict))
    encoded = ENCODERS[encoding][0](TEXT)
    assert guarded.ask(content=encoded, headers={"content-encoding": encoding.upper()}).status_code == 200
    assert guarded.accounts == (2, {})


@pytest.mark.parametrize("encoding", ENCODERS)
def test_encoded_answers_are_read(encoding: str) -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        return Response(ENCODERS[encoding][0](SAID), headers={"content-encoding": encoding})

    guarded = Guarded(starlette(endpoint))
    guarded.ask(headers={"accept-encoding": ""})
    assert guarded.accounts == (2, {})


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"content-encoding": "gzip"}, TEXT),
        ({"content-encoding": "identity"}, TEXT),
        ({"content-encoding": "nonsense"}, TEXT),
        ({"content-encoding": "br, nonsense"}, TEXT),
        ({"content-encoding": ",".join(["gzip"] * 50)}, TEXT),
        ({"content-type": "application/json; charset=latin-1"}, TEXT),
        ({"content-type": "text/plain"}, TEXT),
        ({"content-type": "multipart/form-data"}, TEXT),
        ({}, b"\xef\xbb\xbf" + TEXT),
        ({}, TEXT.decode().encode("utf-16")),
        ({}, TEXT.decode().encode("utf-32-be")),
        ({}, b'{"\xff": 1, ' + TEXT[1:]),
        ({}, b"\n\t " + TEXT + b"  "),
        ({"transfer-encoding": "chunked"}, TEXT),
        ({"inference-header-content-length": "2"}, TEXT),
        ({"range": "bytes=0-1"}, TEXT),
        ({"accept": "text/html"}, TEXT),
        ({"x-http-method-override": "OPTIONS"}, TEXT),
    ],
)
@pytest.mark.parametrize("make", FRAMEWORKS)
def test_headers_and_charsets_hide_nothing(make: Any, headers: dict[str, str], content: bytes) -> None:
    """The application here reads the body as it stands and minds none of these headers."""
    guarded = Guarded(make(predict))
    assert guarded.ask(content=content, headers=headers).status_code == 200
    assert guarded.accounts == (2, {})


def test_two_encodings_are_undone_from_the_last_on() -> None:
    guarded = Guarded(starlette(decode_and_predict))
    encoded = ENCODERS["br"][0](gzip.compress(TEXT[:20], mtime=0) + gzip.compress(TEXT[20:], mtime=0))
    assert guarded.ask(content=encoded, headers={"content-encoding": "gzip, br"}).status_code == 200
    assert guarded.accounts == (2, {})


BOMB = b" " * (5 << 20)


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_bomb_is_not_unpacked(encoding: str) -> None:
    guarded = Guarded(starlette(predict))
    guarded.ask(content=ENCODERS[encoding][0](BOMB), headers={"content-encoding": encoding})
    rows, unjudged = guarded.accounts
    assert (rows, sum(unjudged.values())) == (0, 2)
    assert set(unjudged) <= {"too-large", "encoding"}


@pytest.mark.parametrize("encoding", ENCODERS)
def test_a_bomb_takes_no_memory(encoding: str) -> None:
    bomb = ENCODERS[encoding][0](BOMB)
    with pytest.raises(Unjudged):  # what is imported at the first call does not count
        decode(bomb, encoding, 1_000)
    tracemalloc.start()
    try:
        with pytest.raises(Unjudged):
            decode(bomb, encoding, 1_000)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def _twice(key: str) -> bytes:
    return json.dumps({"instances": [[9.0, 9.0]]}).encode()[:-1] + b', "' + key.encode() + b'": [[1.0, 2.0]]}'


@pytest.mark.parametrize(
    ("content", "headers", "reason"),
    [
        (b"\x00\x01", {}, "syntax"),
        (b"", {}, "empty"),
        (b"[" * 100_000, {}, "syntax"),
        (TEXT[:-1], {}, "syntax"),
        (TEXT + TEXT, {}, "syntax"),
        (b"[1]", {}, "features"),
        (b"null", {}, "features"),
        (b"{}", {}, "features"),
        (b'{"instances": []}', {}, "features"),
        (b'{"instances": {"a": 1}}', {}, "features"),
        (_twice("instances"), {}, "ambiguous"),
        (_twice("inputs"), {}, "ambiguous"),
        (gzip.compress(TEXT, mtime=0)[:-9], {"content-encoding": "gzip"}, "encoding"),
        (gzip.compress(TEXT, mtime=0), {}, "syntax"),
        (gzip.compress(TEXT, mtime=0), {"content-encoding": "compress"}, "encoding"),
        (gzip.compress(TEXT, mtime=0), {"content-encoding": ", ".join(["gzip"] * 4)}, "encoding"),
    ],
)
@pytest.mark.parametrize("make", FRAMEWORKS)
def test_what_cannot_be_read_is_counted_with_its_reason(
    make: Any, content: bytes, headers: dict[str, str], reason: str
) -> None:
    guarded = Guarded(make(predict))
    assert guarded.ask(content=content, headers=headers).status_code == 200
    assert guarded.accounts == (0, {reason: 2})
    assert guarded.app.counters.snapshot()["unlogged"] == 1


def test_json_that_is_other_json_when_it_is_decoded_is_ambiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("detector.serving.bodies").serving.bodies._DECODERS, "br", lambda _d, _l: b"{}")
    guarded = Guarded(starlette(predict))
    guarded.ask(headers={"content-encoding": "br"})
    assert guarded.accounts == (0, {"ambiguous": 2})


@pytest.mark.parametrize(
    "numbers",
    [
        "NaN, 1",
        "null, 1",
        "Infinity, -Infinity",
        "1e39, 1",
        "1e999, 1",
        "9" * 5_000 + ", 1",
        '"1.5", true',
        "-1e400, 1",
    ],
)
def test_odd_numbers_are_in_the_log(numbers: str) -> None:
    guarded = Guarded(starlette(predict))
    guarded.ask(content=f'{{"instances": [[{numbers}], [1, 2]]}}')
    (rows,) = guarded.logger._queue.take(1 << 40)
    assert rows.queries == 2
    assert not guarded.logger.unread


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize("make", FRAMEWORKS)
def test_streams_are_put_together(make: Any) -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        return StreamingResponse(pieces(*(bytes([one]) for one in SAID)), 206, media_type="application/json")

    guarded = Guarded(make(endpoint))
    guarded.ask(content=pieces(TEXT[:5], b"", TEXT[5:]))
    assert guarded.accounts == (2, {})


def down() -> None:
    raise RuntimeError("the audit store is down")


def test_a_background_task_that_raises_loses_nothing() -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        return JSONResponse(ANSWER, background=BackgroundTask(down))

    async def injected(request: Request, tasks: BackgroundTasks) -> Any:
        await request.body()
        tasks.add_task(down)
        return ANSWER

    for app in (starlette(endpoint), fastapi(injected)):
        guarded = Guarded(app)
        assert guarded.ask().status_code == 200
        assert guarded.accounts == (2, {})


def test_rows_are_logged_and_paid_for_before_a_background_task_runs() -> None:
    seen = []
    gate = FedGate([decision("slow", rate=1.0)])

    async def endpoint(request: Request) -> Response:
        await request.body()
        return JSONResponse(ANSWER, background=BackgroundTask(look))

    async def look() -> None:
        seen.append((guarded.accounts, gate.check("digits", "thief").retry_after))

    guarded = Guarded(starlette(endpoint), gate=gate)
    guarded.ask()
    assert seen == [((2, {}), 2.0)]


@pytest.mark.parametrize("extract", [True, False])
def test_an_endpoint_may_log_in_a_background_task(extract: bool) -> None:
    async def endpoint(request: Request) -> Response:
        rows = (await request.json())["instances"]
        task = BackgroundTask(weirguard.log, request.scope, rows, ANSWER["predictions"])
        return JSONResponse(ANSWER, background=task)

    guarded = Guarded(starlette(endpoint)) if extract else Guarded(starlette(endpoint), extract=None)
    guarded.ask()
    assert guarded.accounts == (2, {})
    assert guarded.app.counters.snapshot()["logged"] == 1


def test_an_endpoint_may_log_in_a_background_task_what_the_extractor_could_not_read() -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        task = BackgroundTask(weirguard.log, request.scope, BODY["instances"], ANSWER["predictions"])
        return PlainTextResponse("2 rows", background=task)

    guarded = Guarded(starlette(endpoint))
    guarded.ask()
    assert guarded.accounts == (2, {})


@pytest.mark.parametrize("make", FRAMEWORKS)
def test_an_endpoint_that_does_not_log_is_counted(make: Any) -> None:
    guarded = Guarded(make(predict), extract=None)
    guarded.ask()
    assert guarded.accounts == (0, {"not-logged": 1})


def test_an_endpoint_that_raises_after_its_answer_loses_nothing() -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": ()})
        await send({"type": "http.response.body", "body": SAID, "more_body": True})
        raise KeyError("theirs")

    guarded = Guarded(app)
    guarded.ask()
    assert guarded.accounts == (2, {})


async def _leave(
    app: Application, after: int, error: type[BaseException] = OSError, version: str = "2.4"
) -> list[dict[str, Any]]:
    """A client of an ASGI server that disconnects when ``after`` messages have reached it."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": TEXT, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if len(sent) == after:
            raise error
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "asgi": {"spec_version": version},
    }
    with pytest.raises((OSError, ClientDisconnect, asyncio.CancelledError)):
        await app(scope | {"headers": [(b"x-account", b"thief")], "root_path": ""}, receive, send)
    return sent


@pytest.mark.parametrize("error", [OSError, asyncio.CancelledError])
@pytest.mark.parametrize(("after", "accounts"), [(1, (0, {"interrupted": 2})), (2, (2, {})), (3, (2, {}))])
def test_a_client_that_leaves_is_accounted_for(error: type[BaseException], after: int, accounts: Any) -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        return StreamingResponse(pieces(SAID[:9], SAID[9:]))

    guarded = Guarded(starlette(endpoint))
    asyncio.run(_leave(guarded.app, after, error))
    assert guarded.accounts == accounts


def test_a_client_that_leaves_with_the_whole_answer_on_its_way_is_in_the_log() -> None:
    guarded = Guarded(starlette(predict))
    asyncio.run(_leave(guarded.app, 1))
    assert guarded.accounts == (2, {})


def test_a_stream_without_end_is_bounded_and_counted_while_it_runs() -> None:
    seen = []

    async def events() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"data: 0.25\n\n" * 100
            seen.append(sum(guarded.logger.unread.values()))

    async def endpoint(request: Request) -> Response:
        await request.body()
        return StreamingResponse(events(), media_type="text/event-stream")

    guarded = Guarded(starlette(endpoint), max_body_bytes=20_000)
    guarded.ask()
    assert seen[-50:] == [2] * 50
    assert guarded.accounts == (0, {"too-large": 2})


def test_an_answer_from_a_file_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "answer.json"
    file.write_bytes(SAID)

    async def endpoint(request: Request) -> Response:
        await request.body()
        return FileResponse(file)

    async def offering(scope: Any, receive: Any, send: Any) -> None:
        """The server's side: it can send files, and does."""

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.pathsend":
                message = {"type": "http.response.body", "body": SAID}
            await send(message)

        await guarded.app({**scope, "extensions": {"http.response.pathsend": {}}}, receive, sending)

    guarded = Guarded(starlette(endpoint))
    assert guarded.ask(around=offering).content == SAID
    assert guarded.accounts == (0, {"unread": 2})
    assert guarded.ask().content == SAID
    assert guarded.accounts == (2, {"unread": 2})


@pytest.mark.parametrize("method", ["HEAD", "GET", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"])
def test_every_method_that_is_answered_is_in_the_log(method: str) -> None:
    guarded = Guarded(starlette(predict, [method]))
    assert guarded.ask(method=method).status_code == 200
    assert guarded.accounts == (2, {})


def test_odd_rows_are_counted_and_the_others_logged() -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        return JSONResponse({"predictions": [[0.5, 0.5]] * 4})

    guarded = Guarded(starlette(endpoint))
    guarded.ask(json={"instances": [[1, 2], [3, 4, 5], [6, 7], "odd"]})
    assert guarded.accounts == (2, {"features": 2})


def test_an_empty_answer_to_options_is_no_answer() -> None:
    async def endpoint(_request: Request) -> Response:
        return Response(status_code=204, headers={"allow": "POST"})

    guarded = Guarded(starlette(endpoint, ["OPTIONS", "POST"]))
    guarded.ask(method="OPTIONS", content=b"")
    assert guarded.accounts == (0, {})
    guarded.ask()
    assert guarded.accounts == (0, {"empty": 1})


def test_what_an_answer_to_options_offers_is_no_answer() -> None:
    cors = CORSMiddleware(starlette(predict), allow_origins=["*"], allow_methods=["POST"])
    guarded = Guarded(cors)
    asked = {"origin": "http://a", "access-control-request-method": "POST"}
    assert guarded.ask(method="OPTIONS", content=b"", headers=asked).status_code == 200
    assert guarded.accounts == (0, {})
    assert guarded.ask(headers=asked).status_code == 200
    assert guarded.accounts == (2, {})


def test_a_preflight_cannot_be_pretended() -> None:
    guarded = Guarded(starlette(predict, ["OPTIONS"]), extract=None)
    guarded.ask(method="OPTIONS", headers={"origin": "http://a", "access-control-request-method": "POST"})
    assert guarded.accounts == (0, {"not-logged": 1})


@pytest.mark.parametrize("status", [199, 300, 304, 404, 500])
def test_other_statuses_are_no_answers(status: int) -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        return Response(SAID, status)

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": SAID})

    guarded = Guarded(starlette(endpoint) if status > 200 else app)
    guarded.ask()
    assert guarded.accounts == (0, {})


class _Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Any:
        return await call_next(request)


@pytest.mark.parametrize("make", FRAMEWORKS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda app: GZipMiddleware(app, minimum_size=1),
        _Passing,
        lambda app: _Passing(GZipMiddleware(_Passing(app), minimum_size=1)),
        lambda app: CORSMiddleware(app, allow_origins=["*"]),
    ],
)
def test_middlewares_inside_and_outside(make: Any, wrap: Any) -> None:
    for extract, queries in ((None, 1), (kserve_v2(), 2)):
        guarded = Guarded(wrap(make(predict)), extract=extract)
        guarded.ask(headers={"accept-encoding": "gzip", "origin": "http://a"})
        assert guarded.accounts[0] == 0 and sum(guarded.accounts[1].values()) == queries
    guarded = Guarded(wrap(make(predict)))
    for around in (guarded.app, wrap(guarded.app)):
        response = guarded.ask(around=around, headers={"accept-encoding": "gzip", "origin": "http://a"})
        assert response.json() == ANSWER
        assert guarded.accounts == (2, {})


def test_rows_that_are_unjudged_are_paid_for_like_any() -> None:
    gate = FedGate([decision("slow", rate=1.0)])

    async def endpoint(request: Request) -> Response:
        await request.body()
        return JSONResponse({"predictions": [[0.5, 0.5]] * 4})

    guarded = Guarded(starlette(endpoint), gate=gate)
    guarded.ask()
    assert guarded.accounts == (0, {"rows": 4})
    assert gate.check("digits", "thief").retry_after == 4.0


MANY = {"instances": [[1.0, 2.0]] * 40}
MANY_SAID = {"predictions": [[0.25, 0.75]] * 40}
TENSORS = {"inputs": [{"name": "a", "shape": [40, 2], "data": [0.5] * 80}] * 2}
TENSORS_SAID = {"outputs": [{"name": "b", "shape": [40, 1], "data": [0.5] * 40}]}


@pytest.mark.parametrize(
    ("asked", "said", "reason"),
    [
        (json.dumps(MANY | {"padding": "x" * 5_000}), MANY_SAID, "too-large"),
        (json.dumps(MANY), MANY_SAID | {"padding": "x" * 5_000}, "too-large"),
        (json.dumps(MANY)[:-1] + ', "a": 1, "a": 2}', MANY_SAID, "ambiguous"),
        (json.dumps(MANY)[:-1] + ', "inputs": 1}', MANY_SAID, "ambiguous"),
        ("no JSON that we know of", MANY_SAID, "syntax"),
        (json.dumps({"instances": "forty images in one text"}), MANY_SAID, "features"),
        (json.dumps({"inputs": {"a": [1] * 40, "b": "x"}}), "forty", "outputs"),
        (json.dumps(TENSORS), TENSORS_SAID, "ambiguous"),
        (json.dumps({"inputs": [{"name": "a", "shape": [10**30], "data": 1}]}), TENSORS_SAID, "features"),
    ],
)
def test_a_request_that_cannot_be_read_counts_as_all_the_rows_that_were_answered(
    asked: str, said: Any, reason: str
) -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        return JSONResponse(said)

    extract = kserve_v2() if "shape" in asked else kserve_v1()
    guarded = Guarded(starlette(endpoint), extract=extract, max_body_bytes=4_000)
    assert guarded.ask(content=asked.encode()).status_code == 200
    assert guarded.accounts == (0, {reason: 40})
