"""Every setting reaches what it names: changed alone, it changes what a worker, or its supervisor, is built from.

``REACH`` has an entry for each leaf; a new leaf without one fails.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest
import structlog
import typer
from aiohttp import web
from faust.transport.consumer import ThreadDelegateConsumer
from faust.transport.drivers import aiokafka as driver

from detector.cli import service
from detector.cli.files import log_reader
from detector.contracts.errors import ConfigurationError
from detector.gateway import service as gate_service
from detector.gateway.authorizer import new_authorizer
from detector.notify.service import new_receivers, new_subscriptions
from detector.notify.subscription import Subscription
from detector.policy.allowlist import Allowlist
from detector.runtime import settings as loading
from detector.runtime.metrics import new_metrics
from detector.runtime.settings import Settings, leaves
from detector.stream import supervisor, topics, worker
from detector.stream.app import credentials
from detector.stream.detection_config import policy_config
from tests.core.honest import crowd
from tests.core.profiles import profile
from tests.gateway.stage import fed_authorizer
from tests.serving.doubles import FedGate

SASL = {
    "kafka.security_protocol": "SASL_PLAINTEXT",
    "kafka.sasl_mechanism": "PLAIN",
    "kafka.sasl_plain_username": "me",
}
PASSWORD = {"kafka.sasl_plain_password": "one"}
TLS = {"kafka.security_protocol": "SSL"}
LAKE: dict[str, Any] = {"notify.receivers": {"lake": {"ocsf": {}}}}
CERTIFICATE = {**TLS, "kafka.ssl_certfile": "FILE:one.pem"}


@dataclass(frozen=True)
class Reach:
    """``value``: another than the default, or than that of ``base``; ``look``: at what is built from it."""

    value: Any
    look: Callable[[Any], Any]
    base: dict[str, Any] = field(default_factory=dict)


def _client(built: Any) -> Any:
    """What kafka-python and Faust are given to be let in."""
    kafka = built.settings.kafka
    given = credentials(kafka)
    tls = getattr(given, "ssl_context", None) or getattr(given, "context", None)
    names = [getattr(given, name, None) for name in ("protocol", "mechanism", "username", "password")]
    tls_facts = tls and (tls.check_hostname, len(tls.get_ca_certs()))
    return kafka.client_arguments(), names, tls_facts


def _exemptions(built: Any) -> Allowlist:
    allowlist: Allowlist = built.policy.allowlist
    return allowlist


def _conf(name: str) -> Callable[[Any], Any]:
    return lambda built: getattr(built.app.conf, name)


GATE = {"gate.kserve": True, "gate.principal": ["bearer"]}
ROUTED = {"gate.routes": {"/x": "m"}, "gate.principal": ["bearer"]}


def _gate(built: Any) -> Any:
    return new_authorizer(built.settings)


def _asked(path: str) -> dict[str, Any]:
    return {"path": path}


def _listening(built: Any) -> Any:
    """Where the gate service would listen."""
    with pytest.MonkeyPatch.context() as patched:
        found: list[Any] = []
        patched.setattr(web.TCPSite, "__init__", lambda *given: found.extend(given[2:]))
        patched.setattr(web.TCPSite, "start", lambda _: asyncio.sleep(0))
        patched.setattr(web.ServerRunner, "addresses", [(0, 0)])

        @asynccontextmanager
        async def answering(_: Any, settings: Any) -> AsyncIterator[int]:
            found.append(settings.grpc_port)
            yield 0

        patched.setattr(gate_service, "answering", answering)
        asyncio.run(_listen(built.settings.gate))
        return found


async def _listen(settings: Any) -> None:
    async with gate_service.listening(fed_authorizer(FedGate()), settings):
        pass


REACH: dict[str, Reach] = {
    "kafka.bootstrap_servers": Reach("b:1,c:2", lambda built: (_client(built), built.app.conf.broker, built.servers)),
    "kafka.embedded": Reach(True, lambda built: built.highwaters),
    "kafka.prefix": Reach("shop", lambda built: ([one.name for one in built.shapes], built.app.conf.id)),
    "kafka.partitions": Reach(
        3, lambda built: ([one.partitions for one in built.shapes], built.app.conf.topic_partitions)
    ),
    "kafka.replication_factor": Reach(3, lambda built: built.replicas),
    "kafka.query_record_bytes": Reach(500_000, lambda built: [dict(one.config) for one in built.shapes]),
    "kafka.state_record_bytes": Reach(
        9_000_000, lambda built: ([dict(one.config) for one in built.shapes], built.app.conf.producer_max_request_size)
    ),
    "kafka.security_protocol": Reach("SSL", _client),
    "kafka.sasl_mechanism": Reach("SCRAM-SHA-512", _client, SASL | PASSWORD),
    "kafka.sasl_plain_username": Reach("you", _client, SASL | PASSWORD),
    "kafka.sasl_plain_password": Reach("two", _client, SASL | PASSWORD),
    "kafka.sasl_plain_password_file": Reach("FILE:two", _client, SASL | {"kafka.sasl_plain_password_file": "FILE:one"}),
    "kafka.ssl_cafile": Reach("FILE:one.pem", _client, TLS),
    "kafka.ssl_certfile": Reach("FILE:one.pem", _client, TLS),
    "kafka.ssl_keyfile": Reach("FILE:one.key", _client, CERTIFICATE),
    "kafka.ssl_password": Reach("opens", _client, CERTIFICATE),
    "kafka.ssl_password_file": Reach("FILE:two", _client, CERTIFICATE),
    "kafka.ssl_check_hostname": Reach(False, _client, TLS),
    "worker.microbatch_bytes": Reach(2_000, lambda built: built.manager._batching.most_bytes),
    "worker.dead_letters_per_minute": Reach(7, lambda built: built.partition._letters._limits.per_minute),
    "worker.checkpoint_bytes": Reach(2_000, lambda built: built.partition.checkpointer._round_bytes),
    "worker.session_timeout_seconds": Reach(20.0, _conf("broker_session_timeout")),
    "worker.heartbeat_seconds": Reach(2.0, _conf("broker_heartbeat_interval")),
    "worker.commit_seconds": Reach(2.0, _conf("broker_commit_interval")),
    "worker.stall_seconds": Reach(
        90.0, lambda built: (built.reporter.health.stall_seconds, built.watchdog.stall_seconds)
    ),
    "worker.restart_first_seconds": Reach(2.0, lambda built: built.backoff.after(0)),
    "worker.restart_most_seconds": Reach(0.5, lambda built: (built.backoff.after(0), built.backoff.after(0))),
    "detection.mode": Reach("compatible", lambda built: built.engine.mode),
    "detection.prada.delta": Reach(0.8, lambda built: built.engine.prada.delta),
    "detection.prada.window": Reach(256, lambda built: built.engine.prada.window),
    "detection.prada.check_every": Reach(7, lambda built: built.engine.prada.check_every),
    "detection.prada.consecutive_checks": Reach(3, lambda built: built.engine.prada.consecutive_checks),
    "detection.prada.repeat_memory": Reach(512, lambda built: built.engine.prada.repeat_memory),
    "detection.limits.principals": Reach(9, lambda built: built.engine.limits.principals),
    "detection.limits.history_queries": Reach(9, lambda built: built.engine.limits.history_queries),
    "detection.limits.history_bytes": Reach(999, lambda built: built.engine.limits.history_bytes),
    "detection.outputs": Reach({"iris": "score"}, lambda built: built.engine.outputs),
    "detection.dimensions": Reach({"iris": 4}, lambda built: built.engine.dimensions),
    "detection.profiles": Reach(
        ["FILE:one.profile"],
        lambda built: ([profile.hash for profile in built.engine.profiles], built.reporter.health.profiles),
    ),
    "detection.group_bytes": Reach(1 << 20, lambda built: built.partition.groups._nbytes),
    "policy.mode": Reach("enforce", lambda built: built.policy.mode_of("iris")),
    "policy.model_modes": Reach(
        {"iris": "observe"}, lambda built: built.policy.mode_of("iris"), {"policy.mode": "enforce"}
    ),
    "policy.signal_modes": Reach(
        {"prada": "observe"}, lambda built: built.policy.mode_of("iris", "prada"), {"policy.mode": "enforce"}
    ),
    "policy.enforce_uncalibrated": Reach(True, lambda built: built.policy.enforce_uncalibrated),
    "policy.cool_down_seconds": Reach(60.0, lambda built: built.policy.cool_down_seconds),
    "policy.budgets": Reach([{"name": "all", "for_life": 9}], lambda built: built.policy.budgets),
    "policy.notice_percent": Reach(50.0, lambda built: built.policy.notice_percent),
    "policy.joint_exposure.accounts": Reach(9, lambda built: built.partition.groups._limit),
    "policy.joint_exposure.limit_percent": Reach(50.0, lambda built: built.partition.groups._limit),
    "policy.ladder": Reach([{"name": "x", "rungs": [{"action": "tag"}]}], lambda built: built.policy.ladder),
    "policy.decision_seconds": Reach(60.0, lambda built: built.policy.decision_seconds),
    "policy.slow_queries_per_second": Reach(2.0, lambda built: built.policy.ladder),
    "policy.unjudged_queries": Reach(7, lambda built: built.policy.unjudged_queries),
    "policy.refuse_after_queries": Reach(9, lambda built: built.policy.ladder),
    "policy.allowlist": Reach("FILE:allow.toml", _exemptions),
    "principals.hash_key": Reach("k", lambda built: built.settings.principals.hasher().api_key("abc")),
    "principals.hash_key_file": Reach("FILE:one", lambda built: built.settings.principals.hasher().api_key("abc")),
    "gate.host": Reach("127.0.0.2", lambda built: _listening(built)[0]),
    "gate.port": Reach(1234, lambda built: _listening(built)[1]),
    "gate.grpc_port": Reach(1234, lambda built: _listening(built)[2:]),
    "gate.routes": Reach({"/predict": "digits"}, lambda built: _gate(built)._target(_asked("/predict")), GATE),
    "gate.kserve": Reach(
        True,
        lambda built: _gate(built)._target(_asked("/v2/models/m/infer")),
        ROUTED,
    ),
    "gate.principal": Reach(["api-key:x-key"], lambda built: _gate(built)._identity.principal({"x-key": "k"}), GATE),
    "gate.max_staleness_seconds": Reach(9.0, lambda built: _gate(built).gate.report().max_stale_seconds, GATE),
    "gate.when_stale": Reach({"digits": "refuse"}, lambda built: _gate(built).gate.report().when_stale, GATE),
    "gate.report_seconds": Reach(9.0, lambda built: _gate(built).gate.report().report_seconds, GATE),
    "sources.map": Reach({"principal": "user_id"}, lambda built: log_reader(built.settings, None).sources),
    "metrics.host": Reach("127.0.0.2", lambda built: built.listening),
    "metrics.port": Reach(1234, lambda built: built.listening),
    "metrics.models": Reach(1, lambda built: built.model_labels),
    "notify.receivers": Reach({"lake": {"ocsf": {}}}, lambda built: [*new_receivers(built.settings)]),
    "notify.refused_file": Reach("FILE:refused", lambda built: _subscription(built)._refusals is None, LAKE),
    "notify.letters_window_seconds": Reach(60.0, lambda built: _subscription(built)._rates._seconds, LAKE),
    "notify.letters_per_window": Reach(3, lambda built: _subscription(built)._rates._least, LAKE),
    "logging.level": Reach("error", lambda _: logging.getLogger().level),
    "logging.format": Reach("console", lambda built: _logged(built.capsys)),
}


def _subscription(built: Any) -> Subscription:
    return new_subscriptions(built.settings, new_metrics(1, "notify"))[0]


def _logged(capsys: pytest.CaptureFixture[str]) -> bool:
    capsys.readouterr()
    structlog.get_logger("x").error("something")
    return capsys.readouterr().err.startswith("{")


def test_every_leaf_has_an_entry() -> None:
    assert REACH.keys() == {".".join(key) for key in leaves(Settings)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What settings name: secrets, a certificate with its key, an allowlist, a profile."""
    folder = tmp_path_factory.mktemp("named")
    for name in ("one", "two"):
        (folder / name).write_text(name, encoding="utf-8")
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=one", "-days", "1"]
    made = [*request, "-keyout", str(folder / "one.key"), "-out", str(folder / "one.crt")]
    subprocess.run(made, check=True, capture_output=True)
    both = (folder / "one.crt").read_text(encoding="utf-8") + (folder / "one.key").read_text(encoding="utf-8")
    (folder / "one.pem").write_text(both, encoding="utf-8")
    entry = '[[allow]]\nprincipal = "p"\nowner = "o"\nreason = "r"\nexpires = 2030-01-01\n'
    (folder / "allow.toml").write_text(entry, encoding="utf-8")
    (folder / "one.profile").write_bytes(profile(crowd(1, rows=200)[0].features, threshold=3.0).to_bytes())
    return folder


