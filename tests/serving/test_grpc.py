"""The gRPC interceptors on real servers: blocking ones and those of asyncio, of all four kinds of methods."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from detector.serving import Gate, Header, Identity, Responder
from detector.serving import grpc_interceptor as weirguard
from detector.serving.extractors import Extractor, Scored, kserve_v2
from detector.serving.grpc_interceptor import kserve_messages, kserve_method, new_aio_interceptor, new_interceptor
from detector.serving.targets import Target, route
from tests.serving.doubles import NOWHERE, FedGate, KeepingLogger, decision, notice
from tests.serving.test_respond import KEY, graded

grpc = pytest.importorskip("grpc")

ANSWER = {"predictions": [[0.25, 0.75]]}
ROWS = {"instances": [[1.0, 2.0]]}
THIEF = (("x-account", "thief"),)
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def _loads(data: bytes) -> Any:
    return json.loads(data)


def _dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


class Blocking:
    """The four methods; each logs what it was asked if it was told so."""

    def unary_unary(self, request: Any, context: Any) -> Any:
        if request.get("fail"):
            raise ValueError("no")
        if request.get("log"):
            return {"predictions": weirguard.respond(request["instances"], ANSWER["predictions"])}
        return ANSWER

    def unary_stream(self, request: Any, context: Any) -> Iterator[Any]:
        for _ in range(2):
            yield self.unary_unary(request, context)

    def stream_unary(self, requests: Any, context: Any) -> Any:
        for request in requests:
            answer = self.unary_unary(request, context)
        return answer

    def stream_stream(self, requests: Any, context: Any) -> Iterator[Any]:
        for request in requests:
            yield self.unary_unary(request, context)


class Asynchronous:
    async def unary_unary(self, request: Any, context: Any) -> Any:
        if request.get("fail"):
            raise ValueError("no")
        if request.get("log"):
            return {"predictions": weirguard.respond(request["instances"], ANSWER["predictions"])}
        return ANSWER

    async def unary_stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for _ in range(2):
            yield await self.unary_unary(request, context)

    async def stream_unary(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            answer = await self.unary_unary(request, context)
        return answer

    async def stream_stream(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            yield await self.unary_unary(request, context)


def handlers(methods: Any) -> Any:
    made = {kind: getattr(grpc, f"{kind}_rpc_method_handler")(getattr(methods, kind), _loads, _dumps) for kind in KINDS}
    return grpc.method_handlers_generic_handler("shop.Model", made)


@contextmanager
def blocking(interceptor: Any) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[interceptor])
    server.add_generic_rpc_handlers((handlers(Blocking()),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(20)


@contextmanager
def asynchronous(interceptor: Any, methods: type[Any] = Asynchronous) -> Iterator[int]:
    ports: list[int] = []
    up = threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    pool = ThreadPoolExecutor(4)

    async def serve() -> None:
        server = grpc.aio.server(interceptors=[interceptor], migration_thread_pool=pool)
        server.add_generic_rpc_handlers((handlers(methods()),))
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        up.set()
        await over.wait()
        await server.stop(None)
        # A migrated stream that is refused still tells the loop from its thread that it has ended.
        await loop.run_in_executor(None, pool.shutdown)

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    assert up.wait(20)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)
        loop.close()


@contextmanager
def migrated(interceptor: Any) -> Iterator[int]:
    """Blocking methods on a server of asyncio."""
    with asynchronous(interceptor, Blocking) as port:
        yield port


SERVERS = {
    "blocking": (new_interceptor, blocking),
    "asynchronous": (new_aio_interceptor, asynchronous),
    "migrated": (new_aio_interceptor, migrated),
}


class GrpcStage:
    """A server behind the interceptor, and a client of the thief's."""

    def __init__(self, server: str, gate: Gate | None = None, extract: Extractor | None = None) -> None:
        make, self._run = SERVERS[server]
        self.logger = KeepingLogger()
        self.interceptor = make(
            logger=self.logger,
            gate=gate or FedGate(),
            target=route("/shop.Model/{kind}", "digits", "1"),
            identity=Identity([Header("x-account")]),
            extract=extract,
        )

    @contextmanager
    def running(self) -> Iterator[Callable[..., Any]]:
        with self._run(self.interceptor) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

            def call(kind: str, *requests: Any, metadata: Any = THIEF) -> Any:
                method = getattr(channel, kind)(f"/shop.Model/{kind}", _dumps, _loads)
                given = iter(requests) if kind.startswith("stream") else requests[0]
                answer = method(given, metadata=metadata, timeout=20)
                return list(answer) if kind.endswith("stream") else answer

            yield call

    @property
    def accounts(self) -> tuple[int, dict[str, int]]:
        rows = sum(rows.queries for rows in self.logger.kept() if rows.principal == "thief")
        return rows, {reason: queries for (who, reason), queries in self.logger.unread.items() if who == "thief"}


