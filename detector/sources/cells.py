"""Cells of a table that are not of their column's kind: emptied one by one, so that none stops a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.loose_values import as_float, marks_of, shown, text_of, whole_of
from detector.contracts.codecs.mending import TEXT_COLUMNS
from detector.contracts.errors import ConfigurationError
from detector.contracts.queries import OutputKind

LISTS = {"features": "float32", "outputs": "float32", "missing": "bool", "specification": "float32"}
NUMBERS = {"hardness": "float32", "leaf": "int64"}
TEXTS = ("event_id", "principal", "model", "model_version", "output_kind", *TEXT_COLUMNS)
_NEEDED = ("principal", "model", "model_version")
_VECTORS = ("features", "outputs")


@dataclass
class Cells:
    """A part of a table, its cells null or of their column's kind; its ``texts`` apart, by name. ``faults``: by row,
    what it lacks that a query cannot do without. ``repaired``: as in ``DecodedRun``."""

    table: Any
    texts: dict[str, list[str | None]] = field(default_factory=dict)
    faults: dict[int, str] = field(default_factory=dict)
    repaired: Counter[str] = field(default_factory=Counter)

    def take(self, rows: NDArray[np.int64]) -> Cells:
        """Those of some ``rows`` without a fault, int64 (n,); counted together with these."""
        texts = {name: [column[row] for row in rows.tolist()] for name, column in self.texts.items()}
        return Cells(self.table.take(rows), texts, repaired=self.repaired)


def clean(path: Path, table: Any) -> Cells:
    """``table``, a record batch of the file at ``path``, with cells of another kind emptied. Raises
    ConfigurationError where a whole column is of another kind."""
    cells = Cells(table)
    names = set(table.schema.names)
    for name in TEXTS:
        if name in names:
            cells.texts[name] = _texts(table[name])
    for name in sorted(names & LISTS.keys()):
        _clean_lists(path, cells, name)
    for name in sorted(names & NUMBERS.keys()):
        _clean_numbers(cells, name)
    _find_faults(cells)
    return cells


def _texts(column: Any) -> list[str | None]:
    """A column of text, or of numbers that serve as names."""
    import pyarrow as pa

    if any(test(column.type) for test in (pa.types.is_integer, pa.types.is_decimal, pa.types.is_dictionary)):
        column = column.cast("string")
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast("binary").to_pylist()
    return [text_of(value) for value in values]


def _clean_lists(path: Path, cells: Cells, name: str) -> None:
    import pyarrow as pa

    kind = cells.table[name].type
    if not _is_list(kind):
        raise ConfigurationError(f"{path}: the column {name} is {kind}; it must be a list of {LISTS[name]}")
    inner = kind.value_type
    if pa.types.is_nested(inner):
        raise ConfigurationError(f"{path}: the column {name} is {kind}; flatten {name} into one list a row")
    if pa.types.is_primitive(inner) and not pa.types.is_temporal(inner):
        return
    of = marks_of if name == "missing" else _numbers
    _replace(cells, name, pa.list_(pa.bool_() if name == "missing" else pa.float64()), of)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _numbers(values: list[Any]) -> list[float | None]:
    """``values`` as numbers, texts of numbers among them. Raises ValueError for the first that is none."""
    numbers: list[float | None] = []
    for at, value in enumerate(values):
        number = _number(value)
        if number is None:
            raise ValueError(f"[{at}] is {shown(value)}, which is no number")
        numbers.append(number)
    return numbers


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else as_float(value)
    except (ValueError, TypeError):
        return None


def _clean_numbers(cells: Cells, name: str) -> None:
    import pyarrow as pa

    try:
        cells.table[name].cast(NUMBERS[name])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        kind = pa.int64() if name == "leaf" else pa.float64()
        _replace(cells, name, kind, _leaf if name == "leaf" else _number)


def _leaf(value: Any) -> int | None:
    return whole_of(_number(value) if isinstance(value, str) else value)


def _replace(cells: Cells, name: str, kind: Any, of: Callable[[Any], Any]) -> None:
    """Convert the column ``name`` to ``kind`` cell by cell; one that cannot be becomes null, which is a fault where
    the row needs it."""
    import pyarrow as pa

    converted: list[Any] = []
    for row, scalar in enumerate(cells.table[name]):
        converted.append(None)
        try:
            value = scalar.as_py()
            converted[-1] = None if value is None else of(value)
            if value is None or converted[-1] is not None:
                continue
        except ValueError as error:
            if name in _VECTORS:
                detail = " hold text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
                cells.faults.setdefault(row, f"{name}{detail}")
                continue
        cells.repaired["column"] += 1
    at = cells.table.schema.get_field_index(name)
    cells.table = cells.table.set_column(at, name, pa.array(converted, kind))


def _find_faults(cells: Cells) -> None:
    for name in _NEEDED:
        _fault(cells, [text is None for text in cells.texts[name]], f"{name} is null or no text")
    for name in ("occurred_at", *_VECTORS):
        if cells.table[name].null_count:
            _fault(cells, cells.table[name].is_null().to_pylist(), f"{name} is null")
    kinds = get_args(OutputKind)
    odd = [kind is not None and kind not in kinds for kind in cells.texts.get("output_kind", ())]
    _fault(cells, odd, f"output_kind is none of {', '.join(kinds)}")


def _fault(cells: Cells, odd: list[bool], detail: str) -> None:
    for row in (row for row, is_odd in enumerate(odd) if is_odd):
        cells.faults.setdefault(row, detail)
