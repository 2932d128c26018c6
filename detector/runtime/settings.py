"""The settings of the service: one YAML file and ``WEIRGUARD_SECTION__KEY`` environment variables, which win.

A setting that does not exist is refused. Every error names the key and where it was set, and shows no value that may be
a secret. Settings are frozen: a change needs a restart.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Collection, Hashable, Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from detector.contracts.errors import ConfigurationError
from detector.runtime.receivers import NotifySettings
from detector.runtime.sections import (
    DetectionSettings,
    GateSettings,
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

Key = tuple[str, ...]
"""The parts of a dotted key."""

_PRIVATE = ("sasl_", "ssl_")
"""Keys that are as private as secrets: a secret may be there by mistake, such as a password for a user name."""
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_SHOWN_CHARACTERS = 100
_TYPO_SIMILARITY = 0.8
"""The similarity to a setting's name from which another variable counts as a typo."""
_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")
"""Ends of the names that Kubernetes sets by itself for a service called weirguard, or weirguard-something."""
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
"""What Kubernetes gives NAME_PORT."""


class Settings(BaseSettings):
    """All settings. Keyword arguments are the values of the file; environment variables win over them."""

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
    """The hash that turns API keys into principals."""
    gate: GateSettings = GateSettings()
    """The gate as a service for proxies."""
    sources: SourcesSettings = SourcesSettings()
    """Log files that commands read."""
    metrics: MetricsSettings = MetricsSettings()
    """Metrics and health."""
    notify: NotifySettings = NotifySettings()
    """The receivers of weirguard notify."""
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
        """Returns all settings as plain data that is safe to show: secrets are asterisks."""
        return self.model_dump(mode="json")


def load_settings(path: Path | None = None) -> Settings:
    """Returns the settings in the file at ``path``, or that WEIRGUARD_CONFIG names, or none; the environment wins.

    Raises ConfigurationError that names every wrong key, where it was set, and its value unless it may be a secret.
    The errors behind it are left out on purpose: they hold the values.
    """
    path = path or _named_file()
    data = _read_file(path) if path else {}
    for variable, value in os.environ.items():
        _check_variable(variable, value)
    try:
        settings = Settings(**data)
    except ValidationError as error:
        refusals = (_refusal(detail, path) for detail in error.errors(include_url=False))
        raise ConfigurationError("; ".join(refusals)) from None
    except SettingsError:
        raise ConfigurationError("an environment variable is not the JSON its key needs") from None
    batch, record = settings.worker.microbatch_bytes, settings.kafka.state_record_bytes
    if batch > record:
        raise ConfigurationError(
            f"worker.microbatch_bytes is {batch} and kafka.state_record_bytes is {record}: what a micro-batch changes "
            "is logged as one state record; lower the first or raise the second"
        )
    settings.kafka.client_arguments()
    tls_context(settings.kafka)
    settings.principals.hasher()
    if settings.sources.map:  # readers of logs take a while to import, and the service reads none
        from detector.sources.mapping import sources_of

        sources_of(settings.sources.map, "sources.map")
    return settings


def sources(path: Path | None = None) -> dict[str, str]:
    """Returns where each setting comes from, by dotted key: a variable's name, the file's, or "default"."""
    path = path or _named_file()
    data = _read_file(path) if path else {}
    return {
        ".".join(key): variable_of(key) or (str(path) if _has(data, key) else "default") for key in leaves(Settings)
    }


def _named_file() -> Path | None:
    name = os.environ.get(FILE_VARIABLE)
    return Path(name) if name else None


def _has(data: Any, key: Key) -> bool:
    for part in key:
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    return True


# -- the file


class _DuplicateKey(yaml.constructor.ConstructorError):
    pass


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that occurs twice in a mapping, where YAML would take the later one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for (written, _), key in zip(node.value, keys, strict=True):
            if keys.count(key) > 1:
                raise _DuplicateKey(None, None, None, written.start_mark)
        return super().construct_mapping(node, deep)