LOGGED = {**ROWS, "log": True}
ANSWERED = {"unary_unary": 1, "unary_stream": 2, "stream_unary": 3, "stream_stream": 3}
"""Log calls for one request, or for three of a stream."""


def _requests(kind: str, request: Any) -> list[Any]:
    return [request] * (3 if kind.startswith("stream") else 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVERS)
def test_a_method_logs_by_itself(server: str, kind: str) -> None:
    stage = GrpcStage(server)
    with stage.running() as call:
        call(kind, *_requests(kind, LOGGED))
    assert stage.accounts == (ANSWERED[kind], {})
    assert stage.interceptor.counters.snapshot()["unlogged"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVERS)
def test_what_is_answered_and_not_logged_is_unjudged(server: str, kind: str) -> None:
    stage = GrpcStage(server)
    with stage.running() as call:
        call(kind, *_requests(kind, ROWS))
    expected = {
        "unary_unary": {"not-logged": 1},
        "unary_stream": {"stream": 2},
        "stream_unary": {"stream": 1},
        "stream_stream": {"stream": 3},
    }
    assert stage.accounts == (0, expected[kind])


@pytest.mark.parametrize("server", SERVERS)
def test_who_nears_a_budget_is_told_how_much_is_left(server: str) -> None:
    stage = GrpcStage(server, FedGate([notice(15.0)]))
    with stage._run(stage.interceptor) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: Any = channel.unary_unary("/shop.Model/unary_unary", _dumps, _loads)
        _, done = ask.with_call(LOGGED, metadata=THIEF, timeout=20)
    told = dict(done.trailing_metadata())
    assert told["ratelimit"] == '"budget";r=15'


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVERS)
def test_a_refused_principal_learns_when_to_come_back_and_not_why(server: str, kind: str) -> None:
    stage = GrpcStage(server, FedGate([decision("refuse", expires_at=130.5)]))
    with stage.running() as call:
        with pytest.raises(grpc.RpcError) as refused:
            call(kind, *_requests(kind, LOGGED))
        honest = call(kind, *_requests(kind, LOGGED), metadata=(("x-account", "honest"),))
    error: Any = refused.value
    assert (error.code(), error.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests")
    told = dict(error.trailing_metadata())
    assert told["retry-after"] == "31"
    assert told["grpc-retry-pushback-ms"] == "31000"
    assert told["weirguard-decision"] == "d" * 32
    assert honest
    assert stage.accounts == (0, {})
    assert stage.logger.refusals() == {"thief": 1}


@pytest.mark.parametrize("server", SERVERS)
def test_a_gate_that_does_not_know_and_refuses_is_unavailable(server: str) -> None:
    stage = GrpcStage(server, Gate(NOWHERE, when_stale={"digits": "refuse"}))
    with stage.running() as call, pytest.raises(grpc.RpcError) as refused:
        call("unary_unary", ROWS)
    error: Any = refused.value
    assert error.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
@pytest.mark.parametrize("server", SERVERS)
def test_a_stream_is_checked_message_by_message(server: str, kind: str) -> None:
    stage = GrpcStage(server, FedGate([decision("slow", rate=2.0)]))
    with stage.running() as call, pytest.raises(grpc.RpcError) as refused:
        call(kind, *_requests(kind, LOGGED))
    error: Any = refused.value
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stage.accounts[0] == 1
    assert stage.logger.refusals() == {"thief": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SERVERS)
def test_a_response_is_served_and_logged(server: str, kind: str) -> None:
    gate = FedGate([graded("label_only")], responder=Responder(KEY))
    stage = GrpcStage(server, gate)
    with stage.running() as call:
        answers = call(kind, *_requests(kind, LOGGED))
    assert answers in ({"predictions": [[0.0, 1.0]]}, [{"predictions": [[0.0, 1.0]]}] * ANSWERED[kind])
    kept = stage.logger.kept()
    assert [one.outputs.tolist() for one in kept] == [ANSWER["predictions"]] * ANSWERED[kind]
    assert {mode for one in kept for mode in one.columns["served_mode"]} == {"label_only"}
    assert gate.responses.snapshot() == {"label_only": ANSWERED[kind]}


@pytest.mark.parametrize("server", SERVERS)
def test_an_observed_decision_changes_no_answer(server: str) -> None:
    gate = FedGate([decision("refuse", mode="observe")])
    stage = GrpcStage(server, gate)
    with stage.running() as call:
        assert call("unary_unary", LOGGED) == ANSWER
    assert gate.counters.snapshot()["would_have_refused"] == 1


@pytest.mark.parametrize("server", SERVERS)
def test_messages_are_read_by_the_extractor(server: str) -> None:
    stage = GrpcStage(server, extract=lambda asked, said: Scored(asked["instances"], said["predictions"]))
    with stage.running() as call:
        call("unary_unary", ROWS)
    assert stage.accounts == (1, {})


@pytest.mark.parametrize("server", SERVERS)
def test_a_call_that_fails_and_an_extractor_that_does(server: str) -> None:
    stage = GrpcStage(server, extract=lambda asked, said: Scored(asked["nothing"], said))
    with stage.running() as call:
        with pytest.raises(grpc.RpcError) as failed:
            call("unary_unary", {"fail": True})
        assert call("unary_unary", ROWS) == ANSWER
    error: Any = failed.value
    assert error.code() == grpc.StatusCode.UNKNOWN
    assert stage.accounts == (0, {"extractor": 1})


@pytest.mark.parametrize("server", SERVERS)
def test_other_methods_are_none_of_its_business(server: str) -> None:
    stage = GrpcStage(server, FedGate([decision("refuse")]))
    stage.interceptor._target = route("/shop.Model/other", "digits", "1")
    with stage.running() as call:
        for kind in KINDS:
            assert call(kind, *_requests(kind, LOGGED))
    assert stage.interceptor.counters.snapshot()["unmatched"] == len(KINDS)


def _tensor(name: str, values: Any, raw: bool = False) -> Any:
    array = np.array(values, np.float32)
    contents = SimpleNamespace(fp32_contents=[] if raw else array.ravel().tolist())
    return SimpleNamespace(name=name, datatype="FP32", shape=list(array.shape), contents=contents)


@pytest.mark.parametrize("raw", [False, True])
def test_messages_of_the_open_inference_protocol_are_read_as_its_json_is(raw: bool) -> None:
    rows, outputs = [[1.0, 2.0], [3.0, 4.0]], [[0.25, 0.75], [0.5, 0.5]]
    asked = SimpleNamespace(
        model_name="digits",
        model_version="",
        inputs=[_tensor("x", rows, raw)],
        raw_input_contents=[np.array(rows, np.float32).tobytes()] if raw else [],
        parameters={},
    )
    said = SimpleNamespace(
        outputs=[_tensor("p", outputs, raw)],
        raw_output_contents=[np.array(outputs, np.float32).tobytes()] if raw else [],
        parameters={},
    )
    scored = kserve_messages(kserve_v2())(asked, said)
    assert scored is not None
    assert np.asarray(scored.features).tolist() == rows
    assert np.asarray(scored.outputs).tolist() == outputs
    assert weirguard.Messages(asked, said, True).rows() == 2
    find = kserve_method("7")
    path = "/inference.GRPCInferenceService/ModelInfer"
    assert find({"path": path, "message": asked}) == Target("digits", "7")
    assert find({"path": "/inference.GRPCInferenceService/ServerLive", "message": asked}) is None
