"""Wrong settings in sentences: which key, its value where it can be no secret, what is wrong, where it was set."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from detector.runtime.printable import printable
from detector.runtime.settings_keys import Key, hint, is_private, leaf_of, submodel
from detector.runtime.settings_variables import variable_of

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
