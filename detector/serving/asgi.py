"""ASGI middleware that checks the gate before the application runs and logs what it answered.

    app = WeirguardMiddleware(app, logger=..., gate=..., target=route("/predict", "digits", "1"))

An endpoint that has features and outputs as arrays calls :func:`log` itself, which is cheapest; for one that
cannot be changed, an ``extract`` function reads them out of the JSON bodies.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Unpack

from detector.contracts.errors import Unjudged
from detector.contracts.principals import ANONYMOUS
from detector.contracts.queries import OutputKind
from detector.serving.bodies import Body, header_values
from detector.serving.decisions import LONGEST_SECONDS
from detector.serving.exchange import Exchange
from detector.serving.extractors import Extractor
from detector.serving.gate import Gate, Verdict
from detector.serving.identity import Identity, headers_of
from detector.serving.logger import QueryLogger
from detector.serving.metrics import Counters, RateLimitedLogger
from detector.serving.rows import OptionalColumns
from detector.serving.targets import FindTarget, Scope, Target, app_root_of, find_target, kserve_routes, route

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["FindTarget", "Target", "WeirguardMiddleware", "kserve_routes", "log", "route", "verdict"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_COUNTERS = ("throttled", "logged", "unlogged", "too_large", "extract_failures", "unmatched", "failures")
_LIFESPAN_ENDS = {"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"}
_POLICY_VIOLATION = 1008
_SCOPE_KEY = "weirguard"
_UNMATCHED_REQUESTS = 100
_NOTHING_MATCHED = (
    "none of the first %d requests was for the target of WeirguardMiddleware, so none was checked or logged; give the "
    "path as the application's own routes have it"
)
_NO_IDENTITY = (
    "the application has given no identity, so all requests count as one account, 'anonymous'; let authentication "
    "stand before WeirguardMiddleware, or give it the Identity of what authenticates a request"
)
_log = RateLimitedLogger(logging.getLogger(__name__))


def log(
    scope: Scope,
    features: ArrayLike,
    outputs: ArrayLike,
    *,
    output_kind: OutputKind = "probabilities",
    **columns: Unpack[OptionalColumns],
) -> None:
    """Logs from within an endpoint the input and the output of its model, before any perturbation.

    Shapes and ``columns`` as :meth:`QueryLogger.log` takes them. The middleware knows the rest from ``scope``;
    without it nothing happens but one warning. May be called several times for one request, and from a background task;
    what an extractor has read already is not logged again. Never raises.
    """
    exchange = scope.get(_SCOPE_KEY)
    if not isinstance(exchange, Exchange):
        _log.warning("scope", "a query was not logged: WeirguardMiddleware has not seen its request")
        return
    if exchange.extracted:
        return
    try:
        exchange.log(features, outputs, output_kind, columns)
    except Exception as error:  # noqa: BLE001  no fault of the SDK may break the caller
        exchange.logger.counters.add("invalid")
        _log.warning("log", "a query was not logged: %s", error)


def verdict(scope: Scope) -> Verdict:
    """Returns the gate's verdict on this request, for an endpoint that needs it."""
    exchange = scope.get(_SCOPE_KEY)
    return exchange.verdict if isinstance(exchange, Exchange) else Verdict(stale=True)


