"""The environment variables that are settings: which one sets a key, and those that set nothing or cannot."""

from __future__ import annotations

import json
import os
import re

from pydantic import BaseModel

from detector.contracts.errors import ConfigurationError
from detector.runtime.printable import printable
from detector.runtime.settings_keys import Key, hint, is_json, leaves, nearest, submodel

PREFIX = "WEIRGUARD_"
DELIMITER = "__"

FILE_VARIABLE = f"{PREFIX}CONFIG"
"""Environment variable that names the settings file when the command line does not."""

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
            raise _refusal(variable, f"set {whole} instead, {what}")
        if part not in model.model_fields:
            raise _refusal(variable, f"unknown key {printable(part)!r}{hint(part, model.model_fields)}")
        needs_json = is_json(model, part)
        model = submodel(model, part)
    if needs_json and value:
        _check_json(variable, value)


def _check_json(variable: str, value: str) -> None:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        raise _refusal(variable, 'expected one JSON value, such as {"name": 1} or ["file"]') from None


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
        raise _refusal(variable, f"there is no such setting; did you mean {known[PREFIX + close]}?")
    if name.removeprefix(PREFIX).partition("_")[0].lower() in settings.model_fields:
        raise _refusal(variable, f"there is no such setting; sections and keys are joined by {DELIMITER!r}")


def _refusal(variable: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"environment variable {printable(variable)}: {why}")
