"""The sections of the settings: the name, unit, default and meaning of each key, and what they mean for TLS."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FilePath, SecretStr, field_validator, model_validator

from detector.contracts.codecs.limits import DIMENSIONS
from detector.contracts.errors import ConfigurationError
from detector.contracts.findings import BudgetHolder, Family, Mode, Severity, WhenStale
from detector.contracts.principals import PrincipalHasher
from detector.contracts.topics import Topics
from detector.runtime.text import read_text

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0.05, le=86_400)]
"""Durations of a process: clients count milliseconds, and in 32 bits."""
Pages = Annotated[int, Field(ge=128, multiple_of=32)]
Width = Annotated[int, Field(ge=1, le=DIMENSIONS)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


def _named_host(host: str) -> str:
    """Returns ``host`` if it can be looked up; Python's resolver raises other errors for names that cannot."""
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("it is not a host name: a part between its dots is empty or too long") from None
    return host


Host = Annotated[str, Field(pattern=r"^[^\s/@]+$"), AfterValidator(_named_host)]


class Section(BaseModel):
    """A frozen part of the settings without room for unknown keys, infinities or NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class KafkaSettings(Section):
    """The Kafka cluster. Security settings have kafka-python's names and meaning."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """Comma-separated host:port list of some brokers."""
    embedded: bool = False
    """Whether bootstrap_servers is the embedded broker of the demo and the tests; never for production."""
    prefix: Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9-]{0,99}$")] = "weirguard"
    """Start of every topic name, and the id of the consumer group."""
    partitions: Annotated[int, Field(ge=1, le=100_000)] = 12
    """Partitions of queries, commands, decisions and the state log; the most workers that can share the work."""
    replication_factor: Annotated[int, Field(ge=1, le=2**15 - 1)] = 1
    """Replicas of each topic that is created; 3 in production."""
    query_record_bytes: Annotated[int, Field(ge=16_384, le=16_777_216)] = 1_048_576
    """max.message.bytes of the queries topic."""
    state_record_bytes: Annotated[int, Field(ge=1, le=67_108_864)] = 8_388_608
    """max.message.bytes of the state log; at least four times query_record_bytes. A larger record comes in parts."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """The protocol of connections to the brokers."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """Needed when security_protocol starts with SASL."""
    sasl_plain_username: str | None = None
    """User name for any of the mechanisms."""
    sasl_plain_password: SecretStr | None = None
    """Password for any of the mechanisms; better in sasl_plain_password_file."""
    sasl_plain_password_file: FilePath | None = None
    """File that holds the password; its trailing newline is dropped."""
    ssl_cafile: FilePath | None = None
    """PEM file of the authorities to trust; the system's when not set."""
    ssl_certfile: FilePath | None = None
    """PEM file of the client certificate, for mutual TLS."""
    ssl_keyfile: FilePath | None = None
    """PEM file of the client certificate's private key."""
    ssl_password: SecretStr | None = None
    """Passphrase of ssl_keyfile; better in ssl_password_file."""
    ssl_password_file: FilePath | None = None
    """File that holds the passphrase of ssl_keyfile."""
    ssl_check_hostname: bool = True
    """Whether a broker's certificate must name the host that the client connects to."""

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers_have_ports(cls, value: str) -> str:
        """Checks that each server has a port. The message shows no server, which may contain a user and a password."""
        for at, server in enumerate(value.split(","), start=1):
            found = re.fullmatch(r"\s*(\[[0-9a-fA-F:]+\]|[^\s:\[\]@/]+):(\d{1,5})\s*", server)
            if not found or not 0 < int(found[2]) < 65_536:
                raise ValueError(f"server {at} of the list is not host:port with a port from 1 to 65535")
            _named_host(found[1])
        return value

    @model_validator(mode="after")
    def _state_records_are_large_enough(self) -> Self:
        if self.state_record_bytes < 4 * self.query_record_bytes:
            raise ValueError("state_record_bytes must be at least four times query_record_bytes")
        return self

    @model_validator(mode="after")
    def _security_is_complete(self) -> Self:
        sasl, tls = self.security_protocol.startswith("SASL"), self.security_protocol.endswith("SSL")
        password = self.sasl_plain_password or self.sasl_plain_password_file
        if sasl and not (self.sasl_mechanism and self.sasl_plain_username and password):
            raise ValueError(f"{self.security_protocol} needs sasl_mechanism, sasl_plain_username and a password")
        if not sasl and (self.sasl_mechanism or self.sasl_plain_username or password):
            raise ValueError(f"sasl settings have no effect with security_protocol {self.security_protocol}")
        files = self.ssl_cafile or self.ssl_certfile or self.ssl_keyfile
        passphrase = self.ssl_password or self.ssl_password_file
        if not tls and (files or passphrase or not self.ssl_check_hostname):
            raise ValueError(f"ssl settings have no effect with security_protocol {self.security_protocol}")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ValueError("ssl_keyfile has no effect without ssl_certfile")
        if passphrase and not self.ssl_certfile:
            raise ValueError("ssl_password has no effect without ssl_certfile")
        return self

    @property
    def topics(self) -> Topics:
        """The names of all topics."""
        return Topics(self.prefix)

    @property
    def servers(self) -> list[str]:
        """``bootstrap_servers`` as a list of host:port."""
        return [server.strip() for server in self.bootstrap_servers.split(",")]

    def client_arguments(self) -> dict[str, Any]:
        """Returns keyword arguments for any kafka-python client. Raises ConfigurationError for an unreadable secret."""
        arguments: dict[str, Any] = {"bootstrap_servers": self.servers, "security_protocol": self.security_protocol}
        if self.security_protocol.startswith("SASL"):
            arguments["sasl_mechanism"] = self.sasl_mechanism
            arguments["sasl_plain_username"] = self.sasl_plain_username
            arguments["sasl_plain_password"] = secret(self, "kafka", "sasl_plain_password")
        if self.security_protocol.endswith("SSL"):
            arguments["ssl_check_hostname"] = self.ssl_check_hostname
            arguments["ssl_password"] = secret(self, "kafka", "ssl_password")
            for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
                path: Path | None = getattr(self, name)
                arguments[name] = str(path) if path else None
        return arguments


