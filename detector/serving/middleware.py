"""The shared part of all middlewares: from a request to its exchange, and from its answer to the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from detector.contracts.errors import Unjudged
from detector.contracts.principals import ANONYMOUS
from detector.contracts.queries import OutputKind
from detector.serving.bodies import Body, header_values
from detector.serving.exchange import Exchange
from detector.serving.extractors import Extractor
from detector.serving.gate import Gate, Verdict
from detector.serving.identity import Identity, headers_of
from detector.serving.logger import QueryLogger
from detector.serving.metrics import Counters, RateLimitedLogger
from detector.serving.responder import Answer
from detector.serving.rows import OptionalColumns
from detector.serving.targets import FindTarget, Scope, app_root_of, find_target

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

SCOPE_KEY = "weirguard"
"""Key of the exchange in the ASGI scope, or in the WSGI environment, of its request."""

_COUNTERS = ("throttled", "logged", "unlogged", "too_large", "extract_failures", "unmatched", "failures")
_UNMATCHED_REQUESTS = 100
_NOTHING_MATCHED = (
    "none of the first %d requests was for the target of the middleware, so none was checked or logged; give the "
    "path as the application's own routes have it"
)
_NO_IDENTITY = (
    "the application has given no identity, so all requests count as one account, 'anonymous'; let authentication "
    "stand before the middleware, or give it the Identity of what authenticates a request"
)
_log = RateLimitedLogger(logging.getLogger(__name__))


def log(
    scope: MutableMapping[str, Any],
    features: ArrayLike,
    outputs: ArrayLike,
    *,
    output_kind: OutputKind = "probabilities",
    **columns: Unpack[OptionalColumns],
) -> None:
    """Logs from within an endpoint the input and the output of its model, before any perturbation.

    Shapes and ``columns`` as :meth:`QueryLogger.log` takes them. The middleware takes the rest from ``scope``, the ASGI
    scope or the WSGI environment of the request. Without a middleware, a warning is logged once. May be called several
    times for one request, and from a background task; rows that an extractor has read are not logged again. Never
    raises.
    """
    exchange = scope.get(SCOPE_KEY)
    if not isinstance(exchange, Exchange):
        _log.warning("scope", "a query was not logged: the middleware has not seen its request")
        return
    if exchange.extracted:
        return
    try:
        exchange.log(features, outputs, output_kind, columns)
    except Exception as error:  # noqa: BLE001  no fault of the SDK may break the caller
        exchange.logger.counters.add("invalid")
        _log.warning("log", "a query was not logged: %s", error)


def respond(
    scope: MutableMapping[str, Any],
    features: ArrayLike,
    outputs: Any,
    *,
    output_kind: OutputKind = "probabilities",
    **columns: Unpack[OptionalColumns],
) -> Any:
    """Logs the model's output as :func:`log` does, and returns what to answer, in the form of ``outputs``.

    That is ``outputs`` unless an enforced decision asks for another answer and the gate has a responder. The log then
    has the response as ``served_mode``. Never raises.
    """
    exchange = scope.get(SCOPE_KEY)
    answer = exchange.answer(features, outputs, output_kind) if isinstance(exchange, Exchange) else Answer(outputs)
    if answer.served_mode:
        columns.setdefault("served_mode", answer.served_mode)
    log(scope, features, outputs, output_kind=output_kind, **columns)
    return answer.outputs


def specification(
    scope: MutableMapping[str, Any], features: ArrayLike, requested: ArrayLike, offered: ArrayLike | None = None
) -> ArrayLike:
    """Returns the specification by which to choose a model of a zoo, for ``requested`` (2,) or (n, 2): accuracies 0 to
    1 and milliseconds.

    That is ``requested`` unless an enforced decision asks for noise on it. With ``offered`` (m, 2), what the models
    have, the noisy ones are among these. Log what was requested. Never raises.
    """
    exchange = scope.get(SCOPE_KEY)
    return exchange.specification(features, requested, offered) if isinstance(exchange, Exchange) else requested


def verdict(scope: MutableMapping[str, Any]) -> Verdict:
    """Returns the gate's verdict on this request, for an endpoint that needs it."""
    exchange = scope.get(SCOPE_KEY)
    return exchange.verdict if isinstance(exchange, Exchange) else Verdict(stale=True)


