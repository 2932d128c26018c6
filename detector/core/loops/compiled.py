"""Compiles loops over rows with Numba; without Numba the same functions run as plain Python, with the same results.

A compiled function takes and returns numbers and arrays, keeps no state, and gives the same bits as its plain source.
It is compiled again for arrays of another type, layout or access: see ``plain``.
It divides by no zero: only the plain source would raise an error.
Only ``approximate`` functions may sum in another order: they exclude candidates by a proven bound, and decide nothing.

Numba is imported at the first call of a loop, as that takes a while. Machine code is kept on disk, see
``machine_code``. A loop that cannot be compiled runs as plain source, a hundred times slower; a listener is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, update_wrapper
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:  # every command imports this module, and few need numpy
    import numpy as np
    from numpy.typing import NDArray

    Scalar = TypeVar("Scalar", bound=np.generic)

Function = TypeVar("Function", bound=Callable[..., Any])

SWITCH = "WEIRGUARD_COMPILED"
"""``off`` in this environment variable runs the plain source."""

_ANY_ORDER = {"reassoc", "contract", "nsz"}


class Listener(Protocol):
    """Is called with what a user should know, once for each event."""

    def compiling(self, name: str) -> None:
        """The function ``name`` has no machine code for this machine on disk, and is compiled now."""

    def slow(self, why: str) -> None:
        """Plain source runs. ``why`` gives the reason and the remedy."""

    def not_kept(self, why: str) -> None:
        """Machine code cannot be written to disk, so that each process compiles again. ``why`` gives the remedy."""


def plain(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """Returns a read-only view of ``array`` in C order, of a copy where it is in another order.

    Arrays of records are read-only, and Numba compiles a loop again for each kind of array: an argument of a loop must
    always be prepared so, or never."""
    view = array.view() if array.flags.c_contiguous else array.copy(order="C")
    view.flags.writeable = False
    return view


def compiled(function: Function) -> Function:
    """Compiles ``function`` at its first call, and keeps the machine code on disk for the next process.

    It makes no arrays, other than views, nor calls a function that returns a new one, so that nothing counts references
    to them: that took a fifth of the time."""
    return _compiled(function)


def allocating(function: Function) -> Function:
    """Like ``compiled``, for a function that makes arrays."""
    return _compiled(function, counted=True)


def approximate(function: Function) -> Function:
    """Like ``compiled``, but sums may be formed in any order."""
    return _compiled(function, _ANY_ORDER)


def listen(listener: Listener | None) -> None:
    """Sets the ``listener``, which is first called with the events so far; None for no listener."""
    _events.listener = listener
    _events.deliver()


def loops() -> list[Loop]:
    """Returns all compiled functions so far, in the order of their modules' imports."""
    return list(_loops)


def is_off() -> bool:
    """Returns whether ``SWITCH`` makes loops run as plain source."""
    return os.environ.get(SWITCH) == "off"


def _compiled(function: Function, fastmath: bool | set[str] = False, counted: bool = False) -> Function:
    return function if is_off() else cast("Function", Loop(function, fastmath, counted))


class Loop:
    """A function that is compiled when it is first called, or when a compiled caller of it is. ``py_func``: its plain
    source. ``counted``: whether references to arrays are counted."""

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[..., Any], fastmath: bool | set[str], counted: bool) -> None:
        update_wrapper(self, function)
        _loops.append(self)
        self.py_func = function
        self.counted = counted
        self._options = {"fastmath": fastmath, "error_model": "numpy", "_nrt": counted}
        self._run: Callable[..., Any] = self._first
        self._dispatcher: Any = None

    def __call__(self, *arguments: Any) -> Any:
        return self._run(*arguments)

    @property
    def signatures(self) -> int:
        """The number of argument types that have machine code; 0 before the first call, and without Numba."""
        return len(self._dispatcher.signatures) if self._dispatcher is not None else 0

    @property
    def _numba_type_(self) -> Any:
        """Tells Numba what a compiled caller calls."""
        return self._built()._numba_type_

    def _first(self, *arguments: Any) -> Any:
        self._run = self.py_func if _numba() is None else self._ready(arguments)
        return self._run(*arguments)

    def _ready(self, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        """Returns Numba's function, compiled for ``arguments``; the plain one if it cannot be compiled."""
        try:
            built = self._built()
            built.compile(tuple(map(built.typeof_pyval, arguments)))
        except Exception as error:  # noqa: BLE001 - Numba and LLVM raise all sorts, and the plain source does as well
            first = (str(error).strip().splitlines() or [""])[0]
            name = f"{self.py_func.__module__}.{self.py_func.__qualname__}"
            _events.add("slow", f"Numba does not compile {name} ({type(error).__name__}: {first}); {_REMEDY}")
            return self.py_func
        return cast("Callable[..., Any]", built)

    def _built(self) -> Any:
        if self._dispatcher is None:
            from detector.core.loops.machine_code import Files

            self._dispatcher = _numba().njit(**self._options)(self.py_func)
            self._dispatcher._cache = Files(self.py_func, _events.add)
        return self._dispatcher


_loops: list[Loop] = []

_REMEDY = "install the release of Numba that weirguard[service] names, or report this"


@cache
def _numba() -> Any:
    """Returns the module, prepared; None if it cannot be imported."""
    try:
        import numba

        from detector.core.loops import machine_code

        machine_code.prepare()
    except Exception as error:  # noqa: BLE001 - a broken installation raises all sorts
        _events.add("slow", f"Numba cannot be used ({error}); install it with pip install 'weirguard[service]'")
        return None
    return numba


class _Events:
    """Calls the listener with each event once; keeps events until there is a listener."""

    def __init__(self) -> None:
        self.listener: Listener | None = None
        self._seen: set[tuple[str, ...]] = set()
        self._waiting: list[tuple[str, ...]] = []

    def add(self, *event: str) -> None:
        """Adds an ``event``: the name of the listener's method and its argument."""
        if event not in self._seen:
            self._seen.add(event)
            self._waiting.append(event)
            self.deliver()

    def deliver(self) -> None:
        while self.listener is not None and self._waiting:
            name, *arguments = self._waiting.pop(0)
            getattr(self.listener, name)(*arguments)


_events = _Events()