class WeirguardMiddleware:
    """Wraps the ASGI application ``app``; ``target`` tells which requests are predictions, and of which model.

    A throttled request is answered with 429 (503 where the gate does not know and is set to refuse), Retry-After
    and an opaque decision id, never with a reason. With ``extract``, bodies of at most ``max_body_bytes`` are
    copied while they pass and read when the answer is out. No fault of the middleware breaks or delays the application:
    it is counted and the request goes on. Lifespan events start and stop the threads.

    Each answer of 2xx is logged, by the endpoint or the extractor, or counted as unjudged against its principal. By
    default a principal is only who the application authenticated before; see :class:`Identity`.

    Counters: ``throttled`` requests; answers ``logged``, and ``unlogged`` ones that are unjudged; among these
    ``too_large`` bodies and ``extract_failures``; ``unmatched`` requests, for no target; ``failures`` of this
    middleware itself.
    """

    NAME = "middleware"

    def __init__(  # noqa: PLR0913  the parts are few and named
        self,
        app: Application,
        *,
        logger: QueryLogger,
        gate: Gate,
        target: FindTarget,
        identity: Identity | None = None,
        extract: Extractor | None = None,
        max_body_bytes: int = 1 << 20,
    ) -> None:
        self.counters = Counters(*_COUNTERS)
        self._app = app
        self._app_root = app_root_of(app)
        self._logger = logger
        self._gate = gate
        self._target = target
        self._identity = identity or Identity()
        self._identity_is_default = identity is None
        self._extract = extract
        self._max_body_bytes = max_body_bytes
        self._matched = False
        self._unmatched = 0

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
            await self._app({**scope, _SCOPE_KEY: exchange}, guard.receive, guard.send)

    def gauges(self) -> Mapping[str, float]:
        return {}

    def _open(self, scope: Scope) -> Exchange | None:
        """Returns the exchange if the request is for a model; None also after a fault of the middleware."""
        try:
            target = find_target(self._target, scope, self._app_root)
        except Exception as error:  # noqa: BLE001  no fault of the SDK may break the application
            self._fail("failures", "target failed, and a request passed unseen", error)
            return None
        if target is None:
            self.counters.add("unmatched")
            self._unmatched += 1
            if self._unmatched == _UNMATCHED_REQUESTS and not self._matched:
                _log.warning("unmatched", _NOTHING_MATCHED, _UNMATCHED_REQUESTS)
            return None
        self._matched = True
        principal = self._principal(scope)
        return Exchange(self._logger, self._gate, target, principal, self._gate.check(target.model, principal))

    def _principal(self, scope: Scope) -> str:
        try:
            principal = self._identity.principal(headers_of(scope), scope)
            if principal == ANONYMOUS and self._identity_is_default:
                _log.warning("identity", _NO_IDENTITY)
            return principal
        except Exception as error:  # noqa: BLE001  no fault of the SDK may break the application
            self._fail("failures", "the identity failed, and a request counts as anonymous", error)
            return ANONYMOUS

    def _count_refusal(self, exchange: Exchange) -> None:
        self.counters.add("throttled")
        self._logger.refused(exchange.principal, exchange.target.model)

    async def _serve(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._max_body_bytes if self._extract else 0
        headers = scope.get("headers") or ()
        capture = Capture(limit, headers, receive, send, partial(self._read, exchange))
        try:
            await self._app({**scope, _SCOPE_KEY: exchange}, capture.receive if limit else receive, capture.send)
        finally:
            if capture.succeeded and not (scope.get("method") == "OPTIONS" and capture.negotiation):
                self._read(exchange, capture)
                self._settle(exchange, capture)

    def _read(self, exchange: Exchange, capture: Capture) -> None:
        """Logs what the extractor finds, once, unless the endpoint has logged. What it does not find waits: an endpoint
        may log in a background task."""
        if self._extract is None or exchange.accounted or exchange.fault or not capture.succeeded:
            return
        try:
            scored = self._extract(*capture.documents())
            if scored is None:
                raise Unjudged("no-rows", "the extractor found no rows")
            exchange.extracted = True
            exchange.log(scored.features, scored.outputs, scored.output_kind, scored.columns)
            exchange.unjudged(scored.unjudged)
        except Unjudged as fault:
            exchange.fault = fault
        except Exception as error:  # noqa: BLE001  no fault of the SDK may break the application
            self._fail("extract_failures", "the extractor failed, and a query is unjudged", error)
            exchange.fault = Unjudged("extractor", "the extractor failed")
        if capture.too_large and exchange.fault:  # a stream may go on for ever
            self._settle(exchange, capture)

    def _settle(self, exchange: Exchange, capture: Capture) -> None:
        """Counts the answer: once, however often this is called."""
        if exchange.settled:
            return
        exchange.settled = True
        self.counters.add("logged" if exchange.logged else "unlogged")
        if exchange.accounted:
            return
        fault = exchange.fault or Unjudged("not-logged", "the endpoint did not log, and there is no extractor")
        if fault.reason == "too-large":
            self.counters.add("too_large")
        _log.warning("unjudged", "an answer is unjudged: %s", fault)
        exchange.unjudged({fault.reason: capture.rows() if fault.queries is None else fault.queries})

    def _fail(self, counter: str, message: str, error: Exception) -> None:
        self.counters.add(counter)
        _log.warning(counter, message, error=error)

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


class Capture:
    """Copies the bodies of one exchange while they pass, up to ``limit`` bytes each; with 0 it sees the status alone.

    Each message goes on at once and unchanged, so streams are not buffered. ``headers``: of the request. ``answered``
    is called after the last piece of the answer, or the first beyond the limit.
    """

    def __init__(
        self,
        limit: int,
        headers: Iterable[tuple[bytes, bytes]],
        receive: Receive,
        send: Send,
        answered: Callable[[Capture], None],
    ) -> None:
        self._limit = limit
        self._receive = receive
        self._send = send
        self._answered = answered
        self._request = Body(limit, headers)
        self._response = Body(limit)
        self._status = 0
        self._empty = True
        self._ended = False

    @property
    def succeeded(self) -> bool:
        """Whether the answer was 2xx."""
        return 200 <= self._status < 300

    @property
    def negotiation(self) -> bool:
        """Whether the answer to OPTIONS only lists what is allowed: it is empty, or that of a CORS preflight."""
        return self._empty or any(header_values(self._response.headers, b"access-control-allow-methods"))

    @property
    def too_large(self) -> bool:
        return self._request.too_large or self._response.too_large

    @property
    def _over(self) -> bool:
        """Whether no further part of the answer can be read."""
        return self._ended or self._response.too_large

    def documents(self) -> tuple[Any, Any]:
        """Returns request and response. Raises Unjudged where one cannot be read.

        A stream that broke off is read all the same: its last piece may be empty.
        """
        request = self._request.document()
        try:
            return request, self._response.document()
        except Unjudged as error:
            if self._over:
                raise
            raise Unjudged("interrupted", "an answer broke off") from error

    def rows(self) -> int:
        """Returns how many rows were answered, as far as either body shows, for an exchange that cannot be logged.
        Otherwise a caller could put a thousand rows into each unreadable request and be charged for one."""
        return max(self._request.rows(), self._response.rows())

    async def receive(self) -> Message:
        message = await self._receive()
        self._note(message)
        return message

    async def send(self, message: Message) -> None:
        over = self._over
        self._note(message)
        await self._send(message)
        if self._limit and self._over and not over:
            self._answered(self)

    def _note(self, message: Message) -> None:
        try:
            kind = message.get("type")
            if kind == "http.request":
                self._request.add(message.get("body") or b"")
            elif kind == "http.response.start":
                self._status = int(message["status"])
                headers = message.get("headers", ())
                if not isinstance(headers, list | tuple):  # may be readable only once
                    message["headers"] = headers = list(headers)
                self._response.headers = headers
            elif kind in _BODY_MESSAGES:
                self._note_body(message)
        except Exception:  # noqa: BLE001  what is no message of ASGI is for the server to refuse
            return

    def _note_body(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            self._empty, self._response.elsewhere = False, True
        elif chunk := message.get("body") or b"":
            self._empty = False
            if self._limit:
                self._response.add(chunk)
        self._ended = not message.get("more_body", False)


_BODY_MESSAGES = {"http.response.body", "http.response.pathsend", "http.response.zerocopysend"}


class WebsocketGuard:
    """A websocket, over which a caller may send any number of queries: the gate is checked before each message.

    A message to the application that the gate refuses ends the conversation: both sides see it closed, and ``refused``
    is called. Each message of the application is an answer; one without a log call before it counts as unjudged,
    ``websocket``.
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
    status = HTTPStatus.SERVICE_UNAVAILABLE if verdict.stale else HTTPStatus.TOO_MANY_REQUESTS
    seconds = max(1, math.ceil(verdict.retry_after))
    body = b'{"error":"%b"}' % status.phrase.lower().encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"retry-after", b"%d" % seconds),
        (b"ratelimit", b'"queries";r=0;t=%d' % seconds),
    ]
    if verdict.queries_per_second is not None:
        headers.append((b"ratelimit-policy", _policy(verdict.queries_per_second)))
    if verdict.decision_id is not None:
        headers.append((b"weirguard-decision", verdict.decision_id.encode("ascii", "replace")))
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _policy(rate: float) -> bytes:
    """Returns a quota in whole queries over whole seconds, as the RateLimit-Policy field requires."""
    window = max(1, math.ceil(min(1 / rate, LONGEST_SECONDS)))
    return b'"queries";q=%d;w=%d' % (max(1, int(rate * window)), window)
