"""ASGI middleware that asks the gate before the application runs and logs what it answered.

    app = WeirguardMiddleware(app, logger=..., gate=..., target=route("/predict", "digits", "1"))

An endpoint that has features and outputs as arrays calls :func:`log` itself, which is cheapest; for one that
cannot be changed, an ``extract`` function reads them out of the JSON bodies.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from detector.contracts.queries import OutputKind
from detector.serving.capture import Capture
from detector.serving.complaints import Complaints
from detector.serving.extractors import Extractor
from detector.serving.gate import Gate, Verdict
from detector.serving.identity import Identity
from detector.serving.logger import QueryLogger
from detector.serving.metrics import Counters
from detector.serving.rows import Columns

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_SCOPE_KEY = "weirguard"
_complaints = Complaints(logging.getLogger(__name__))


class Target(NamedTuple):
    """The model that a request is for."""

    model: str
    model_version: str


FindTarget = Callable[[Scope], Target | None]


def route(path: str, model: str, model_version: str) -> FindTarget:
    """Requests to exactly ``path`` are for this model; others are none of our business."""
    target = Target(model, model_version)
    return lambda scope: target if scope["path"] == path else None


def kserve_routes(model_version: str = "1") -> FindTarget:
    """The model is named in the path: ``/v1/models/M:predict``, ``/v2/models/M[/versions/V]/infer``.

    ``model_version`` stands in where the path names none.
    """
    pattern = re.compile(r"/v1/models/([^/:]+):predict|/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")

    def find(scope: Scope) -> Target | None:
        match = pattern.fullmatch(scope["path"])
        return Target(match[1] or match[2], match[3] or model_version) if match else None

    return find


@dataclass(slots=True)
class Exchange:
    """One request to a model: what the gate said of it, and whether it was logged."""

    logger: QueryLogger
    gate: Gate
    target: Target
    principal: str
    verdict: Verdict
    logged: bool = False

    def log(self, features: ArrayLike, outputs: ArrayLike, output_kind: OutputKind, columns: Columns) -> None:
        """Log the rows; those after the first are charged to a principal who is slowed."""
        self.logged = True
        model, model_version = self.target
        self.logger.log(self.principal, model, model_version, features, outputs, output_kind=output_kind, **columns)
        if self.verdict.queries_per_second is not None:
            self.gate.charge(model, self.principal, _count(features) - 1)


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
    without it nothing happens but one warning. Never raises.
    """
    exchange = scope.get(_SCOPE_KEY)
    if not isinstance(exchange, Exchange):
        _complaints.say("scope", "a query was not logged: WeirguardMiddleware has not seen its request")
        return
    try:
        exchange.log(features, outputs, output_kind, columns)
    except Exception as error:  # noqa: BLE001  nothing of ours may break the caller
        exchange.logger.counters.add("invalid")
        _complaints.say("log", "a query was not logged: %s", error)


def verdict(scope: Scope) -> Verdict:
    """What the gate said of this request, for an endpoint that wants to know."""
    exchange = scope.get(_SCOPE_KEY)
    return exchange.verdict if isinstance(exchange, Exchange) else Verdict(stale=True)


class WeirguardMiddleware:
    """Wraps the ASGI application ``app``; ``target`` tells which requests are predictions, and of which model.

    A throttled request is answered with 429 (503 where the gate does not know and is set to refuse), Retry-After
    and an opaque decision id, never with a reason. With ``extract``, bodies of at most ``max_body_bytes`` are
    copied while they pass and read after the answer has gone out. Nothing of ours breaks or delays the application:
    errors are counted and the request goes on. Lifespan events start and stop the threads.

    Counters: ``throttled`` requests; ``logged`` by the endpoint or the extractor, ``unlogged`` answers of 2xx that
    neither logged; among these ``too_large`` bodies and ``extract_failures``; ``failures`` of this middleware itself.
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
        self.counters = Counters("throttled", "logged", "unlogged", "too_large", "extract_failures", "failures")
        self._app = app
        self._logger = logger
        self._gate = gate
        self._target = target
        self._identity = identity or Identity()
        self._extract = extract
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, self._starting(receive), self._stopping(send))
            return
        exchange = self._open(scope) if scope["type"] == "http" else None
        if exchange is None:
            await self._app(scope, receive, send)
        elif exchange.verdict.allowed:
            await self._serve(exchange, scope, receive, send)
        else:
            self.counters.add("throttled")
            self._logger.refused(exchange.principal, exchange.target.model)
            await _throttle(exchange.verdict, send)

    def gauges(self) -> Mapping[str, float]:
        return {}

    def _open(self, scope: Scope) -> Exchange | None:
        """The exchange, if the request is for a model; None as well after a fault of ours."""
        try:
            target = self._target(scope)
            if target is None:
                return None
            principal = self._identity.principal(_headers(scope))
            return Exchange(self._logger, self._gate, target, principal, self._gate.check(target.model, principal))
        except Exception as error:  # noqa: BLE001  nothing of ours may break the application
            self._fail("failures", error)
            return None

    async def _serve(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        capture = Capture(self._max_body_bytes if self._extract else 0)
        await self._app({**scope, _SCOPE_KEY: exchange}, capture.receiving(receive), capture.sending(send))
        if not exchange.logged and self._extract is not None:
            self._extract_rows(self._extract, exchange, capture)
        if capture.succeeded:
            self.counters.add("logged" if exchange.logged else "unlogged")

    def _extract_rows(self, extract: Extractor, exchange: Exchange, capture: Capture) -> None:
        if capture.too_large:
            self.counters.add("too_large")
        if not capture.complete:
            return
        try:
            scored = extract(*capture.documents())
            if scored is not None:
                exchange.log(scored.features, scored.outputs, scored.output_kind, scored.columns)
        except Exception as error:  # noqa: BLE001  nothing of ours may break the application
            self._fail("extract_failures", error)

    def _fail(self, counter: str, error: Exception) -> None:
        self.counters.add(counter)
        _complaints.say(counter, "the middleware let a request pass unlogged", error=error)

    def _starting(self, receive: Receive) -> Receive:
        async def wrapped() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._logger.start()
                self._gate.start()
            return message

        return wrapped

    def _stopping(self, send: Send) -> Send:
        async def wrapped(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                self._logger.close()
                self._gate.close()
            await send(message)

        return wrapped


def _headers(scope: Scope) -> dict[str, str]:
    """Header values by lower-case name; the first one counts, so that a second cannot override a proxy's."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return headers


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
    window = max(1, math.ceil(1 / rate))
    return b'"queries";q=%d;w=%d' % (max(1, int(rate * window)), window)


def _count(features: Any) -> int:
    """Rows in ``features``: (n, d) has n, (d,) has one."""
    shape = getattr(features, "shape", None)
    if shape is not None:
        return int(shape[0]) if len(shape) > 1 else 1
    return len(features) if hasattr(features[0], "__len__") else 1
