"""ASGI middleware that asks the gate before the application runs and logs what it answered.

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
from detector.serving.bodies import document, document_with_tensors, rows_told
from detector.serving.decisions import LONGEST_SECONDS
from detector.serving.exchange import Exchange
from detector.serving.extractors import Extractor
from detector.serving.gate import Gate, Verdict
from detector.serving.identity import Identity, headers_of
from detector.serving.logger import QueryLogger
from detector.serving.metrics import Counters, RateLimitedLogger
from detector.serving.rows import OptionalColumns
from detector.serving.targets import FindTarget, Scope, Target, app_root_of, find_target, kserve_routes, route

__all__ = ["FindTarget", "Target", "WeirguardMiddleware", "kserve_routes", "log", "route", "verdict"]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _Body:
    """At most ``limit`` bytes; one more and all are dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.headers: Iterable[tuple[bytes, bytes]] = ()
        self.too_large = False
        self.elsewhere = False

    def add(self, chunk: bytes) -> None:
        if self.too_large or len(self._data) + len(chunk) > self._limit:
            self.too_large = True
            self._data = bytearray()
        else:
            self._data += chunk

    def document(self) -> Any:
        """Returns the body as JSON. Raises Unjudged."""
        if self.too_large:
            raise Unjudged("too-large", f"a body has over {self._limit} bytes")
        if self.elsewhere:
            raise Unjudged("unread", "an answer is sent from a file, past the middleware")
        if not self._data:
            raise Unjudged("empty", "a request or its answer has no body, or nobody read it")
        encodings = ",".join(_values(self.headers, b"content-encoding"))
        head = "".join(_values(self.headers, b"inference-header-content-length"))
        read = document if not head else partial(document_with_tensors, head)
        return read(bytes(self._data), encodings, self._limit)

    def rows(self) -> int:
        """Returns how many rows the body seems to hold; 1 where that is unknown."""
        try:
            return rows_told(self.document())
        except Exception:  # noqa: BLE001  it is unreadable in whatever way
            return 1


