"""Outputs as a number, a label, a vector, a distribution by class name, or none."""

from __future__ import annotations

import struct
from binascii import Error, a2b_base64
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from types import NoneType
from typing import Any, cast

from detector.contracts.codecs.limits import OUTPUTS
from detector.contracts.codecs.loose_values import number_of, shown, text_of
from detector.contracts.errors import InvalidRecord
from detector.contracts.queries import OutputKind

_LABELS = ("label", "class", "name")
_SCORES = ("score", "probability")
_ADVICE = (
    "send a number, a label, a list of numbers, an object of classes and their probabilities, or a list of "
    "{label, score}"
)


_FLOATS = frozenset({float, NoneType})


@dataclass(slots=True)
class LooseOutputs:
    """``values``: bytes of little-endian float32; ``names``: the class of each value."""

    kind: OutputKind
    values: bytes
    names: tuple[str, ...] | None = None


def outputs_of(given: Any, declared: OutputKind | None) -> LooseOutputs:
    """Returns the outputs in the value ``given`` of a record with the ``declared`` kind or None. Raises InvalidRecord
    if the value cannot be an output."""
    if given is None or declared == "none":
        return LooseOutputs("none", b"")
    kind = None if declared == "unstated" else declared
    if isinstance(given, (int, float)):
        return LooseOutputs(kind or "unstated", as_bytes([_number(given)]))
    if isinstance(given, str):
        return _of_text(given, kind)
    if isinstance(given, dict):
        if len(given) == 1 and isinstance(only := next(iter(given.values())), (list, dict)):
            return outputs_of(only, declared)
        return _of_entries([given], kind) if _is_entry(given) else _of_names(given, kind)
    if isinstance(given, list):
        return _of_list(given, kind)
    raise InvalidRecord("structure", f"outputs is {shown(given)}; {_ADVICE}")


def output_columns(rows: Sequence[LooseOutputs]) -> dict[str, Any]:
    """Returns ``outputs`` and ``output_names`` of rows of equal width, which all have names or all have none."""
    import numpy as np

    width = len(rows[0].values) // 4
    outputs = np.frombuffer(b"".join([row.values for row in rows]), dtype="<f4").reshape(len(rows), width)
    if rows[0].names is None:
        return {"outputs": outputs}
    names = np.empty((len(rows), width), dtype=object)
    names[:] = [row.names for row in rows]
    return {"outputs": outputs, "output_names": names}


def as_bytes(numbers: Sequence[float | None]) -> bytes:
    """Returns ``numbers`` as little-endian float32: NaN for None, infinity beyond float32."""
    try:
        return struct.pack(f"<{len(numbers)}f", *numbers)
    except (struct.error, OverflowError):
        import numpy as np

        with np.errstate(over="ignore"):
            return np.array(numbers, dtype=np.float64).astype("<f4").tobytes()


def _of_list(given: list[Any], kind: OutputKind | None) -> LooseOutputs:
    if len(given) > OUTPUTS:
        raise InvalidRecord("dimension", f"outputs have {len(given)} entries; send 1 to {OUTPUTS}")
    if len(given) == 1 and given[0] is not None:
        return outputs_of(given[0], kind)
    if given and all(isinstance(entry, dict) for entry in given):
        return _of_entries(given, kind)
    if not _FLOATS.issuperset(map(type, given)):
        numbers = [number_of(entry) for entry in given]
        if None in numbers:
            at = numbers.index(None)
            raise InvalidRecord("structure", f"outputs[{at}] is {shown(given[at])}; {_ADVICE}")
        given = numbers
    return LooseOutputs(kind or "probabilities", as_bytes(given))


def _of_text(given: str, kind: OutputKind | None) -> LooseOutputs:
    vector = _from_base64(given)
    if vector is not None and (kind != "label" or len(vector) == 4):
        return LooseOutputs(kind or ("probabilities" if len(vector) > 4 else "unstated"), vector)
    try:
        number = float(given)
    except ValueError:
        number = nan
    if isfinite(number):
        return LooseOutputs(kind or "unstated", as_bytes([number]))
    if kind in ("probabilities", "score"):
        raise InvalidRecord("encoding", f"outputs are {kind}, and neither padded base64 of float32 nor a number")
    return LooseOutputs("label", as_bytes([1.0]), (given,))


def _from_base64(text: str) -> bytes | None:
    """Returns the bytes of one float32 or more, or None if ``text`` is not base64 of float32."""
    try:
        data = a2b_base64(text, strict_mode=True)
    except (Error, ValueError):
        return None
    return data if data and len(data) % 4 == 0 else None


def _is_entry(given: dict[str, Any]) -> bool:
    """Returns whether this is an entry of a list of best classes, or a single number under a generic name."""
    return any(key in given for key in _LABELS) or (len(given) == 1 and next(iter(given)) in _SCORES)


def _of_entries(given: Sequence[dict[str, Any]], kind: OutputKind | None) -> LooseOutputs:
    labels = [text_of(_first(entry, _LABELS)) for entry in given]
    scores = [_first(entry, _SCORES) for entry in given]
    if len(given) == 1 and None in (labels[0], scores[0]):
        return outputs_of(labels[0] if scores[0] is None else scores[0], kind)
    if None in labels:
        raise InvalidRecord("structure", f"outputs[{labels.index(None)}] has no label; {_ADVICE}")
    return _of_names(dict(zip(cast("list[str]", labels), scores, strict=True)), kind)


def _first(entry: dict[str, Any], keys: Sequence[str]) -> Any:
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def _of_names(given: dict[str, Any], kind: OutputKind | None) -> LooseOutputs:
    if not 0 < len(given) <= OUTPUTS:
        raise InvalidRecord("dimension", f"outputs have {len(given)} entries; send 1 to {OUTPUTS}")
    for name, value in given.items():
        if number_of(value) is None:
            raise InvalidRecord("structure", f"outputs[{name!r:.80}] is {shown(value)}; {_ADVICE}")
    numbers = [_number(value) for value in given.values()]
    if kind == "label":
        return LooseOutputs("label", as_bytes([1.0]), (max(zip(numbers, given, strict=True))[1],))
    if kind is None and len(numbers) == 1 and not 0 <= numbers[0] <= 1:
        return LooseOutputs("unstated", as_bytes(numbers))
    return LooseOutputs(kind or "probabilities", as_bytes(numbers), tuple(given))


def _number(value: Any) -> float:
    number = number_of(value)
    return float(value) if number is None else number
