"""ASGI middleware that asks the gate before the application runs and logs what it answered.

    app = WeirguardMiddleware(app, logger=..., gate=..., target=route("/predict", "digits", "1"))

An endpoint that has features and outputs as arrays calls :func:`log` itself, which is cheapest; for one that
cannot be changed, an ``extract`` function reads them out of the JSON bodies.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Unpack

from detector.contracts.errors import Unjudged
from detector.contracts.principals import ANONYMOUS
from detector.contracts.queries import OutputKind
from detector.serving.bucket import LONGEST_SECONDS
from detector.serving.capture import Capture, Message, Receive, Send
from detector.serving.complaints import Complaints
from detector.serving.exchange import Exchange
from detector.serving.extractors import Extractor
from detector.serving.gate import Gate, Verdict
from detector.serving.identity import Identity, headers_of
from detector.serving.logger import QueryLogger
from detector.serving.metrics import Counters
from detector.serving.rows import Columns
from detector.serving.targets import FindTarget, Scope, Target, app_root_of, find_target, kserve_routes, route
from detector.serving.websockets import Conversation, refuse

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["FindTarget", "Target", "WeirguardMiddleware", "kserve_routes", "log", "route", "verdict"]

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
_complaints = Complaints(logging.getLogger(__name__))


def log(
    scope: Scope,
    features: ArrayLike,
    outputs: ArrayLike,
    *,
    output_kind: OutputKind = "probabilities",
    **columns: Unpack[Columns],
) -> None:
    """Log from within an endpoint what its model was asked and said, before any perturbation.

    Shapes and ``columns`` as :meth:`QueryLogger.log` takes them. The middleware knows the rest from ``scope``;
    without it nothing happens but one warning. May be called several times for one request, and from a background task;
    what an extractor has read already is not logged again. Never raises.
    """
    exchange = scope.get(_SCOPE_KEY)
    if not isinstance(exchange, Exchange):
        _complaints.say("scope", "a query was not logged: WeirguardMiddleware has not seen its request")
        return
    if exchange.extracted:
        return
    try:
        exchange.log(features, outputs, output_kind, columns)
    except Exception as error:  # noqa: BLE001  nothing of ours may break the caller
        exchange.logger.counters.add("invalid")
        _complaints.say("log", "a query was not logged: %s", error)


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
                _complaints.say("identity", _NOBODY)
            return principal
        except Exception as error:  # noqa: BLE001  nothing of ours may break the application
            self._fail("failures", "the identity failed, and a request counts as anonymous", error)
            return ANONYMOUS

    def _pass_by(self) -> None:
        self.counters.add("unmatched")
        if not self._matched:
            self._unmatched += 1
            if self._unmatched == _UNMATCHED_SAID:
                _complaints.say("unmatched", _NOTHING_MATCHED, _UNMATCHED_SAID)

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
        _complaints.say("unjudged", "an answer is unjudged: %s", trouble)
        queries = capture.rows() if trouble.queries is None else trouble.queries
        exchange.unjudged({trouble.reason: queries})

    def _fail(self, counter: str, message: str, error: Exception) -> None:
        self.counters.add(counter)
        _complaints.say(counter, message, error=error)

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