def _settings(values: dict[str, Any], files: Path) -> Settings:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = _named(value, files)
    return Settings(**nested)


def _named(value: Any, files: Path) -> Any:
    if isinstance(value, list):
        return [_named(one, files) for one in value]
    return str(files / value.removeprefix("FILE:")) if isinstance(value, str) and value.startswith("FILE:") else value


@pytest.fixture
def build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[Settings], SimpleNamespace]]:
    """Runs worker and supervisor, but for what talks to a broker or listens, and says what they are made of."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    thread: Any = driver.AIOKafkaConsumerThread
    delegate: Any = ThreadDelegateConsumer
    for owner, names in (
        (thread, ("_create_worker_consumer", "seek_to_committed", "_highwaters")),
        (delegate, ("_getmany", "getmany")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))

    def built(settings: Settings) -> SimpleNamespace:
        seen = SimpleNamespace(settings=settings, capsys=capsys)
        _run_worker(settings, seen, monkeypatch)
        _run_supervisor(settings, seen, monkeypatch)
        seen.highwaters = thread._highwaters
        return seen

    yield built
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


def _run_worker(settings: Settings, seen: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        def __init__(self, app: Any, **_: Any) -> None:
            seen.app, seen.manager = app, app.weirguard_manager

        def execute_from_commandline(self) -> None:
            seen.partition = seen.manager._new_partition(0)

    class Probes:
        def __init__(self, metrics: Any, health: Any, host: str, port: int, failed: Any) -> None:
            seen.listening = host, port
            seen.reporter = SimpleNamespace(health=health)
            seen.model_labels = [metrics._value(worker_label, name) for name in ("a", "b")]

        def start(self) -> None: ...

    class Admin:
        def list_topics(self) -> list[str]:
            return []

        def create_topics(self, new: list[Any]) -> None:
            seen.replicas = [one.replication_factor for one in new]

    def ensure(kafka: Any) -> None:
        seen.shapes = topics.shapes(kafka)
        topics._create(Admin(), kafka, seen.shapes)

    worker_label = SimpleNamespace(name="model", values=(), most=None)
    monkeypatch.setattr(worker, "load_settings", lambda: settings)
    monkeypatch.setattr(topics, "ensure", ensure)
    monkeypatch.setattr(worker, "ProbeServer", Probes)
    monkeypatch.setattr(worker, "watch", lambda watchdog, _: setattr(seen, "watchdog", watchdog))
    monkeypatch.setattr(faust, "Worker", Worker)
    worker.main()
    judge = seen.partition.detector
    seen.engine, seen.policy = judge.engine.config, judge.ledger._policy


def _run_supervisor(settings: Settings, seen: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Supervisor:
        def __init__(self, command: Any, servers: list[str], backoff: Any) -> None:
            seen.servers, seen.backoff = servers, backoff

        def run(self) -> int:
            return 0

    monkeypatch.setattr(loading, "load_settings", lambda _: settings)
    monkeypatch.setattr(supervisor, "Supervisor", Supervisor)
    with pytest.raises(typer.Exit):
        service.run(None)


@pytest.mark.parametrize("leaf", REACH)
def test_a_setting_reaches_what_it_names(leaf: str, files: Path, build: Callable[[Settings], Any]) -> None:
    reach = REACH[leaf]
    before = reach.look(build(_settings(reach.base, files)))
    after = reach.look(build(_settings({**reach.base, leaf: reach.value}, files)))
    assert before != after


@pytest.mark.parametrize("content", ["nonsense", None])
def test_a_worker_whose_allowlist_cannot_be_read_only_observes(
    content: str | None, tmp_path: Path, build: Callable[[Settings], Any]
) -> None:
    file = tmp_path / "allow.toml"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    settings = Settings(policy={"mode": "enforce", "allowlist": str(file)})
    assert build(settings).policy.mode_of("iris") == "observe"
    with pytest.raises(ConfigurationError, match="allowlist"):
        policy_config(settings)


@pytest.mark.parametrize(("name", "meant"), [("prda", "'prada'"), ("xyzzy", "suspicion")])
def test_a_mode_of_a_signal_that_there_is_not_is_refused(name: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}.*{meant}"):
        policy_config(Settings(policy={"signal_modes": {name: "enforce"}}))
