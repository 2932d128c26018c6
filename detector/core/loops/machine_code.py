"""Machine code of compiled loops on disk: for which processors it is made, where it is, and when it is used.

A file is named for a function, the types of its arguments, the processor and the versions. Its data end in a digest of
themselves, and of the sources and constants of the function and of all that it calls. What is damaged, stale or foreign
is never run: it is compiled anew and replaced.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba.core.caching import IndexDataCacheFile, NullCache
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target

from detector.core.loops import compiled
from detector.core.loops.compiled import Loop

FOLDER = "WEIRGUARD_CACHE"
"""This environment variable names the folder for machine code. Whoever can write to it can run code here."""

LEVEL = "x86-64-v3"
"""Processors since 2013 or so, those with AVX2. Code for the very processor was no faster."""
_LEVEL_NEEDS = ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave")
_DIGEST_BYTES = 32
_BLAS = "scipy.linalg.cython_blas"


def prepare() -> None:
    """Makes Numba compile for all processors of ``LEVEL``, if this is one, so that an image's machine code fits the
    machines that it runs on. NUMBA_CPU_NAME takes precedence; other processors get code of their own."""
    begun = "_toplevel_target_context" in vars(cpu_target)  # Numba has compiled something else in this process
    if not begun and numba.config.CPU_NAME is None and _is_of_level():
        numba.config.CPU_NAME, numba.config.CPU_FEATURES = LEVEL, ""
    with _without_blas():
        cpu_target.target_context.refresh()


def _is_of_level() -> bool:
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    has = llvmlite.binding.get_host_cpu_features()
    return all(has.get(name) for name in _LEVEL_NEEDS)


@contextmanager
def _without_blas() -> Iterator[None]:
    """Hides SciPy's BLAS from Numba, which would import half of SciPy for it; no loop multiplies matrices."""
    if _BLAS in sys.modules:
        yield
        return
    sys.modules[_BLAS] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_BLAS]


def folders() -> list[Path]:
    """Returns the folders to read machine code from, in this order; it is written to the first that is writable: the
    folder that ``FOLDER`` names, or those next to the source and in the user's cache."""
    named = os.environ.get(FOLDER)
    if named:
        return [Path(named)]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "weirguard"
    beside = Path(__file__).parent / "__pycache__" / "loops"
    return [beside, home] if home.is_absolute() and _is_own(home) else [beside]


def _is_own(folder: Path) -> bool:
    """Returns whether ``folder`` belongs to this user, or is not there. A home in /tmp may be that of another user."""
    try:
        return folder.stat().st_uid == os.getuid()
    except OSError:
        return True


class Files(NullCache):  # type: ignore[misc]
    """The machine code of one function, which Numba calls a cache. ``report`` takes events of ``compiled.Listener``."""

    def __init__(self, function: Callable[..., Any], report: Callable[..., None]) -> None:
        self._function = function
        self._report = report

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Returns the function compiled for ``signature``; None if no folder has it undamaged and up to date."""
        for folder in folders():
            try:
                data = self._file(folder, signature, context.codegen()).load(signature)
                if data is not None:
                    return CompileResult._rebuild(context, *data)
            except Exception:  # noqa: BLE001, S112 - whatever is wrong with a file: it is compiled and replaced
                continue
        self._report("compiling", _name(self._function))
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Writes ``result`` to the first folder that is writable."""
        if result.library.has_dynamic_globals:  # the code has addresses of this process in it
            return
        troubles = []
        for folder in folders():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = self._file(folder, signature, result.codegen)
                file.flush()
                file.save(signature, result._reduce())
            except OSError as error:
                troubles.append(f"{folder} ({error.strerror})")
            else:
                return
        why = f"no machine code can be kept in {' or '.join(troubles)}"
        self._report("not_kept", f"{why}; let {FOLDER} name a folder that this user can write to, and nobody else")

    def _file(self, folder: Path, signature: Any, codegen: Any) -> _DigestedFile:
        kind = "\n".join((str(signature), *codegen.magic_tuple(), *_versions())).encode()
        stamp = hashlib.sha256(kind + b"\n".join(_ingredients(self._function))).digest()
        return _DigestedFile(str(folder), f"{_name(self._function)}-{hashlib.sha256(kind).hexdigest()[:12]}", stamp)


class _DigestedFile(IndexDataCacheFile):  # type: ignore[misc]
    """Numba's index and data file, with a digest after the data, where unpickling stops."""

    def _dump(self, obj: Any) -> bytes:
        content: bytes = super()._dump(obj)
        return content + self._digest(content)

    def _load_data(self, name: str) -> Any:
        data = Path(self._data_path(name)).read_bytes()
        if self._digest(data[:-_DIGEST_BYTES]) != data[-_DIGEST_BYTES:]:
            return None
        return super()._load_data(name)

    def _digest(self, content: bytes) -> bytes:
        return hashlib.sha256(self._source_stamp + content).digest()


def reached(functions: Iterable[Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Returns the plain source of the compiled ``functions`` and of all compiled ones that they call, by name."""
    sources: dict[str, Callable[..., Any]] = {}
    waiting = list(functions)
    while waiting:
        function = waiting.pop()
        if _name(function) not in sources:
            sources[_name(function)] = function
            waiting += [value.py_func for _, value in _read_by(function) if isinstance(value, Loop)]
    return sources


def _read_by(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Yields what ``function`` may read of its module and, through it, of other modules of ours, by name."""
    words = function.__code__.co_names
    for word in words:
        value = function.__globals__.get(word)
        yield word, value
        if isinstance(value, ModuleType) and value.__name__.startswith("detector."):
            yield from ((f"{word}.{inner}", getattr(value, inner, None)) for inner in words)


def _ingredients(function: Callable[..., Any]) -> Iterator[bytes]:
    """Yields what the machine code of ``function`` is made of, in a fixed order: digests of its file, of those of all
    that it calls and of the decorators', and the constants that they read."""
    for name, source in sorted(reached([function]).items()):
        yield _digest_of(source.__code__.co_filename)
        for word, value in _read_by(source):
            if isinstance(value, int | float | tuple):
                yield f"{name}.{word}={value!r}".encode()
    yield _digest_of(compiled.__file__)


@cache
def _digest_of(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _versions() -> tuple[str, ...]:
    return sys.version, numba.__version__, llvmlite.__version__, np.__version__
