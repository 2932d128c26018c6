"""The middleware changes nothing of what passes through it, whatever that is."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from detector.serving.extractors import Scored, kserve_v1, kserve_v2
from tests.serving.stage import Guarded

_HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"content-encoding", b"content-type", b"authorization", b"X-Account", b"x-api-key", b"\xff"]),
        st.sampled_from(
            [b"gzip", b"br", b"identity", b"application/json", b"Bearer a.b.c", b"thief", b"", b"\xff\x00"]
        ),
    ),
    max_size=4,
)
_BODIES = st.sampled_from(
    [
        b"",
        b"{",
        b'{"instances": [[1, 2]]}',
        b'{"predictions": [[1, 0]]}',
        b"\x1f\x8b\x08",
        b"\xff\xfe",
        b"x" * 99,
        b"[[NaN",
    ]
)
_STATUSES = st.sampled_from([200, 206, 204, 299, 304, 404, 500, 100, 0, "200", None])
_SENT = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("http.response.start"), "status": _STATUSES},
        optional={"headers": _HEADERS, "trailers": st.booleans()},
    ),
    st.fixed_dictionaries(
        {"type": st.just("http.response.body")}, optional={"body": _BODIES, "more_body": st.booleans()}
    ),
    st.fixed_dictionaries({"type": st.sampled_from(["http.response.pathsend", "http.response.trailers", "strange"])}),
    st.just({}),
    st.fixed_dictionaries({"type": st.just("http.response.body"), "body": st.sampled_from([None, "text", 7])}),
    st.fixed_dictionaries({"type": st.just("http.response.start"), "headers": st.just(None)}),
)
_RECEIVED: Any = st.one_of(
    st.fixed_dictionaries({"type": st.just("http.request")}, optional={"body": _BODIES, "more_body": st.booleans()}),
    st.just({"type": "http.disconnect"}),
    st.fixed_dictionaries({"type": st.just("http.request"), "body": st.sampled_from([None, "text", 7])}),
    st.just({}),
)
_STEPS = st.lists(st.one_of(st.just("receive"), _SENT, st.just("raise")), max_size=8)
_PATHS = st.sampled_from(["/predict", "/predict\n", "/other", "", "//predict//"])
_EXTRACTORS = st.sampled_from([None, kserve_v1(), kserve_v2(), lambda *_: None, lambda *_: Scored(object(), [1])])  # type: ignore[arg-type]


class _Theirs(Exception):
    pass


def _run(app: Any, scope: Any, received: list[Any], broken_at: int) -> tuple[list[Any], str]:
    """What reached the server, and how the application ended."""
    sent: list[Any] = []
    waiting = iter(received)

    async def receive() -> Any:
        return next(waiting, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        if len(sent) == broken_at:
            raise OSError
        sent.append(dict(message))

    try:
        asyncio.run(app(scope, receive, send))
    except (_Theirs, OSError) as error:
        return sent, repr(error)
    return sent, "returned"


_WAYS = st.fixed_dictionaries({"extract": _EXTRACTORS, "max_body_bytes": st.integers(0, 120)})


@settings(deadline=None)
@given(_STEPS, st.lists(_RECEIVED, max_size=4), _HEADERS, _PATHS, _WAYS, st.integers(0, 9))
def test_what_goes_in_comes_out(
    steps: list[Any], received: list[Any], headers: Any, path: str, way: dict[str, Any], broken_at: int
) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append({name: value for name, value in scope.items() if name != "weirguard"})
        for step in steps:
            if step == "receive":
                seen.append(await receive())
            elif step == "raise":
                raise _Theirs
            else:
                await send(dict(step))

    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    plain = _run(app, scope, received, broken_at)
    expected, seen[:] = list(seen), []
    guarded = Guarded(app, **way)
    assert _run(guarded.app, scope, received, broken_at) == plain
    assert seen == expected
    counted = guarded.app.counters.snapshot()
    assert counted["logged"] + counted["unlogged"] <= 1
    assert bool(counted["logged"]) <= (guarded.logger.snapshot()["logged"] + guarded.logger.snapshot()["invalid"] > 0)
    assert bool(counted["unlogged"]) == bool(guarded.logger.unread)


@settings(deadline=None)
@given(st.lists(st.sampled_from([b"a", b"b"]), min_size=1, max_size=3))
def test_headers_that_can_be_read_only_once_reach_the_server(values: list[bytes]) -> None:
    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": ((b"x", value) for value in values)})
        await send({"type": "http.response.body", "body": b"{}"})

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
    (start, _), _ = _run(Guarded(app).app, scope, [{"type": "http.request", "body": b"{}"}], 9)
    assert list(start["headers"]) == [(b"x", value) for value in values]
