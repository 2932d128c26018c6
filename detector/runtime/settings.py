"""The settings of the service: one YAML file and ``WEIRGUARD_SECTION__KEY`` environment variables, which win.

A setting that does not exist is refused, and every error names the key and where it was set.
Settings are frozen: a change needs a restart.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
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
    SourcesSettings,
    WorkerSettings,
    tls_context,
)
from detector.runtime.text import printable, read_text

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


_SYNTAX = "not valid YAML; look for quotes, brackets or indentation that do not match there or just before"


def read_file(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file at ``path``. Raises ConfigurationError when there is none or it is not one."""
    what = f"settings file {path}"
    text = read_text(path, "settings file")
    try:
        data = yaml.load(text, _StrictLoader)  # noqa: S506 - a safe loader, and stricter
    except _StandsTwice as error:
        raise ConfigurationError(f"{what}: {_place(error)}: a key stands twice; keep one") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{what}: {_place(error)}: {_SYNTAX}") from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        # A tag or a date that its value does not fit; the message would show the value.
        raise ConfigurationError(f"{what}: a value is not of the kind that it is written as; quote it") from None
    if data is None:
        return {}
    if not isinstance(data, dict) or any(not isinstance(key, str) for key in data):
        raise ConfigurationError(f"{what}: expected sections such as 'kafka:'; is a space missing after a colon?")
    return data


class _StandsTwice(yaml.constructor.ConstructorError):
    pass


class _StrictLoader(yaml.SafeLoader):
    """YAML as usual, but a key that stands twice in a mapping is an error and not the later one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for (written, _), key in zip(node.value, keys, strict=True):
            if keys.count(key) > 1:
                raise _StandsTwice(None, None, None, written.start_mark)
        return super().construct_mapping(node, deep)


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}"
    return f"character {getattr(error, 'position', 0) + 1}"


_OF_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")
"""Ends of the names that Kubernetes sets by itself for a service called weirguard, or weirguard-something."""
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
"""What Kubernetes gives NAME_PORT."""

_ALIKE = 0.8
"""So like the name of a setting must another be to be taken for a slip."""


def name_of(key: Key) -> str:
    """The environment variable that sets ``key``."""
    return PREFIX + DELIMITER.join(key).upper()


def variable_of(key: Key) -> str | None:
    """The environment variable that is set and sets ``key``, or a part of the settings around it."""
    present = {name.upper(): name for name, value in os.environ.items() if value}
    for length in range(len(key), 0, -1):
        name = name_of(key[:length])
        if name in present:
            return present[name]
    return None


def refuse_wrong_variables(settings: type[BaseModel]) -> None:
    """Refuse variables that look like settings and set none, which pydantic-settings overlooks, and those that are not
    the JSON that their key needs. An empty one counts as not set, but its name must be right.

    Raises ConfigurationError, which shows the name and never the value.
    """
    for variable, value in os.environ.items():
        name = variable.upper()
        if not name.startswith(PREFIX):
            continue
        if DELIMITER in name:
            _check(variable, value, name.removeprefix(PREFIX).lower().split(DELIMITER), settings)
        elif name.removeprefix(PREFIX).lower() in settings.model_fields:
            _check(variable, value, [name.removeprefix(PREFIX).lower()], settings)
        else:
            _refuse_look_alike(variable, value, settings)


def _check(variable: str, value: str, key: list[str], settings: type[BaseModel]) -> None:
    model: type[BaseModel] | None = settings
    needs_json = False
    for at, part in enumerate(key):
        if model is None:
            whole = name_of(tuple(key[:at]))
            what = "entries as one JSON value" if needs_json else "which holds one value"
            raise _wrong_variable(variable, f"set {whole} instead, {what}")
        if part not in model.model_fields:
            raise _wrong_variable(variable, f"unknown key {printable(part)!r}{hint(part, model.model_fields)}")
        needs_json = is_json(model, part)
        model = submodel(model, part)
    if needs_json and value:
        _check_json(variable, value)


def _check_json(variable: str, value: str) -> None:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        raise _wrong_variable(variable, 'expected one JSON value, such as {"name": 1} or ["file"]') from None


def _refuse_look_alike(variable: str, value: str, settings: type[BaseModel]) -> None:
    """One underscore for two, or a typo besides. What Kubernetes sets, and other names of one's own, are left alone."""
    name = variable.upper()
    if name == FILE_VARIABLE or _OF_KUBERNETES.search(name) or (name.endswith("_PORT") and _ADDRESS.match(value)):
        return
    known = {name_of(key).replace(DELIMITER, "_"): name_of(key) for key in leaves(settings)} | {
        FILE_VARIABLE: FILE_VARIABLE
    }
    close = nearest(name.removeprefix(PREFIX), (other.removeprefix(PREFIX) for other in known), _ALIKE)
    if close is not None:
        raise _wrong_variable(variable, f"there is no such setting; did you mean {known[PREFIX + close]}?")
    if name.removeprefix(PREFIX).partition("_")[0].lower() in settings.model_fields:
        raise _wrong_variable(variable, f"there is no such setting; sections and keys are joined by {DELIMITER!r}")


