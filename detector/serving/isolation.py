"""Isolates the caller's process from the SDK: errors do not escape, forked processes inherit no locks or threads."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Protocol
from weakref import WeakSet

_LOCK_SECONDS = 10.0
"""The longest time that a fork waits for blocks of ``not_forking``."""


class Renewable(Protocol):
    """Something with its own locks, threads or totals."""

    def renew(self) -> None: ...


_renewables: WeakSet[Renewable] = WeakSet()
_lock = threading.RLock()


def renew_in_children(renewable: Renewable) -> None:
    """Registers ``renewable``: its ``renew()`` is called in every forked child process, as long as it is in use."""
    _renewables.add(renewable)


@contextlib.contextmanager
def not_forking() -> Iterator[None]:
    """Makes a fork by another thread wait until this block has ended.

    For blocks that hold locks of libraries: an import that was under way in a thread never ends in the child.
    """
    with _lock:
        yield


def load() -> None:
    """Imports all that the threads need, as they start. Takes about half a second the first time."""
    with not_forking():
        import encodings.idna  # noqa: F401  what looking up a host imports

        import kafka  # noqa: F401
        import msgspec  # noqa: F401
        import numpy as np  # noqa: F401


@contextlib.contextmanager
def suppress_errors(failed: Callable[[BaseException], object] | None = None) -> Iterator[None]:
    """Suppresses errors raised in this block, except those that end the process, and calls ``failed`` with them."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001  no fault of the SDK may break the caller or end a thread
        if failed is not None:
            failed(error)


def _before() -> None:
    _lock.acquire(timeout=_LOCK_SECONDS)


def _in_parent() -> None:
    with contextlib.suppress(RuntimeError):  # it was not acquired in time
        _lock.release()


def _in_child() -> None:
    global _lock  # noqa: PLW0603  the one lock of the process
    _lock = threading.RLock()
    for renewable in list(_renewables):
        with contextlib.suppress(Exception):  # one that fails must not keep the others from it
            renewable.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
