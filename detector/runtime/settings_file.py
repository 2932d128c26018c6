"""The settings file: YAML in which no key stands twice. Its errors say where, and never what stands there."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from detector.contracts.errors import ConfigurationError
from detector.runtime.text_files import read_text

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