class Copies:
    """The bodies of one exchange so far, up to ``limit`` bytes each; 0 keeps the status alone.

    ``headers``: of the request. ``status``: of the answer, 0 before it. ``empty``: the answer has no body yet.
    ``ended``: it is complete.
    """

    def __init__(self, limit: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.limit = limit
        self.request = Body(limit, headers)
        self.response = Body(limit)
        self.status = 0
        self.empty = True
        self.ended = False

    @property
    def succeeded(self) -> bool:
        """Whether the answer was 2xx."""
        return 200 <= self.status < 300

    @property
    def negotiation(self) -> bool:
        """Whether the answer to OPTIONS only lists what is allowed: it is empty, or that of a CORS preflight."""
        return self.empty or any(header_values(self.response.headers, b"access-control-allow-methods"))

    @property
    def too_large(self) -> bool:
        return self.request.too_large or self.response.too_large

    @property
    def over(self) -> bool:
        """Whether no further part of the answer can be read."""
        return self.ended or self.response.too_large

    def documents(self) -> tuple[Any, Any]:
        """Returns request and response. Raises Unjudged if one cannot be read. A stream that broke off is read too: its
        last piece may be empty.
        """
        request = self.request.document()
        try:
            return request, self.response.document()
        except Unjudged as error:
            if self.over:
                raise
            raise Unjudged("interrupted", "an answer broke off") from error

    def rows(self) -> int:
        """Returns how many rows were answered, as far as either body shows, for an exchange that cannot be logged.
        Otherwise a caller could put a thousand rows into each unreadable request and be charged for one."""
        return max(self.request.rows(), self.response.rows())

    def note_chunk(self, chunk: bytes) -> None:
        """Copies the next piece of the answer."""
        if chunk:
            self.empty = False
            if self.limit:
                self.response.add(chunk)


class Answered(Protocol):
    """Request and answer of an exchange, once the answer is known."""

    @property
    def succeeded(self) -> bool: ...
    @property
    def too_large(self) -> bool: ...
    def documents(self) -> tuple[Any, Any]: ...
    def rows(self) -> int: ...


class ModelMiddleware:
    """Opens an exchange for each request to a model, and logs or counts its answer.

    Counters: ``throttled`` requests; answers ``logged``, and ``unlogged`` ones that are unjudged; among these
    ``too_large`` bodies and ``extract_failures``; ``unmatched`` requests, for no target; ``failures`` of this
    middleware itself.
    """

    NAME = "middleware"

    def __init__(  # noqa: PLR0913  the parts are few and named
        self,
        app: Any,
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
        self._limit = max_body_bytes if extract else 0
        self._matched = False
        self._unmatched = 0

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

    def _read(self, exchange: Exchange, answer: Answered) -> None:
        """Logs what the extractor finds, once, unless the endpoint has logged. If it finds nothing, an endpoint may
        still log in a background task."""
        if self._extract is None or exchange.accounted or exchange.fault or not answer.succeeded:
            return
        try:
            scored = self._extract(*answer.documents())
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
        if answer.too_large and exchange.fault:  # a stream may go on for ever
            self._settle(exchange, answer)

    def _finish(self, exchange: Exchange, answer: Copies, method: str | None) -> None:
        """Counts the answer when it is complete."""
        if answer.succeeded and not (method == "OPTIONS" and answer.negotiation):
            self._read(exchange, answer)
            self._settle(exchange, answer)

    def _settle(self, exchange: Exchange, answer: Answered) -> None:
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
        exchange.unjudged({fault.reason: answer.rows() if fault.queries is None else fault.queries})

    def _fail(self, counter: str, message: str, error: Exception) -> None:
        self.counters.add(counter)
        _log.warning(counter, message, error=error)
