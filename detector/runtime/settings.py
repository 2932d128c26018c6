"""The settings of the service: one YAML file and ``WEIRGUARD_SECTION__KEY`` environment variables, which win.

A setting that does not exist is refused, and every error names the key, its value and where it was set.
Settings are frozen: a change needs a restart.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from detector.contracts.errors import ConfigurationError
from detector.runtime.sections import (
    DetectionSettings,
    KafkaSettings,
    LoggingSettings,
    MetricsSettings,
    PolicySettings,
    PrincipalSettings,
    WorkerSettings,
)

PREFIX = "WEIRGUARD_"
DELIMITER = "__"

FILE_VARIABLE = f"{PREFIX}CONFIG"
"""Environment variable that names the settings file when the command line does not."""


class Settings(BaseSettings):
    """All settings. Keyword arguments are what the file says; environment variables win over them."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        env_ignore_empty=True,
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

    Raises ConfigurationError that names every wrong key, its value and where it was set.
    """
    path = path or _named_file()
    data = read_file(path) if path else {}
    _refuse_unknown_variables()
    try:
        settings = Settings(**data)
    except ValidationError as error:
        lines = [_describe(detail, path) for detail in error.errors()]
        raise ConfigurationError("; ".join(lines)) from error
    except SettingsError as error:
        raise ConfigurationError(f"an environment variable is not the JSON its key needs: {error}") from error
    _check_together(settings)
    settings.kafka.client_arguments()
    settings.principals.hasher()
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
    return {".".join(key): _source(key, data, path) for key in _leaves(Settings)}


def read_file(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file at ``path``. Raises ConfigurationError when there is none or it is not one."""
    try:
        data = yaml.load(path.read_text(), _StrictLoader)  # noqa: S506 - a safe loader, and stricter
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"settings file {path}: {' '.join(str(error).split())}") from error
    if not isinstance(data or {}, dict) or any(not isinstance(key, str) for key in data or {}):
        raise ConfigurationError(f"settings file {path}: expected sections such as 'kafka:', found {data!r:.80}")
    return data or {}


class _StrictLoader(yaml.SafeLoader):
    """YAML as usual, but a key that stands twice in a mapping is an error and not the later one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _named_file() -> Path | None:
    name = os.environ.get(FILE_VARIABLE)
    return Path(name) if name else None


def _refuse_unknown_variables() -> None:
    """pydantic-settings overlooks a variable whose section it does not know; it would be a silent typo.

    Names without the delimiter pass: Kubernetes sets WEIRGUARD_SERVICE_HOST and its kin by itself.
    """
    for name in os.environ:
        if name.upper().startswith(PREFIX) and DELIMITER in name:
            _refuse_unknown(name, name.upper().removeprefix(PREFIX).lower().split(DELIMITER))


def _refuse_unknown(variable: str, key: list[str]) -> None:
    model: type[BaseModel] | None = Settings
    for at, part in enumerate(key):
        if model is None:
            whole = PREFIX + DELIMITER.join(key[:at]).upper()
            raise ConfigurationError(f"environment variable {variable}: set {whole} instead, entries as one JSON value")
        if part not in model.model_fields:
            raise ConfigurationError(f"environment variable {variable}: unknown key {part!r}{_hint(part, model)}")
        model = _submodel(model, part)


def _describe(detail: ErrorDetails, path: Path | None) -> str:
    key = tuple(str(part) for part in detail["loc"])
    where = _place(key, path)
    if detail["type"] == "extra_forbidden":
        return f"unknown key {'.'.join(key)} ({where}){_hint(key[-1], _model(key[:-1]))}"
    value = "" if _hidden(key, detail["input"]) else f" = {detail['input']!r:.200}"
    return f"{'.'.join(key)}{value}: {detail['msg'].removeprefix('Value error, ')} ({where})"


def _hidden(key: tuple[str, ...], value: object) -> bool:
    """Whether ``value`` may be a secret: one itself, or a section that could hold one."""
    return isinstance(value, dict | BaseModel) or any(word in key[-1] for word in ("password", "hash_key"))


def _place(key: tuple[str, ...], path: Path | None) -> str:
    variable = _variable(key)
    if variable:
        return f"environment variable {variable}"
    return f"settings file {path}" if path else "environment"


def _source(key: tuple[str, ...], data: Mapping[str, Any], path: Path | None) -> str:
    variable = _variable(key)
    if variable:
        return variable
    found: Any = data
    for part in key:
        if not isinstance(found, dict) or part not in found:
            return "default"
        found = found[part]
    return str(path)


def _variable(key: tuple[str, ...]) -> str | None:
    """The environment variable that sets ``key``, or a part of the settings around it."""
    present = {name.upper(): name for name, value in os.environ.items() if value}
    for length in range(len(key), 0, -1):
        name = PREFIX + DELIMITER.join(key[:length]).upper()
        if name in present:
            return present[name]
    return None


def _model(key: tuple[str, ...]) -> type[BaseModel]:
    model: type[BaseModel] = Settings
    for part in key:
        model = _submodel(model, part) or model
    return model


def _submodel(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The section behind field ``name`` of ``model``; None where the field holds a value."""
    annotation = model.model_fields[name].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _leaves(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in model.model_fields:
        section = _submodel(model, name)
        if section is not None:
            yield from _leaves(section, (*prefix, name))
        else:
            yield (*prefix, name)


def _hint(name: str, model: type[BaseModel]) -> str:
    close = difflib.get_close_matches(name, model.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(model.model_fields)}"