def _read_file(path: Path) -> dict[str, Any]:
    """Returns the mapping in the YAML file at ``path``. Raises ConfigurationError, which says where the mistake is and
    shows nothing of the text."""
    where = f"settings file {path}"
    text = read_text(path, "settings file")
    try:
        data = yaml.load(text, _StrictLoader)  # noqa: S506 - a safe loader, and stricter
    except _DuplicateKey as error:
        raise ConfigurationError(f"{where}: {_position(error)}: a key occurs twice; keep one") from None
    except yaml.YAMLError as error:
        advice = "not valid YAML; look for quotes, brackets or indentation that do not match there or just before"
        raise ConfigurationError(f"{where}: {_position(error)}: {advice}") from None
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        # A tag or a date that its value does not fit; the message would show the value.
        raise ConfigurationError(f"{where}: a value is not of the kind that it is written as; quote it") from None
    if data is None:
        return {}
    if not isinstance(data, dict) or any(not isinstance(key, str) for key in data):
        raise ConfigurationError(f"{where}: expected sections such as 'kafka:'; is a space missing after a colon?")
    return data


def _position(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}"
    return f"character {getattr(error, 'position', 0) + 1}"


# -- environment variables


def name_of(key: Key) -> str:
    """Returns the environment variable that sets ``key``."""
    return PREFIX + DELIMITER.join(key).upper()


def variable_of(key: Key) -> str | None:
    """Returns the environment variable that is set and sets ``key``, or a part of the settings around it."""
    present = {name.upper(): name for name, value in os.environ.items() if value}
    names = (name_of(key[:length]) for length in range(len(key), 0, -1))
    return next((present[name] for name in names if name in present), None)


def _check_variable(variable: str, value: str) -> None:
    """Refuses a variable that looks like a setting and sets none, which pydantic-settings overlooks, or that is not the
    JSON that its key needs. An empty one counts as not set, but its name must be right.

    Raises ConfigurationError, which shows the name and never the value.
    """
    name = variable.upper()
    if not name.startswith(PREFIX):
        return
    key = tuple(name.removeprefix(PREFIX).lower().split(DELIMITER))
    if len(key) > 1 or key[0] in Settings.model_fields:
        mistake = _mistake_in_key(key, value)
    elif name == FILE_VARIABLE or _KUBERNETES.search(name) or (name.endswith("_PORT") and _ADDRESS.match(value)):
        mistake = None
    else:
        mistake = _look_alike(name)
    if mistake is not None:
        raise ConfigurationError(f"environment variable {printable(variable)}: {mistake}")


def _mistake_in_key(key: Key, value: str) -> str | None:
    section, rest = _innermost(key)
    if rest and rest[0] not in section.model_fields:
        return f"unknown key {printable(rest[0])!r}{hint(rest[0], section.model_fields)}"
    takes_json = not rest or _takes_json(section, rest[0])
    if len(rest) > 1:
        what = "entries as one JSON value" if takes_json else "which holds one value"
        return f"set {name_of(key[: 1 - len(rest)])} instead, {what}"
    try:
        if takes_json and value:
            json.loads(value)
    except (ValueError, RecursionError):
        return 'expected one JSON value, such as {"name": 1} or ["file"]'
    return None


def _look_alike(name: str) -> str | None:
    """Finds one underscore for two, or a typo; ignores other names."""
    known = {name_of(key).replace(DELIMITER, "_"): name_of(key) for key in leaves(Settings)}
    known[FILE_VARIABLE] = FILE_VARIABLE
    close = _nearest(name.removeprefix(PREFIX), (other.removeprefix(PREFIX) for other in known), _TYPO_SIMILARITY)
    if close is not None:
        return f"there is no such setting; did you mean {known[PREFIX + close]}?"
    if name.removeprefix(PREFIX).partition("_")[0].lower() in Settings.model_fields:
        return f"there is no such setting; sections and keys are joined by {DELIMITER!r}"
    return None


# -- wrong values in sentences


