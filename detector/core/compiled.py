"""Compiles loops over rows with Numba; without Numba the same functions run as plain Python, with the same results.

A compiled function takes and returns numbers and arrays, keeps no state, and gives the same bits as its plain source.
It is compiled again for arrays of another type, layout or access: see ``plain``.
It divides by no zero: only the plain source would say so.
Only ``approximate`` sums may be formed in another order: they exclude candidates by a proven bound, and decide nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Scalar = TypeVar("Scalar", bound=np.generic)
Function = TypeVar("Function", bound=Callable[..., Any])

SWITCH = "WEIRGUARD_COMPILED"
"""``off`` in this environment variable runs the plain source."""

_ANY_ORDER = {"reassoc", "contract", "nsz"}


def plain(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """Returns ``array``, or a copy if it is not contiguous or is read-only, as arrays from records are."""
    flags = array.flags
    return array if flags.c_contiguous and flags.writeable else np.array(array, order="C")


def compiled(function: Function) -> Function:
    """Compiles ``function`` at its first call, and keeps the machine code on disk for the next process."""
    return _compiled(function, fastmath=False)


def approximate(function: Function) -> Function:
    """Like ``compiled``, but sums may be formed in any order."""
    return _compiled(function, fastmath=_ANY_ORDER)


def _compiled(function: Function, fastmath: bool | set[str]) -> Function:
    if os.environ.get(SWITCH) == "off":
        return function
    try:
        from numba import njit
    except ImportError:
        return function
    built: Any = njit(cache=True, fastmath=fastmath, error_model="numpy")(function)
    return cast(Function, built)
