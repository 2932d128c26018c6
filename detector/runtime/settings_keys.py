"""Looking around in the sections of the settings: what a dotted key leads to, and what was likely meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel, SecretStr

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