class WorkerSettings(Section):
    """One worker process."""

    microbatch_bytes: Count = 1_048_576
    """The most bytes of query records in one micro-batch; at most kafka.state_record_bytes."""
    dead_letters_per_minute: Count = 1000
    """The most dead letters of one reason that a partition keeps in a minute; beyond it a sample. All are counted."""
    checkpoint_bytes: Count = 33_554_432
    """Bytes of state log, per partition, from one checkpoint round to the next."""
    session_timeout_seconds: Seconds = 10.0
    """After this long without a heartbeat, a worker's partitions go to the others."""
    heartbeat_seconds: Seconds = 1.0
    """Between two heartbeats; a third of session_timeout_seconds at most."""
    commit_seconds: Seconds = 1.0
    """Between two commits of source offsets."""
    stall_seconds: Seconds = 60.0
    """A worker that is behind and makes no progress for this long is not live, and is restarted."""
    restart_first_seconds: Seconds = 0.5
    """Wait before a worker that stopped is started again; doubled with each stop that follows soon."""
    restart_most_seconds: Seconds = 30.0
    """The longest that the supervisor waits before a restart."""

    @model_validator(mode="after")
    def _durations_agree(self) -> Self:
        """Checks the durations: a short stall would stop workers that only wait for an assignment or a commit."""
        if 3 * self.heartbeat_seconds > self.session_timeout_seconds:
            raise ValueError("heartbeat_seconds must be at most a third of session_timeout_seconds")
        if self.stall_seconds < self.session_timeout_seconds:
            raise ValueError("stall_seconds must be at least session_timeout_seconds: an assignment may take that long")
        if self.stall_seconds < 2 * self.commit_seconds:
            raise ValueError("stall_seconds must be at least twice commit_seconds")
        if self.restart_most_seconds < self.restart_first_seconds:
            raise ValueError("restart_most_seconds must be at least restart_first_seconds")
        return self


