"""The settings of the service: one YAML file and ``WEIRGUARD_SECTION__KEY`` environment variables, which win.

A setting that does not exist is refused, and every error names the key and where it was set.
Settings are frozen: a change needs a restart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from detector.contracts.errors import ConfigurationError
from detector.runtime.sections import (
    DetectionSettings,
    KafkaSettings,
    LoggingSettings,
    MetricsSettings,
    PolicySettings,
    PrincipalSettings,
    SourcesSettings,
    WorkerSettings,
)
from detector.runtime.settings_errors import refusals
from detector.runtime.settings_file import read_file
from detector.runtime.settings_keys import Key, leaves
from detector.runtime.settings_variables import DELIMITER, FILE_VARIABLE, PREFIX, refuse_wrong_variables, variable_of
from detector.runtime.tls import tls_context

__all__ = ["FILE_VARIABLE", "Settings", "load_settings", "sources"]


class Settings(BaseSettings):
    """All settings. Keyword arguments are what the file says; environment variables win over them."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    """The Kafka cluster."""
    worker: WorkerSettings = WorkerSettings()
    """One worker process."""
    detection: DetectionSettings = DetectionSettings()
    """The detection core."""
    policy: PolicySettings = PolicySettings()
    """From verdict to decision."""
    principals: PrincipalSettings = PrincipalSettings()
    """Who is who."""
    sources: SourcesSettings = SourcesSettings()
    """Log files that commands read."""
    metrics: MetricsSettings = MetricsSettings()
    """Metrics and health."""
    logging: LoggingSettings = LoggingSettings()
    """The log."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then the file; nothing else is read."""
        return env_settings, init_settings

    def redacted(self) -> dict[str, Any]:
        """All settings as plain data that is safe to show: secrets are asterisks."""
        return self.model_dump(mode="json")


def load_settings(path: Path | None = None) -> Settings:
    """Settings from the file at ``path``, or that WEIRGUARD_CONFIG names, or none; environment variables win.

    Raises ConfigurationError that names every wrong key, where it was set, and its value unless it may be a secret.
    The errors behind it are left out on purpose: they hold the values.
    """
    path = path or _named_file()
    data = read_file(path) if path else {}
    refuse_wrong_variables(Settings)
    try:
        settings = Settings(**data)
    except ValidationError as error:
        raise ConfigurationError(refusals(error, Settings, path)) from None
    except SettingsError:
        raise ConfigurationError("an environment variable is not the JSON its key needs") from None
    _check_together(settings)
    settings.kafka.client_arguments()
    tls_context(settings.kafka)
    settings.principals.hasher()
    if settings.sources.map:  # readers of logs take a while to import, and the service reads none
        from detector.sources.mapping import sources_of

        sources_of(settings.sources.map, "sources.map")
    return settings


def _check_together(settings: Settings) -> None:
    """Raises ConfigurationError for settings that contradict each other across sections."""
    batch, record = settings.worker.microbatch_bytes, settings.kafka.state_record_bytes
    if batch > record:
        raise ConfigurationError(
            f"worker.microbatch_bytes is {batch} and kafka.state_record_bytes is {record}: what a micro-batch changes "
            "is logged as one state record; lower the first or raise the second"
        )


def sources(path: Path | None = None) -> dict[str, str]:
    """Where each setting comes from, by dotted key: a variable's name, the file's, or "default"."""
    path = path or _named_file()
    data = read_file(path) if path else {}
    return {".".join(key): _source(key, data, path) for key in leaves(Settings)}


def _named_file() -> Path | None:
    name = os.environ.get(FILE_VARIABLE)
    return Path(name) if name else None


def _source(key: Key, data: Mapping[str, Any], path: Path | None) -> str:
    variable = variable_of(key)
    if variable:
        return variable
    found: Any = data
    for part in key:
        if not isinstance(found, dict) or part not in found:
            return "default"
        found = found[part]
    return str(path)
