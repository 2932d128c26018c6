"""Random numbers that a secret key, the principal, the model and the input determine.

The same query always gets the same noise, in every process that holds the key, so asking again does not average it out.
Without the key the noise cannot be predicted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from detector.contracts.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
else:
    from detector.contracts.lazy import np

KEY_BYTES = 16
"""The fewest bytes of a key."""

STEPS = 64
"""Cells between 0 and the power of two at or above a row's largest absolute value."""

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""The constants of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""


class Draws:
    """Random numbers for ``n`` rows, by ``seeds`` uint64 (n, 2).

    A row's numbers depend on its own seed alone, and the first m uniform ones not on m.
    """

    def __init__(self, seeds: NDArray[np.uint64]) -> None:
        self._seeds = seeds

    @classmethod
    def of(cls, digests: Iterable[bytes]) -> Draws:
        """Returns the draws that ``digests`` of 16 bytes, one a row, determine."""
        return cls(np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2).astype(np.uint64))

    @classmethod
    def none(cls, rows: int) -> Draws:
        """Returns draws that are all the same, for ``rows`` rows of a response that uses none."""
        return cls(np.zeros((rows, 2), dtype=np.uint64))

    def take(self, rows: NDArray[np.int64]) -> Draws:
        """Returns the draws of ``rows`` (m,)."""
        return Draws(self._seeds[rows])

    def uniform(self, columns: int) -> NDArray[np.float64]:
        """Returns float64 (n, columns), each above 0 and below 1."""
        steps = np.arange(1, 1 + columns, dtype=np.uint64) * np.uint64(_GOLDEN)
        mixed = _mixed(_mixed(self._seeds[:, :1] + steps) ^ self._seeds[:, 1:])
        return (mixed >> np.uint64(12)).astype(np.float64) * 2.0**-52 + 2.0**-53

    def normal(self, columns: int) -> NDArray[np.float64]:
        """Returns standard normal numbers float64 (n, columns), by Box and Muller."""
        both = self.uniform(2 * columns)
        radius, turn = np.sqrt(-2 * np.log(both[:, :columns])), np.cos(2 * np.pi * both[:, columns:])
        return radius * turn  # type: ignore[no-any-return]


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    return state ^ (state >> np.uint64(31))


class NoiseKey:
    """The secret ``key``, and ``step``: inputs in one cell of that size count as the same.

    ``step`` is one number, or one a feature, in the features' units. None takes a 64th of the power of two at or above
    the row's largest absolute value, which fits images and scaled tables. Raises ConfigurationError for a key shorter
    than 16 bytes or longer than 64, and for a step that is not above 0.
    """

    def __init__(self, key: bytes, step: ArrayLike | None = None) -> None:
        if not KEY_BYTES <= len(key) <= hashlib.blake2b.MAX_KEY_SIZE:
            raise ConfigurationError(
                f"the key of the noise has {len(key)} bytes; give the same {KEY_BYTES} to 64 secret bytes to every gate"
            )
        if step is not None and not (np.isfinite(step).all() and (np.asarray(step) > 0).all()):
            raise ConfigurationError("the step of the noise must be above 0; give the features' own resolution")
        self._key = bytes(key)
        self._step: NDArray[np.float64] | None = None if step is None else np.asarray(step, dtype=np.float64)

    def draws(self, holder: str, model: str, features: Any, rows: int) -> Draws:
        """Returns the draws of ``rows`` rows of ``features``, for ``holder``, a principal or a group, and ``model``.

        ``features``: as :meth:`QueryLogger.log` takes them. Rows that cannot be distinguished share their draws.
        """
        return Draws.of(self._digests(holder, model, _cells(features, rows, self._step)))

    def _digests(self, holder: str, model: str, cells: Iterable[bytes]) -> Iterable[bytes]:
        base = hashlib.blake2b(key=self._key, digest_size=16)
        for name in (holder, model):
            text = name.encode("utf-8", "surrogatepass")
            base.update(b"%d:%b" % (len(text), text))
        for cell in cells:
            digest = base.copy()
            digest.update(cell)
            yield digest.digest()


def _cells(features: Any, rows: int, step: NDArray[np.float64] | None) -> list[bytes]:
    """Returns the bytes of each row's cell; one cell for all rows if they cannot be distinguished."""
    try:
        matrix = np.asarray(features, dtype=np.float64)
    except (TypeError, ValueError):
        return _loose_cells(features, rows)
    if matrix.size % rows or not matrix.size:
        return [b""] * rows
    matrix = matrix.reshape(rows, -1)
    if not np.isfinite(matrix).all():
        matrix = np.nan_to_num(matrix, nan=0.0, posinf=3e38, neginf=-3e38)
    if step is None:
        largest = np.abs(matrix).max(axis=1, keepdims=True)
        step = np.exp2(np.ceil(np.log2(np.where(largest > 0, largest, 1)))) / STEPS
    with np.errstate(over="ignore", invalid="ignore"):
        cells = np.rint(matrix / step) + 0.0  # no -0
    return [row.tobytes() for row in cells]


def _loose_cells(features: Any, rows: int) -> list[bytes]:
    """Returns the cells of rows with names, texts or of several widths; numbers count to three digits."""
    listed = [features] if isinstance(features, Mapping) or rows == 1 else list(features)
    if len(listed) != rows:
        return [b""] * rows
    return [repr(_coarse(row)).encode("utf-8", "surrogatepass") for row in listed]


def _coarse(value: Any) -> Any:
    if isinstance(value, Mapping):
        return sorted((str(name), _coarse(item)) for name, item in value.items())
    if isinstance(value, str) or value is None:
        return value
    if hasattr(value, "__len__"):
        return [_coarse(item) for item in value]
    try:
        return f"{float(value):.2e}"
    except (TypeError, ValueError):
        return str(value)