class PradaSettings(Section):
    """The distribution test of nearest-neighbour distances; all but delta is for the default mode alone."""

    delta: Fraction = 0.90
    """A Shapiro-Wilk W below this is suspicious."""
    window: Annotated[Pages, Field(le=4_096)] = 512
    """The number of most recent distances that are tested."""
    check_every: Count = 10
    """Distances between two tests."""
    consecutive_checks: Count = 2
    """The number of suspicious tests in a row that flags a principal."""
    repeat_memory: Annotated[Pages, Field(le=65_536)] = 256
    """The number of last queries inside the growing set that are remembered, to recognise exact repeats."""

    @model_validator(mode="after")
    def _every_distance_is_tested(self) -> Self:
        if self.check_every > self.window:
            raise ValueError("check_every must be at most window, or distances between two tests are never tested")
        return self


class LimitSettings(Section):
    """Limits of the state; beyond them the least suspicious principals are evicted and counted."""

    principals: Count = 50_000
    """Principals per partition."""
    history_queries: Annotated[int, Field(ge=2)] = 2048
    """Own queries kept per principal."""
    history_bytes: Annotated[int, Field(ge=8)] = 2_097_152
    """Bytes of own queries kept per principal."""


class DetectionSettings(Section):
    """The detection core."""

    mode: Literal["default", "compatible"] = "default"
    """compatible follows the published PRADA reference verdict for verdict; default avoids its known faults."""
    prada: PradaSettings = PradaSettings()
    """The prada signal."""
    limits: LimitSettings = LimitSettings()
    """Bounds of state."""
    outputs: dict[str, Literal["probability", "score", "label", "probabilities", "none"]] = Field(default_factory=dict)
    """What the outputs of a model are, or with the name * those of all others, until there is a profile that knows; not
    set: what they look like."""
    dimensions: dict[str, Width] = Field(default_factory=dict)
    """Number of features by model; a query with another is unjudged. Not set: that of the profile, else of most of the
    principal's own queries."""
    profiles: tuple[FilePath, ...] = ()
    """Profiles from weirguard calibrate, one for each model version."""
    group_bytes: Annotated[int, Field(ge=8, le=17_179_869_184)] = 33_554_432
    """Bytes of recent queries of each model version among which links between accounts are found."""


class RungSettings(Section):
    """A rung of a rule: what applies after some more queries of a suspect."""

    action: str
    """tag, slow, round, label_only, perturb, spec_noise or refuse."""
    parameters: dict[str, float | str] = Field(default_factory=dict)
    """Parameters of the action, such as queries_per_second, response or digits."""
    after_queries: Annotated[int, Field(ge=0)] = 0
    """The number of further queries of a suspect from which it applies."""
    seconds: Annotated[float, Field(ge=1, le=10 * 365 * 86_400)] | None = None
    """How long its decisions last without renewal; not set: decision_seconds."""
    fallback: Literal["none", "slow", "refuse"] | None = None
    """What gates do that do not know the action: not set, slow for those that change answers and none for tag."""


class RuleSettings(Section):
    """A rule of the ladder. It applies to suspects that match all of its fields; a field that is not set matches
    any."""

    name: str
    """The rule's name, for messages."""
    models: tuple[str, ...] = ()
    """Models."""
    signals: tuple[str, ...] = ()
    """Signals, or group for all groups, or unjudged."""
    families: tuple[Family, ...] = ()
    """Families of evidence."""
    severities: tuple[Severity, ...] = ()
    """Severities of the alert."""
    group_size: Annotated[int, Field(ge=0)] = 0
    """The least number of accounts in a group."""
    exposure_percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    """The least share of the model that the principal has learned, in percent."""
    calibrated: bool | None = None
    """Whether a profile of honest traffic judged."""
    mode: Mode = "enforce"
    """observe keeps gates from acting on this rule's decisions."""
    review: bool = False
    """Whether decisions ask for a reviewer."""
    rungs: Annotated[tuple[RungSettings, ...], Field(min_length=1)]
    """From the mildest to the harshest; the first after 0 queries."""


