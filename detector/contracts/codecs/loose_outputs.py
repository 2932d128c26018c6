"""Outputs as people have them: a number, a label, a vector, a distribution by the names of its classes, or none."""

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
    """``values``: bytes of little-endian float32; ``names``: the class that each stands for."""

    kind: OutputKind
    values: bytes
    names: tuple[str, ...] | None = None


def outputs_of(given: Any, declared: OutputKind | None) -> LooseOutputs:
    """What the model said by the value ``given`` of a record, which ``declared`` the kind or None. Raises
    InvalidRecord where it can be nothing that a model says."""
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
    """``outputs`` and ``output_names`` of rows that agree in width and in whether they have names."""
    import numpy as np

    width = len(rows[0].values) // 4
    outputs = np.frombuffer(b"".join([row.values for row in rows]), dtype="<f4").reshape(len(rows), width)
    if rows[0].names is None:
        return {"outputs": outputs}
    names = np.empty((len(rows), width), dtype=object)
    names[:] = [row.names for row in rows]
    return {"outputs": outputs, "output_names": names}


def as_bytes(numbers: Sequence[float | None]) -> bytes:
    """Little-endian float32 of ``numbers``, NaN for None and infinite beyond float32."""
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
    """The bytes of one float32 or more; None where ``text`` is no base64 of such."""
    try:
        data = a2b_base64(text, strict_mode=True)
    except (Error, ValueError):
        return None
    return data if data and len(data) % 4 == 0 else None


def _is_entry(given: dict[str, Any]) -> bool:
    """Whether this is one of a list of the best classes, or a single number under a name that says no more."""
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
