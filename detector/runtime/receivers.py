"""The settings of ``weirguard notify``: the receivers, and how to reach them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, FilePath, SecretStr, model_validator

from detector.contracts.findings import Severity
from detector.contracts.principals import NAME_CHARACTERS
from detector.runtime.sections import Count, Host, Seconds, Section

ReceiverName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,49}$")]
"""A part of a consumer group's name, and a metric label."""
ModelName = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS)]


class WebhookSettings(Section):
    """An HTTP endpoint that accepts JSON."""

    url: SecretStr | None = None
    """Where to post, http or https, with user:password@ for basic authentication; better in url_file."""
    url_file: FilePath | None = None
    """File that holds the URL: those of chat services are secrets."""
    signing_key: SecretStr | None = None
    """Key of the signature in the header webhook-signature; better in signing_key_file. Not set: no signature."""
    signing_key_file: FilePath | None = None
    """File that holds the key of the signature."""
    token: SecretStr | None = None
    """A secret that the template may write, such as a routing key; better in token_file."""
    token_file: FilePath | None = None
    """File that holds the token."""
    body: Literal["notification", "ocsf"] = "notification"
    """What is posted: the notification, or an OCSF Detection Finding."""
    template: FilePath | None = None
    """Jinja2 template of the JSON that is posted instead."""
    ssl_cafile: FilePath | None = None
    """PEM file of the authorities to trust; the system's when not set."""

    @model_validator(mode="after")
    def _one_address_and_one_body(self) -> Self:
        _require_url(self.url, self.url_file)
        if self.template and self.body != "notification":
            raise ValueError("template and body are both set; a template may write {{ finding | tojson }}")
        if (self.token or self.token_file) and not self.template:
            raise ValueError("token has no effect without a template that writes it")
        return self


class AlertmanagerSettings(Section):
    """A Prometheus Alertmanager, by its API of version 2."""

    url: SecretStr | None = None
    """Its address, such as http://alertmanager:9093, with user:password@ for basic authentication."""
    url_file: FilePath | None = None
    """File that holds the address."""
    firing_seconds: Seconds = 86_400.0
    """How long an alert fires after it was last sent."""
    ssl_cafile: FilePath | None = None
    """PEM file of the authorities to trust; the system's when not set."""

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        _require_url(self.url, self.url_file)
        return self


class SyslogSettings(Section):
    """A syslog server that accepts RFC 5424."""

    host: Host
    """Its name or address."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 514
    """Its port; 6514 is usual for tls."""
    transport: Literal["udp", "tcp", "tls"] = "tcp"
    """udp may lose messages without a sign."""
    ssl_cafile: FilePath | None = None
    """PEM file of the authorities to trust; the system's when not set."""
    ssl_certfile: FilePath | None = None
    """PEM file of the client certificate, with its key if ssl_keyfile is not set."""
    ssl_keyfile: FilePath | None = None
    """PEM file of the client certificate's private key."""

    @model_validator(mode="after")
    def _tls_is_used(self) -> Self:
        if self.transport != "tls" and (self.ssl_cafile or self.ssl_certfile or self.ssl_keyfile):
            raise ValueError(f"ssl settings have no effect with transport {self.transport}")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ValueError("ssl_keyfile has no effect without ssl_certfile")
        return self


class OcsfSettings(Section):
    """OCSF Detection Findings, one JSON object a line."""

    path: str = "-"
    """File that lines are appended to; - is standard output."""


class ReceiverSettings(Section):
    """One receiver: its kind, and which notifications it gets. Exactly one of the kinds is set."""

    least_severity: Severity = "low"
    """Alerts of a lower severity are left out."""
    models: tuple[ModelName, ...] = ()
    """Only alerts of these models, and so no dead letters; none stands for all."""
    webhook: WebhookSettings | None = None
    alertmanager: AlertmanagerSettings | None = None
    syslog: SyslogSettings | None = None
    ocsf: OcsfSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _kinds_without_settings(cls, data: object) -> object:
        """Reads ``ocsf:`` without a value as the kind with its defaults."""
        if not isinstance(data, dict):
            return data
        return {name: {} if name in KINDS and value is None else value for name, value in data.items()}

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self.model_fields_set & KINDS) != 1:
            raise ValueError(f"set exactly one of {', '.join(sorted(KINDS))}")
        return self

    @property
    def kind(self) -> str:
        """The name of the section that is set."""
        return next(iter(self.model_fields_set & KINDS))


KINDS = ReceiverSettings.model_fields.keys() - {"least_severity", "models"}
"""The kinds of receivers."""


class NotifySettings(Section):
    """The receivers of ``weirguard notify``."""

    receivers: dict[ReceiverName, ReceiverSettings] = Field(default_factory=dict)
    """Each receiver by a name of your choice; another name is another consumer group, which begins anew."""
    refused_file: Path | None = None
    """File that keeps what a receiver refused for good, one JSON object a line. Not set: the log alone says so."""
    letters_window_seconds: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """Dead letters are counted by reason in windows of this length."""
    letters_per_window: Count = 10
    """This many dead letters of a reason in one window give one notification."""


def _require_url(url: SecretStr | None, file: FilePath | None) -> None:
    if (url is None) == (file is None):
        raise ValueError("set url or url_file, and not both")