class BudgetSettings(Section):
    """How much accounts may learn of a model, in effective queries: near repeats cost next to nothing. It covers the
    accounts that match all fields; a field that is not set matches any."""

    name: str
    """The budget's name, for messages."""
    per_window: Positive | None = None
    """Effective queries in a window."""
    window_seconds: Annotated[float, Field(ge=60, le=10 * 365 * 86_400)] = 86_400.0
    """The length of a window."""
    for_life: Positive | None = None
    """Effective queries in all."""
    exposure_percent: Annotated[float, Field(gt=0, le=100)] | None = None
    """Percent of the model, by the larger of the two meters; only per account."""
    per: Literal["account"] | BudgetHolder = "account"
    """Who has the budget: each account, or all accounts of an organisation, of a group, or that it covers (tier)."""
    models: tuple[str, ...] = ()
    """Models."""
    principals: tuple[str, ...] = ()
    """Accounts, such as those of a tier."""
    organisations: tuple[str, ...] = ()
    """Organisations, as the queries' log names them."""


class JointExposureSettings(Section):
    """How much of a model the accounts may learn together that have learned most."""

    accounts: Annotated[int, Field(ge=1, le=1_000)] = 5
    """The number of accounts that might share a theft."""
    limit_percent: Annotated[float, Field(gt=0, lt=100)] | None = None
    """The share of the profile's reference that they may reach; beyond it those who added most are answered by the
    ladder's rule for a budget. Not set: nobody is."""


class PolicySettings(Section):
    """What follows from a verdict. Of the modes that apply, the most cautious one wins, which is observe."""

    mode: Mode = "observe"
    """observe publishes decisions that gates do not act on; enforce has them act."""
    model_modes: dict[str, Mode] = Field(default_factory=dict)
    """Mode by model."""
    signal_modes: dict[str, Mode] = Field(default_factory=dict)
    """Mode by signal; group stands for all groups, unjudged for queries that cannot be judged."""
    enforce_uncalibrated: bool = False
    """Whether verdicts that rest on no profile of honest traffic may enforce."""
    decision_seconds: Annotated[float, Field(ge=1, le=10 * 365 * 86_400)] = 3600.0
    """How long a decision lasts without renewal."""
    cool_down_seconds: Annotated[float, Field(ge=0, le=10 * 365 * 86_400)] = 0.0
    """A principal who is a suspect again within this time after their last decision continues at the same rung."""
    ladder: tuple[RuleSettings, ...] = ()
    """Rules in order, of which the first that matches holds. Not set: content alone slows, all else also refuses, by
    the next two settings."""
    slow_queries_per_second: Positive = 1.0
    """The rate of a slowed principal, in each gate process; not with ladder."""
    refuse_after_queries: Count = 50
    """The number of further queries of a slowed suspect that turns slow into refuse; not with ladder."""
    unjudged_queries: Annotated[int, Field(ge=1, le=150)] = 30
    """A principal is a suspect once this many of their last 150 to 300 answered queries cannot be judged."""
    budgets: tuple[BudgetSettings, ...] = ()
    """How much accounts may learn of a model; of those with the same per, the first that covers an account holds."""
    notice_percent: Annotated[float, Field(gt=0, le=100)] = 80.0
    """The used share of a budget, in percent, from which on gates tell the account how much is left."""
    joint_exposure: JointExposureSettings = JointExposureSettings()
    """What accounts may learn together."""
    allowlist: Path | None = None
    """File of principals whose decisions are withheld; their alerts are published. While it cannot be read, a worker
    only observes. `weirguard allowlist` changes the list of a running detector."""

    @model_validator(mode="after")
    def _one_ladder(self) -> Self:
        old = sorted({"slow_queries_per_second", "refuse_after_queries"} & self.model_fields_set)
        if self.ladder and old:
            raise ValueError(
                f"{' and '.join(old)} cannot be used with ladder; write them into a rule's rungs, such as "
                "{action: slow, parameters: {queries_per_second: 1}} and {action: refuse, after_queries: 50}"
            )
        return self


class PrincipalSettings(Section):
    """The hash that turns API keys into principals."""

    hash_key: SecretStr | None = None
    """Key of the hash that replaces an API key, the same for logger, gate and commands; better in hash_key_file."""
    hash_key_file: FilePath | None = None
    """File that holds the key of the hash."""

    def hasher(self) -> PrincipalHasher:
        """Returns the hasher of API keys. Raises ConfigurationError for an unreadable or too long key."""
        key = (secret(self, "principals", "hash_key") or "").encode()
        if len(key) > 64:
            raise ConfigurationError("principals.hash_key is longer than the 64 bytes that BLAKE2b takes; shorten it")
        return PrincipalHasher(key)


