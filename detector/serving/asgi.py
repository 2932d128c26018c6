"""ASGI middleware that checks the gate before the application runs and logs what it answered.

    app = WeirguardMiddleware(app, logger=..., gate=..., target=route("/predict", "digits", "1"))

An endpoint that has features and outputs as arrays calls :func:`log` itself, which is cheapest; for one that cannot be
changed, an ``extract`` function reads them from the JSON bodies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from functools import partial
from typing import Any

from detector.serving.denial import denial_of, notice_of
from detector.serving.exchange import Exchange
from detector.serving.gate import Verdict
from detector.serving.middleware import SCOPE_KEY, Copies, ModelMiddleware, log, respond, specification, verdict
from detector.serving.targets import FindTarget, Scope, Target, kserve_routes, route

__all__ = [
    "FindTarget",
    "Target",
    "WeirguardMiddleware",
    "kserve_routes",
    "log",
    "respond",
    "route",
    "specification",
    "verdict",
]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_LIFESPAN_ENDS = {"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"}
_POLICY_VIOLATION = 1008


class WeirguardMiddleware(ModelMiddleware):
    """Wraps the ASGI application ``app``; ``target`` finds the model of a request, or None for other requests.

    A throttled request is answered with 429 (503 if the gate is stale and set to refuse), Retry-After and an opaque
    decision id, never with a reason. With ``extract``, bodies of at most ``max_body_bytes`` are copied while they pass
    and read when the answer is out. No fault of the middleware breaks or delays the application: it is counted and the
    request continues. Lifespan events start and stop the threads.

    Each answer of 2xx is logged, by the endpoint or the extractor, or counted as unjudged against its principal. By
    default the principal is the identity that the application authenticated before; see :class:`Identity`.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._live(scope, receive, send)
            return
        exchange = self._open(scope) if kind in {"http", "websocket"} else None
        if exchange is None:
            await self._app(scope, receive, send)
        elif not exchange.verdict.allowed:
            self._count_refusal(exchange)
            await (_throttle(exchange.verdict, send) if kind == "http" else _refuse_websocket(receive, send))
        elif kind == "http":
            await self._serve(exchange, scope, receive, send)
        else:
            guard = WebsocketGuard(exchange, receive, send, self._count_refusal)
            await self._app({**scope, SCOPE_KEY: exchange}, guard.receive, guard.send)

    async def _serve(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope.get("headers") or ()
        capture = Capture(self._limit, headers, receive, send, partial(self._read, exchange))
        capture.notice = [(name.encode(), value.encode()) for name, value in notice_of(exchange.verdict)]
        try:
            await self._app({**scope, SCOPE_KEY: exchange}, capture.receive if self._limit else receive, capture.send)
        finally:
            self._finish(exchange, capture, scope.get("method"))

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_and_start() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._try(self._logger.start, self._gate.start)
            return message

        async def stop_and_send(message: Message) -> None:
            if message["type"] in _LIFESPAN_ENDS:
                self._try(self._logger.close, self._gate.close)
            await send(message)

        await self._app(scope, receive_and_start, stop_and_send)

    def _try(self, *steps: Callable[[], None]) -> None:
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001  no fault of the SDK may break the application
                self._fail("failures", "logger or gate did not start or stop", error)


class Capture(Copies):
    """Copies the bodies of one exchange while they pass.

    Each message passes at once and, but for the headers of a ``notice``, unchanged, so streams are not buffered.
    ``answered`` is called after the last piece of the answer, or the first beyond the limit.
    """

    notice: Sequence[tuple[bytes, bytes]] = ()

    def __init__(
        self,
        limit: int,
        headers: Iterable[tuple[bytes, bytes]],
        receive: Receive,
        send: Send,
        answered: Callable[[Capture], None],
    ) -> None:
        super().__init__(limit, headers)
        self._receive = receive
        self._send = send
        self._answered = answered

    async def receive(self) -> Message:
        message = await self._receive()
        self._note(message)
        return message

    async def send(self, message: Message) -> None:
        over = self.over
        self._note(message)
        await self._send(message)
        if self.limit and self.over and not over:
            self._answered(self)

    def _note(self, message: Message) -> None:
        try:
            kind = message.get("type")
            if kind == "http.request":
                self.request.add(message.get("body") or b"")
            elif kind == "http.response.start":
                self.status = int(message["status"])
                headers = message.get("headers", ())
                if not isinstance(headers, list | tuple):  # may be readable only once
                    message["headers"] = headers = list(headers)
                self.response.headers = headers
                if self.notice:
                    message["headers"] = [*headers, *self.notice]
            elif kind in _BODY_MESSAGES:
                self._note_body(message)
        except Exception:  # noqa: BLE001  what is no message of ASGI is for the server to refuse
            return

    def _note_body(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            self.empty, self.response.elsewhere = False, True
        else:
            self.note_chunk(message.get("body") or b"")
        self.ended = not message.get("more_body", False)


_BODY_MESSAGES = {"http.response.body", "http.response.pathsend", "http.response.zerocopysend"}


class WebsocketGuard:
    """A websocket, over which a caller may send any number of queries: the gate is checked before each message.

    If the gate refuses a message, both sides see the connection closed, and ``refused`` is called. Each message of the
    application is an answer; one without a log call before it counts as unjudged, ``websocket``.
    """

    def __init__(self, exchange: Exchange, receive: Receive, send: Send, refused: Callable[[Exchange], None]) -> None:
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._refused = refused
        self._closed = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message.get("type") == "websocket.receive" and not self._exchange.check():
            self._refused(self._exchange)
            self._closed = True
            await self._send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return {"type": "websocket.disconnect", "code": _POLICY_VIOLATION}
        return message

    async def send(self, message: Message) -> None:
        if self._closed:
            return
        try:
            await self._send(message)
        finally:
            if message.get("type") == "websocket.send":
                if not self._exchange.logged:
                    self._exchange.unjudged({"websocket": 1})
                self._exchange.logged = False


async def _refuse_websocket(receive: Receive, send: Send) -> None:
    """Closes the websocket in answer to its request, which the caller sees as a refused handshake."""
    await receive()
    await send({"type": "websocket.close", "code": _POLICY_VIOLATION})


async def _throttle(verdict: Verdict, send: Send) -> None:
    status, headers, body = denial_of(verdict)
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": int(status), "headers": pairs})
    await send({"type": "http.response.body", "body": body})
