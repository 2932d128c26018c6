"""Decides for a proxy whether a request may pass, with the target, identity and gate of a middleware."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from detector.contracts.errors import ConfigurationError
from detector.contracts.principals import PrincipalHasher
from detector.runtime.sections import GateSettings, KafkaSettings
from detector.runtime.settings import Settings
from detector.serving import ApiKey, Bearer, Connection, Gate, Header, Identity, QueryLogger
from detector.serving.denial import Denial, Notice, denial_of, notice_of
from detector.serving.identity import IdentitySource
from detector.serving.metrics import MetricSource
from detector.serving.middleware import ModelMiddleware
from detector.serving.targets import FindTarget, Scope, Target, kserve_routes, route

_VERSION = "unknown"
"""Placeholder for the model's version, which no decision names."""


class Authorizer(ModelMiddleware):
    """Asks the gate for a proxy; refusals are counted for the detector, as in a middleware. A proxy does not give the
    number of rows, so a slowed principal is charged one per request.
    """

    @property
    def gate(self) -> Gate:
        return self._gate

    @property
    def parts(self) -> tuple[MetricSource, ...]:
        """The objects with counters."""
        return self._gate, self._logger, self._identity, self

    def start(self) -> None:
        """Starts to read the decisions. Returns at once."""
        self._gate.start()
        self._logger.start()

    def close(self) -> None:
        """Sends the counts and the gate's last report."""
        self._logger.close()
        self._gate.close()

    def check(self, method: str, path: str, headers: Iterable[tuple[str, str]]) -> tuple[Denial | None, Notice]:
        """Returns what to answer instead of the model, or None if the request may pass, and then the headers that its
        answer gets in addition.

        ``path`` as the client sent it, with escapes and query. A header with commas counts as several, as some proxies
        join those of one name: credentials that differ make the request ambiguous.
        """
        exchange = self._open(_scope(method, path, headers))
        if exchange is None or exchange.verdict.allowed:
            return None, [] if exchange is None else notice_of(exchange.verdict)
        self._count_refusal(exchange)
        return denial_of(exchange.verdict), []


def _scope(method: str, path: str, headers: Iterable[tuple[str, str]]) -> Scope:
    decoded = unquote_to_bytes(path.partition("?")[0].partition("#")[0]).decode("utf-8", "replace")
    pairs = [
        (name.lower().encode("latin-1", "replace"), part.strip().encode("utf-8", "surrogateescape"))
        for name, value in headers
        for part in value.split(",")
    ]
    return {"type": "http", "method": method, "path": decoded, "root_path": "", "headers": pairs}


def new_authorizer(settings: Settings) -> Authorizer:
    """Returns the authorizer of ``settings``. Raises ConfigurationError if they name no model, or no source of
    principals."""
    options = settings.gate
    if not options.routes and not options.kserve:
        raise ConfigurationError("gate.routes: name the paths of your models, or set gate.kserve")
    if not options.principal:
        raise ConfigurationError("gate.principal: name what your proxy authenticates requests by, such as api-key")
    connection = _connection(settings.kafka)
    gate = Gate(
        connection,
        max_staleness_seconds=options.max_staleness_seconds,
        when_stale=options.when_stale,
        report_seconds=options.report_seconds,
    )
    return Authorizer(
        None,
        logger=QueryLogger(connection),
        gate=gate,
        target=find_target_of(options),
        identity=identity_of(options, settings.principals.hasher()),
    )


def _connection(kafka: KafkaSettings) -> Connection:
    return Connection(",".join(kafka.servers), kafka.topics, kafka.client_arguments())


def find_target_of(settings: GateSettings) -> FindTarget:
    """Returns the first target of the routes, in their order, that matches, then those of KServe's paths."""
    found = [route(path, model, _VERSION) for path, model in settings.routes.items()]
    if settings.kserve:
        found.append(kserve_routes(_VERSION))

    def find(scope: Scope) -> Target | None:
        return next((target for find in found if (target := find(scope)) is not None), None)

    return find


def identity_of(settings: GateSettings, hasher: PrincipalHasher) -> Identity:
    """Returns the identity of the sources that ``gate.principal`` names."""
    return Identity([_source(name) for name in settings.principal], hasher)


def _source(name: str) -> IdentitySource:
    kind, _, header = name.partition(":")
    if kind == "bearer":
        return Bearer()
    if kind == "header":
        return Header(header)
    return ApiKey(header) if header else ApiKey()