PrincipalSource = Annotated[str, Field(pattern=r"^(bearer|api-key(:[A-Za-z0-9-]+)?|header:[A-Za-z0-9-]+)$")]


class GateSettings(Section):
    """The gate as a service for proxies, weirguard gate serve."""

    host: Host = "127.0.0.1"
    """Address to listen on, which only your proxies may reach."""
    port: Annotated[int, Field(ge=0, le=65535)] = 9109
    """TCP port of HTTP; 0 takes a free one."""
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """TCP port of gRPC, for Envoy alone; not set: none."""
    routes: dict[str, str] = Field(default_factory=dict)
    """Model by path, as your model server's routes have it; the first that matches counts, and other paths pass."""
    kserve: bool = False
    """Whether paths as KServe has them name a model themselves; for servers that refuse unknown models."""
    principal: tuple[PrincipalSource, ...] = ()
    """What authenticates a request, in order: bearer, api-key or api-key:HEADER, or header:HEADER, an account id that
    your proxy sets and removes from incoming requests."""
    max_staleness_seconds: Seconds = 60.0
    """After this long without contact to Kafka, when_stale applies."""
    when_stale: dict[str, WhenStale] = Field(default_factory=dict)
    """allow or refuse by model, or with the name * for all others, while the current decisions are not known; not set:
    allow."""
    report_seconds: Seconds = 30.0
    """Between two reports of what the gate did."""


class MetricsSettings(Section):
    """The port of /metrics, /livez and /readyz."""

    host: Host = "127.0.0.1"
    """Address to listen on; 0.0.0.0 in a container."""
    port: Annotated[int, Field(ge=0, le=65535)] = 9108
    """TCP port; 0 takes a free one."""
    models: Count = 50
    """The number of models with a metric label of their own; further models are counted as "other"."""


class LoggingSettings(Section):
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe message that is written."""
    format: Literal["json", "console"] = "json"
    """One JSON object a line, or coloured text for people."""


class SourcesSettings(Section):
    """Log files that commands read."""

    map: dict[str, str] = Field(default_factory=dict)
    """The columns of each role, as in the option --map, which wins; for example principal: user_id."""


def secret(section: Section, section_name: str, key: str) -> str | None:
    """Returns the secret ``key`` of ``section``, from itself or from the file in ``key_file``; None if neither is set.

    Raises ConfigurationError when both are set, or the file cannot be read or is empty.
    """
    value: SecretStr | None = getattr(section, key)
    path: Path | None = getattr(section, f"{key}_file")
    name = f"{section_name}.{key}"
    if path is None:
        return value.get_secret_value() if value else None
    if value is not None:
        raise ConfigurationError(f"{name} and {name}_file are both set; keep one")
    text = read_text(path, f"{name}_file").rstrip("\r\n")
    if not text:
        raise ConfigurationError(f"{name}_file: {path} is empty")
    return text


def tls_context(kafka: KafkaSettings) -> ssl.SSLContext | None:
    """Returns the TLS context for connections to the brokers, or None without TLS. Raises ConfigurationError if a file
    holds no certificate, or the key cannot be opened or does not match.
    """
    if not kafka.security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None)
    except OSError as error:
        raise ConfigurationError(f"kafka.ssl_cafile: {kafka.ssl_cafile} holds no certificates: {error}") from None
    context.check_hostname = kafka.ssl_check_hostname
    if kafka.ssl_certfile:
        passphrase = secret(kafka, "kafka", "ssl_password") or ""  # with None OpenSSL would ask at the terminal
        try:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile, passphrase)
        except OSError as error:
            raise ConfigurationError(
                "kafka.ssl_certfile, ssl_keyfile, ssl_password: there is no certificate, or no key that fits it and "
                f"opens with the passphrase, in {kafka.ssl_certfile}, {kafka.ssl_keyfile or 'the same file'}: {error}"
            ) from None
    return context
