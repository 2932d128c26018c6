"""The source that made a result: a digest of the text of the modules that its making imports."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

import detector

_PACKAGE = detector.__name__
_REGISTRIES = frozenset({"detector.lab.attackers", "detector.lab.shadow"})
"""The text of these counts, but not what they import, unless they are among the roots: one of their entries makes a
result, or nothing of them does."""


def digest_of(roots: Iterable[str], source: Path | None = None) -> str:
    """Returns twelve hexadecimal digits of the text of the modules ``roots`` and of all of this package they import.

    Imports inside functions count; what is imported by a computed name does not. ``source``: the package's folder.
    """
    folder = source or Path(detector.__file__).parent
    digest = sha256()
    for module in sorted(imported(roots, folder)):
        digest.update(f"{module}\n".encode() + _path(module, folder).read_bytes())
    return digest.hexdigest()[:12]


def imported(roots: Iterable[str], folder: Path) -> set[str]:
    """Returns the modules ``roots`` and all that they import, directly or not, of the package in ``folder``."""
    left, modules = set(filter(_is_ours, roots)), set[str]()
    first = frozenset(left)
    while left:
        module = left.pop()
        modules.add(module)
        if module not in _REGISTRIES - first:
            left |= _imports(_path(module, folder), folder) - modules
    return modules


@cache
def _imports(path: Path, folder: Path) -> frozenset[str]:
    """Returns the modules of the package that the one at ``path`` imports by name."""
    nodes = ast.walk(ast.parse(path.read_bytes()))
    return frozenset(name for node in nodes for name in _names(node, folder))


def _names(node: ast.AST, folder: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if _is_ours(alias.name))
    elif isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        exists = [_path(name, folder).exists() for name in inner]
        yield from (name for name, is_module in zip(inner, exists, strict=True) if is_module)
        if not all(exists):
            yield node.module


def _is_ours(module: str) -> bool:
    return module == _PACKAGE or module.startswith(f"{_PACKAGE}.")


def _path(module: str, folder: Path) -> Path:
    """Returns where ``module`` is, or would be."""
    path = folder.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