def _wrong_variable(variable: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"environment variable {printable(variable)}: {why}")


_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_LONG = 100


def refusals(error: ValidationError, settings: type[BaseModel], path: Path | None) -> str:
    """All that is wrong, in one line."""
    return "; ".join(_refusal(detail, settings, path) for detail in error.errors(include_url=False))


def _refusal(detail: ErrorDetails, settings: type[BaseModel], path: Path | None) -> str:
    key = tuple(str(part) for part in detail["loc"])
    where = _where(key, path)
    if detail["type"] == "extra_forbidden":
        return _unknown(key, settings, where)
    name = ".".join(map(printable, key)) or "settings"
    value = f" = {detail['input']!r}" if _may_be_shown(key, detail["input"], settings) else ""
    return f"{name}{value}: {printable(detail['msg'].removeprefix('Value error, '))} ({where})"


def _unknown(key: Key, settings: type[BaseModel], where: str) -> str:
    model, name = _section(key[:-1], settings), key[-1]
    before = ".".join((*key[:-1], ""))
    if _NAME.fullmatch(name):
        return f"unknown key {before}{name} ({where}){hint(name, model.model_fields)}"
    # What is no name may be a key and its value, a secret even, without the space between.
    start = re.match(r"\w*", name)
    known = start[0] if start and start[0] in model.model_fields else ""
    return f"a key {before}{known}… is no name ({where}); is a space missing after a colon?"


def _may_be_shown(key: Key, value: object, settings: type[BaseModel]) -> bool:
    """Whether ``value`` can be no secret: one short plain value, of a key that is known and not private."""
    leaf = leaf_of(settings, key)
    if leaf is None or is_private(*leaf) or not isinstance(value, str | int | float):
        return False
    return len(str(value)) <= _LONG and "@" not in str(value) and str(value).isprintable()


def _where(key: Key, path: Path | None) -> str:
    variable = variable_of(key)
    if variable:
        return f"environment variable {variable}"
    return f"settings file {path}" if path else "environment"


def _section(key: Key, settings: type[BaseModel]) -> type[BaseModel]:
    model = settings
    for part in key:
        model = submodel(model, part) or model
    return model


Key = tuple[str, ...]
"""The parts of a dotted key."""

_PRIVATE = ("sasl_", "ssl_")
"""Beside secrets themselves: where one may stand by mistake, such as a password for a user name."""


def submodel(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The section behind field ``name`` of ``model``; None where the field holds a value."""
    annotation = model.model_fields[name].annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def leaves(model: type[BaseModel], prefix: Key = ()) -> Iterator[Key]:
    """The keys of all values, in order."""
    for name in model.model_fields:
        section = submodel(model, name)
        if section is not None:
            yield from leaves(section, (*prefix, name))
        else:
            yield (*prefix, name)


def leaf_of(model: type[BaseModel], key: Key) -> tuple[type[BaseModel], str] | None:
    """The section and field that ``key`` leads to or into; None where it stops at a section or is unknown."""
    for part in key:
        if part not in model.model_fields:
            return None
        section = submodel(model, part)
        if section is None:
            return model, part
        model = section
    return None


def is_private(model: type[BaseModel], name: str) -> bool:
    """Whether field ``name`` of ``model`` holds a secret, names the file of one, or may hold one by mistake."""
    field = model.model_fields.get(name.removesuffix("_file"), model.model_fields[name])
    return name.startswith(_PRIVATE) or _mentions_secret(field.annotation)


def is_json(model: type[BaseModel], name: str) -> bool:
    """Whether an environment variable gives field ``name`` as JSON: sections, mappings and lists."""
    annotation = model.model_fields[name].annotation
    return submodel(model, name) is not None or getattr(annotation, "__origin__", None) in (dict, list, set, tuple)


def nearest(name: str, names: Iterable[str], likeness: float = 0.6) -> str | None:
    """Which of ``names`` was likely meant by ``name``."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=likeness)), None)


def hint(name: str, names: Collection[str]) -> str:
    """The end of an error about ``name``, which is none of ``names``."""
    close = nearest(name, names)
    return f"; did you mean {close!r}?" if close else f"; there are {', '.join(names)}"


def _mentions_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_mentions_secret(part) for part in get_args(annotation))