def _refusal(detail: ErrorDetails, path: Path | None) -> str:
    """Says which key is wrong, its value if it can be no secret, what is wrong, and where it was set."""
    key = tuple(str(part) for part in detail["loc"])
    variable = variable_of(key)
    file = f"settings file {path}" if path else "environment"
    where = f"environment variable {variable}" if variable else file
    if detail["type"] == "extra_forbidden":
        return _unknown(key, where)
    name = ".".join(map(printable, key)) or "settings"
    value = f" = {detail['input']!r}" if _may_be_shown(key, detail["input"]) else ""
    return f"{name}{value}: {printable(detail['msg'].removeprefix('Value error, '))} ({where})"


def _unknown(key: Key, where: str) -> str:
    fields, name = _innermost(key[:-1])[0].model_fields, key[-1]
    before = ".".join((*key[:-1], ""))
    if _NAME.fullmatch(name):
        return f"unknown key {before}{name} ({where}){hint(name, fields)}"
    # What is no name may be a key and its value, a secret even, without the space between.
    start = re.match(r"\w*", name)
    known = start[0] if start and start[0] in fields else ""
    return f"a key {before}{known}… is no name ({where}); is a space missing after a colon?"


def _may_be_shown(key: Key, value: object) -> bool:
    """Returns whether ``value`` cannot be a secret: a short plain value of a known key that is not private."""
    leaf = leaf_of(Settings, key)
    if leaf is None or is_private(*leaf) or _entry_section(*leaf) or not isinstance(value, str | int | float):
        return False
    return len(str(value)) <= _SHOWN_CHARACTERS and "@" not in str(value) and str(value).isprintable()


# -- keys


def leaves(model: type[BaseModel], prefix: Key = ()) -> Iterator[Key]:
    """Yields the keys of all values, in order."""
    for name in model.model_fields:
        section = _subsection(model, name)
        if section is not None:
            yield from leaves(section, (*prefix, name))
        else:
            yield (*prefix, name)


def leaf_of(model: type[BaseModel], key: Key) -> tuple[type[BaseModel], str] | None:
    """Returns the section and field that ``key`` leads to or into; None if it stops at a section or is unknown."""
    section, rest = _innermost(key, model)
    return (section, rest[0]) if rest and rest[0] in section.model_fields else None


def is_private(model: type[BaseModel], name: str) -> bool:
    """Returns whether field ``name`` of ``model`` holds a secret, names the file of one, or may hold one by mistake."""
    field = model.model_fields.get(name.removesuffix("_file"), model.model_fields[name])
    return name.startswith(_PRIVATE) or SecretStr in (field.annotation, *get_args(field.annotation))


def hint(name: str, names: Collection[str]) -> str:
    """Returns the end of an error about ``name``, which is not in ``names``."""
    close = _nearest(name, names, 0.6)
    return f"; did you mean {close!r}?" if close else f"; there are {', '.join(names)}"


def _innermost(key: Key, model: type[BaseModel] = Settings) -> tuple[type[BaseModel], Key]:
    """Returns the innermost section that ``key`` leads into, and the rest of ``key``."""
    while key and (section := _subsection(model, key[0])) is not None:
        model, key = section, key[1:]
    if len(key) > 1 and (entry := _entry_section(model, key[0])) is not None:
        return _innermost(key[2:], entry)
    return model, key


def _subsection(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Returns the section behind field ``name`` of ``model``; None if there is none."""
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    choices = (annotation, *get_args(annotation)) if get_origin(annotation) is UnionType else (annotation,)
    return next((choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)), None)


def _entry_section(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Returns the section that each entry of field ``name`` is, such as a receiver; None for another field."""
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    entry = get_args(annotation)[-1] if get_origin(annotation) is dict else None
    return entry if isinstance(entry, type) and issubclass(entry, BaseModel) else None


def _takes_json(model: type[BaseModel], name: str) -> bool:
    """Returns whether an environment variable gives field ``name`` as JSON: mappings and lists."""
    return getattr(model.model_fields[name].annotation, "__origin__", None) in (dict, list, set, tuple)


def _nearest(name: str, names: Iterable[str], likeness: float) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=likeness)), None)