class Capture:
    """Observes one exchange. With ``limit`` 0 it records the status alone.

    Each message goes on at once and unchanged, so streams are not buffered. ``headers``: of the request.
    """

    def __init__(self, limit: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._limit = limit
        self._request = _Body(limit)
        self._request.headers = headers
        self._response = _Body(limit)
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
        return self._empty or any(_values(self._response.headers, b"access-control-allow-methods"))

    @property
    def too_large(self) -> bool:
        return self._request.too_large or self._response.too_large

    @property
    def over(self) -> bool:
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
            if self.over:
                raise
            raise Unjudged("interrupted", "an answer broke off") from error

    def rows(self) -> int:
        """Returns how many rows were answered, as far as either body shows, for an exchange that cannot be logged.
        Otherwise a caller could put a thousand rows into each unreadable request and be charged for one."""
        return max(self._request.rows(), self._response.rows())

    def receiving(self, receive: Receive) -> Receive:
        if not self._limit:
            return receive

        async def wrapped() -> Message:
            message = await receive()
            self._note(message)
            return message

        return wrapped

    def sending(self, send: Send, passed: Callable[[], None]) -> Send:
        """Returns a wrapper of ``send`` that calls ``passed`` after the last piece of the answer, or the first beyond
        the limit."""

        async def wrapped(message: Message) -> None:
            over = self.over
            self._note(message)
            await send(message)
            if self.over and not over:
                passed()

        async def noting(message: Message) -> None:
            self._note(message)
            await send(message)

        return wrapped if self._limit else noting

    def _note(self, message: Message) -> None:
        try:
            self._take(message)
        except Exception:  # noqa: BLE001  what is no message of ASGI is for the server to refuse
            return

    def _take(self, message: Message) -> None:
        kind = message.get("type")
        if kind == "http.request":
            self._request.add(message.get("body") or b"")
        elif kind == "http.response.start":
            self._status = int(message["status"])
            headers = message.get("headers", ())
            if not isinstance(headers, list | tuple):  # may be readable only once
                message["headers"] = headers = list(headers)
            self._response.headers = headers
        elif kind == "http.response.body":
            self._add(message.get("body") or b"")
            self._ended = not message.get("more_body", False)
        elif kind in {"http.response.pathsend", "http.response.zerocopysend"}:
            self._empty, self._response.elsewhere = False, True
            self._ended = not message.get("more_body", False)

    def _add(self, chunk: bytes) -> None:
        if chunk:
            self._empty = False
            if self._limit:
                self._response.add(chunk)


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    size = len(name)
    return [bytes(value).decode("latin-1") for key, value in headers if len(key) == size and bytes(key).lower() == name]


_POLICY_VIOLATION = 1008


class Conversation:
    """A websocket, over which a caller may send any number of queries.

    A message to the application that the gate refuses ends the conversation: both sides see it closed. Each message of
    the application is an answer; one without a log call before it counts as unjudged, ``websocket``.
    """

    def __init__(self, exchange: Exchange, refused: Callable[[Exchange], None]) -> None:
        self._exchange = exchange
        self._refused = refused
        self._closed = False

    def receiving(self, receive: Receive, send: Send) -> Receive:
        async def wrapped() -> Message:
            message = await receive()
            if message.get("type") == "websocket.receive" and not self._allowed():
                self._refused(self._exchange)
                self._closed = True
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
                return {"type": "websocket.disconnect", "code": _POLICY_VIOLATION}
            return message

        return wrapped

    def sending(self, send: Send) -> Send:
        async def wrapped(message: Message) -> None:
            if self._closed:
                return
            try:
                await send(message)
            finally:
                if message.get("type") == "websocket.send":
                    self._account()

        return wrapped

    def _allowed(self) -> bool:
        exchange = self._exchange
        exchange.verdict = exchange.gate.check(exchange.target.model, exchange.principal)
        return exchange.verdict.allowed

    def _account(self) -> None:
        if not self._exchange.logged:
            self._exchange.unjudged({"websocket": 1})
        self._exchange.logged = False


async def refuse(receive: Receive, send: Send) -> None:
    """Closes the websocket in answer to its request, which the caller sees as a refused handshake."""
    await receive()
    await send({"type": "websocket.close", "code": _POLICY_VIOLATION})


Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_COUNTERS = ("throttled", "logged", "unlogged", "too_large", "extract_failures", "unmatched", "failures")
_ENDS = {"lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"}
_SCOPE_KEY = "weirguard"
_UNMATCHED_SAID = 100
_NOTHING_MATCHED = (
    "none of the first %d requests was for the target of WeirguardMiddleware, so none was checked or logged; give the "
    "path as the application's own routes have it"
)
_NOBODY = (
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
    """Log from within an endpoint what its model was asked and said, before any perturbation.

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
    except Exception as error:  # noqa: BLE001  nothing of ours may break the caller
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
    copied while they pass and read when the answer has gone out. Nothing of ours breaks or delays the application:
    errors are counted and the request goes on. Lifespan events start and stop the threads.

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
        if scope["type"] == "lifespan":
            await self._app(scope, self._starting(receive), self._stopping(send))
            return
        exchange = self._open(scope) if scope["type"] in {"http", "websocket"} else None
        if exchange is None:
            await self._app(scope, receive, send)
        elif not exchange.verdict.allowed:
            self._refused(exchange)
            await (_throttle(exchange.verdict, send) if scope["type"] == "http" else refuse(receive, send))
        elif scope["type"] == "http":
            await self._serve(exchange, scope, receive, send)
        else:
            talk = Conversation(exchange, self._refused)
            await self._app({**scope, _SCOPE_KEY: exchange}, talk.receiving(receive, send), talk.sending(send))

    def gauges(self) -> Mapping[str, float]:
        return {}

    def _open(self, scope: Scope) -> Exchange | None:
        """The exchange, if the request is for a model; None as well after a fault of ours."""
        try:
            target = find_target(self._target, scope, self._app_root)
        except Exception as error:  # noqa: BLE001  nothing of ours may break the application
            self._fail("failures", "target failed, and a request passed unseen", error)
            return None
        if target is None:
            self._pass_by()
            return None
        self._matched = True
        principal = self._principal(scope)
        return Exchange(self._logger, self._gate, target, principal, self._gate.check(target.model, principal))

    def _principal(self, scope: Scope) -> str:
        try:
            principal = self._identity.principal(headers_of(scope), scope)
            if principal == ANONYMOUS and self._identity_is_default:
                _log.warning("identity", _NOBODY)
            return principal
        except Exception as error:  # noqa: BLE001  nothing of ours may break the application
            self._fail("failures", "the identity failed, and a request counts as anonymous", error)
            return ANONYMOUS

    def _pass_by(self) -> None:
        self.counters.add("unmatched")
        if not self._matched:
            self._unmatched += 1
            if self._unmatched == _UNMATCHED_SAID:
                _log.warning("unmatched", _NOTHING_MATCHED, _UNMATCHED_SAID)

    def _refused(self, exchange: Exchange) -> None:
        self.counters.add("throttled")
        self._logger.refused(exchange.principal, exchange.target.model)

    async def _serve(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        capture = Capture(self._max_body_bytes if self._extract else 0, scope.get("headers") or ())
        passed = partial(self._read, exchange, capture)
        try:
            await self._app({**scope, _SCOPE_KEY: exchange}, capture.receiving(receive), capture.sending(send, passed))
        finally:
            if capture.succeeded and not (scope.get("method") == "OPTIONS" and capture.negotiation):
                self._read(exchange, capture)
                self._settle(exchange, capture)

    def _read(self, exchange: Exchange, capture: Capture) -> None:
        """Log what the extractor finds, once, unless the endpoint has logged. What it does not find waits: an endpoint
        may log in a background task."""
        if self._extract is None or exchange.accounted or exchange.trouble or not capture.succeeded:
            return
        try:
            scored = self._extract(*capture.documents())
            if scored is None:
                raise Unjudged("no-rows", "the extractor found no rows")
            exchange.extracted = True
            exchange.log(scored.features, scored.outputs, scored.output_kind, scored.columns)
            exchange.unjudged(scored.unjudged)
        except Unjudged as trouble:
            exchange.trouble = trouble
        except Exception as error:  # noqa: BLE001  nothing of ours may break the application
            self._fail("extract_failures", "the extractor failed, and a query is unjudged", error)
            exchange.trouble = Unjudged("extractor", "the extractor failed")
        if capture.too_large and exchange.trouble:  # a stream may go on for ever
            self._settle(exchange, capture)

    def _settle(self, exchange: Exchange, capture: Capture) -> None:
        """Count the answer: once, however often this is called."""
        if exchange.settled:
            return
        exchange.settled = True
        self.counters.add("logged" if exchange.logged else "unlogged")
        if exchange.accounted:
            return
        trouble = exchange.trouble or Unjudged("not-logged", "the endpoint did not log, and there is no extractor")
        if trouble.reason == "too-large":
            self.counters.add("too_large")
        _log.warning("unjudged", "an answer is unjudged: %s", trouble)
        queries = capture.rows() if trouble.queries is None else trouble.queries
        exchange.unjudged({trouble.reason: queries})

    def _fail(self, counter: str, message: str, error: Exception) -> None:
        self.counters.add(counter)
        _log.warning(counter, message, error=error)

    def _starting(self, receive: Receive) -> Receive:
        async def wrapped() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._guarded(self._logger.start, self._gate.start)
            return message

        return wrapped

    def _stopping(self, send: Send) -> Send:
        async def wrapped(message: Message) -> None:
            if message["type"] in _ENDS:
                self._guarded(self._logger.close, self._gate.close)
            await send(message)

        return wrapped

    def _guarded(self, *steps: Callable[[], None]) -> None:
        for step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001  nothing of ours may break the application
                self._fail("failures", "logger or gate did not start or stop", error)


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
    """A quota in whole queries over whole seconds, as the RateLimit-Policy field wants it."""
    window = max(1, math.ceil(min(1 / rate, LONGEST_SECONDS)))
    return b'"queries";q=%d;w=%d' % (max(1, int(rate * window)), window)
