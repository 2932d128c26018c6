"""Converts rows of a table to queries, complete columns at once and in file order."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import in_log_order
from detector.contracts.codecs.json_queries import decode_json_run
from detector.contracts.codecs.loose import shown
from detector.contracts.codecs.screening import TEXT_COLUMNS, screen
from detector.contracts.principals import is_name, usable_principal
from detector.contracts.queries import BadRow, DecodedQueries, DecodedRun, OutputKind, QueryBatch
from detector.sources.cells import (
    ListColumn,
    TablePart,
    is_set,
    lists_of,
    numbers_of,
    optional_numbers,
    texts_of,
    times_of,
    values_of,
)
from detector.sources.files import partitions
from detector.sources.kinds import is_list, kind_of, values_in
from detector.sources.mapping import LISTS, NUMBERS, TEXTS
from detector.sources.plan import ColumnPlan, LogReader

_NEEDED = ("principal", "model", "model_version")
_WORD, _LETTERS = re.compile(r".*[\W_](?=[^\W_]+$)"), re.compile(r"\D+(?=\d+$)")
_ENTRY = {"label", "class", "name", "score", "probability"}
"""Fields of a struct that describes one of the best classes, and not a distribution over classes."""


@dataclass(frozen=True, slots=True)
class NamedColumns:
    """``names``: first of the columns of ``numbers`` float32 (n, d), NaN if missing, then of ``texts`` object (n, t),
    None if missing. Without ``names``, ``texts`` (n, 1) has the predicted labels."""

    names: tuple[str, ...]
    numbers: NDArray[np.float32]
    texts: NDArray[np.object_] | None = None

    def take(self, rows: NDArray[np.int64]) -> NamedColumns:
        """Returns the values of ``rows``."""
        return NamedColumns(self.names, self.numbers[rows], None if self.texts is None else self.texts[rows])


@dataclass(frozen=True, slots=True)
class JsonColumn:
    """The JSON value of each row."""

    values: list[Any]

    def take(self, rows: NDArray[np.int64]) -> JsonColumn:
        """Returns the values of ``rows``."""
        return JsonColumn([self.values[row] for row in rows.tolist()])


Vectors = ListColumn | NamedColumns | JsonColumn


def read_part(
    reader: LogReader, plan: ColumnPlan, path: Path, columns: dict[str, Any], file_rows: NDArray[np.int64]
) -> Iterator[DecodedQueries]:
    """Yields the queries in rows of the table at ``path``, and the refused rows. ``columns``: Arrow arrays by name;
    ``file_rows`` int64 (n,): the rows in the file."""
    import pyarrow as pa

    from_path = {name: pa.array([text] * len(file_rows), pa.string()) for name, text in partitions(path).items()}
    part = TablePart(path, from_path | columns, file_rows)
    rows = _read_columns(reader, plan, part)
    bad = [_refused(rows, part, row) for row in sorted(part.faults)]
    good = np.array([row for row in range(len(part)) if row not in part.faults], np.int64)
    rows = rows.take(good) if bad else rows
    if bad or part.repaired:
        yield DecodedQueries(None, good[:0], bad_rows=bad, repaired=part.repaired)
    file_rows = file_rows[good]
    if isinstance(rows.features, JsonColumn) or isinstance(rows.outputs, JsonColumn):
        yield from of_run(decode_json_run([*rows.lines()], [None] * len(good)), file_rows)
        return
    for first, stop in pairwise([*np.flatnonzero(rows.breaks()).tolist(), len(good)]):
        decoded = screen(rows.batch(first, stop), Counter())
        part_rows = file_rows[first:stop]
        faults = [replace(fault, row=int(part_rows[fault.row])) for fault in decoded.bad_rows]
        yield DecodedQueries(decoded.batch, part_rows[decoded.rows], bad_rows=faults, repaired=decoded.repaired)


def of_run(run: DecodedRun, file_rows: NDArray[np.int64]) -> Iterator[DecodedQueries]:
    """Yields the queries of ``run``, one per record, in order. ``file_rows`` int64 (n,): the records in their file."""
    for batch, records, _ in in_log_order(run.parts):
        yield DecodedQueries(batch, file_rows[records])
    if run.bad or run.repaired:
        bad = [replace(fault, row=int(file_rows[record])) for record, fault in run.bad]
        yield DecodedQueries(None, file_rows[:0], bad_rows=bad, repaired=run.repaired)


def event_ids(path: Path, file_rows: NDArray[np.int64]) -> list[str]:
    """Returns ids for a log without ids: file and row, from 1, for ``file_rows`` int64 (n,)."""
    name = "/".join(path.parts[-2:])[-80:]
    return [f"{name}:{place + 1}" for place in file_rows.tolist()]


def class_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Returns the class names of output ``columns``, without their common prefix."""
    for prefix in (_WORD, _LETTERS):
        prefixes = {match[0] if (match := prefix.match(name)) else "" for name in columns}
        if len(prefixes) == 1:
            start = len(prefixes.pop())
            return tuple(name[start:] or name for name in columns)
    return tuple(columns)


@dataclass(frozen=True)
class _TableColumns:
    """Rows as arrays. ``optional``: lists and numbers by role. ``is_set``: which rows of an optional column are not
    null, bool (n,); the texts among these are in ``texts``."""

    texts: dict[str, NDArray[np.object_]]
    occurred_at: NDArray[np.float64]
    features: Vectors
    outputs: Vectors
    answered: NDArray[np.bool_]
    optional: dict[str, ListColumn | NDArray[Any]]
    is_set: dict[str, NDArray[np.bool_]]

    def take(self, rows: NDArray[np.int64]) -> _TableColumns:
        """Returns the values of ``rows``."""
        return _TableColumns(
            {role: column[rows] for role, column in self.texts.items()},
            self.occurred_at[rows],
            self.features.take(rows),
            self.outputs.take(rows),
            self.answered[rows],
            {role: column.take(rows) for role, column in self.optional.items()},
            {role: column[rows] for role, column in self.is_set.items()},
        )

    @cached_property
    def kinds(self) -> NDArray[np.object_]:
        """The kind of each row's outputs: the stated one, else by their number."""
        outputs, rows = self.outputs, len(self.answered)
        stated: Any = self.texts.get("output_kind", [None] * rows)
        if isinstance(outputs, NamedColumns):
            inferred = ["probabilities" if outputs.names else "label"] * rows
            stated = [kind if kind == "none" or outputs.names else None for kind in stated]
        else:
            lengths = cast("ListColumn", outputs).lengths.tolist()
            inferred = ["unstated" if length == 1 else "probabilities" for length in lengths]
        kinds = [
            inferred_kind if kind in (None, "unstated") else kind
            for kind, inferred_kind in zip(stated, inferred, strict=True)
        ]
        return np.where(self.answered, np.array(kinds, object), "none")

    def breaks(self) -> NDArray[np.bool_]:
        """Returns which rows cannot share a batch with the previous row; true for the first."""
        vectors = (self.features, self.outputs, *self.optional.values())
        lengths = [column.lengths for column in vectors if isinstance(column, ListColumn)]
        breaks = np.zeros(len(self.occurred_at), np.bool_)
        breaks[:1] = True
        for column in (self.texts["model"], self.texts["model_version"], self.kinds, *lengths, *self.is_set.values()):
            breaks[1:] |= column[1:] != column[:-1]
        return breaks

    def batch(self, first: int, stop: int) -> QueryBatch:
        """Returns rows ``first`` to ``stop``, which share a shape."""
        texts = {role: [text or "" for text in column[first:stop]] for role, column in self.texts.items()}
        numbers: dict[str, int] = {}
        index = [numbers.setdefault(name, len(numbers)) for name in texts["principal"]]
        kind = self.kinds[first]
        columns: dict[str, Any] = {}
        for role in (role for role, column in self.is_set.items() if column[first]):
            column = self.optional.get(role)
            columns[role] = texts[role] if column is None else _sliced(column, first, stop)
        if isinstance(self.features, NamedColumns):
            block = self.features
            columns |= {"feature_names": block.names, "texts": None if block.texts is None else block.texts[first:stop]}
        if isinstance(self.outputs, NamedColumns) and kind != "none":
            names = self.outputs.names
            labels = np.tile(np.array(names, object), (stop - first, 1))
            columns["output_names"] = labels if names else cast("Any", self.outputs.texts)[first:stop]
        return QueryBatch(
            model=texts["model"][0],
            model_version=texts["model_version"][0],
            output_kind=cast("OutputKind", kind),
            event_ids=texts["event_id"],
            occurred_at=self.occurred_at[first:stop],
            principals=list(numbers),
            principal_index=np.array(index, np.int32),
            features=_sliced(self.features, first, stop),
            outputs=np.zeros((stop - first, 0), np.float32) if kind == "none" else _sliced(self.outputs, first, stop),
            **columns,
        )

    def lines(self) -> Iterator[bytes]:
        """Yields each row as a JSON query."""
        rows = len(self.occurred_at)
        features, outputs = _entries(self.features, rows), _entries(self.outputs, rows)
        for row in range(rows):
            fields: dict[str, Any] = {role: column[row] for role, column in self.texts.items()}
            fields = {role: text for role, text in fields.items() if text is not None}
            fields |= {"occurred_at": float(self.occurred_at[row]), "features": features(row)}
            fields["outputs"] = outputs(row) if self.answered[row] else None
            for role, column in self.optional.items():
                if self.is_set[role][row]:
                    fields[role] = _sliced(column, row, row + 1)[0].tolist()
            yield json.dumps(fields).encode()


def _sliced(column: Vectors | NDArray[Any], first: int, stop: int) -> NDArray[Any]:
    """Returns the numbers of rows ``first`` to ``stop``, whose lists have one length."""
    if isinstance(column, ListColumn):
        return column.matrix(first, stop)
    return column.numbers[first:stop] if isinstance(column, NamedColumns) else cast("Any", column)[first:stop]


def _entries(vectors: Vectors, rows: int) -> Callable[[int], Any]:
    """Returns a function that gives the JSON value of a row."""
    if isinstance(vectors, JsonColumn):
        return vectors.values.__getitem__
    if isinstance(vectors, ListColumn):
        return lambda row: vectors.matrix(row, row + 1)[0].tolist()
    if not vectors.names:
        return lambda row: cast("Any", vectors.texts)[row, 0]
    texts = np.zeros((rows, 0), object) if vectors.texts is None else vectors.texts
    return lambda row: dict(zip(vectors.names, [*vectors.numbers[row].tolist(), *texts[row]], strict=True))


# -- from the columns of the table


def _read_columns(reader: LogReader, plan: ColumnPlan, part: TablePart) -> _TableColumns:
    texts = {role: np.full(len(part), text, object) for role, text in plan.constants.items()}
    texts |= {role: texts_of(part.columns[name]) for role in TEXTS if (name := plan.column(role))}
    if "event_id" not in texts:
        texts["event_id"] = np.array(event_ids(part.path, part.file_rows), object)
    times = _times(reader, plan, part)
    columns = _TableColumns(texts, times, _features(part, plan), *_outputs(part, plan), {}, {})
    for role in (*LISTS, *NUMBERS):
        if name := plan.column(role):
            convert = lists_of if role in LISTS else optional_numbers
            columns.optional[role], columns.is_set[role] = convert(part, role, part.columns[name])
    for role in (role for role in TEXT_COLUMNS if role in texts):
        columns.is_set[role] = np.array([text is not None for text in texts[role]], np.bool_)
    _leave_out(columns, part)
    _find_faults(columns, part)
    return columns


def _leave_out(columns: _TableColumns, part: TablePart) -> None:
    """Treats lists of a wrong length as null."""
    width = columns.features.lengths if isinstance(columns.features, ListColumn) else -1
    for role, length in (("missing", width), ("specification", 2)):
        if role in columns.optional:
            mismatched = (cast("ListColumn", columns.optional[role]).lengths != length) & columns.is_set[role]
            part.repaired["column"] += int(mismatched.sum())
            columns.is_set[role] &= ~mismatched
    part.repaired = +part.repaired


def _find_faults(columns: _TableColumns, part: TablePart) -> None:
    for role in _NEEDED:
        for row, text in enumerate(columns.texts[role]):
            if text is None:
                part.refuse(row, f"{role} is null or not a text")
    kinds: Sequence[str] = get_args(OutputKind)
    for row, kind in enumerate(columns.texts.get("output_kind", ())):
        if kind is not None and kind not in kinds:
            part.refuse(row, f"output_kind is none of {', '.join(kinds)}")


def _refused(columns: _TableColumns, part: TablePart, row: int) -> BadRow:
    """Returns the bad ``row`` with its place in the file."""
    reason, detail = part.faults[row]
    model, principal = columns.texts["model"][row] or "", columns.texts["principal"][row]
    who = "" if principal is None else usable_principal(principal)
    return BadRow(int(part.file_rows[row]), reason, detail, model if is_name(model) else "", who)


def _times(reader: LogReader, plan: ColumnPlan, part: TablePart) -> NDArray[np.float64]:
    name = plan.column("occurred_at")
    if name is None:
        return reader.times(len(part))
    column = part.columns[name]
    times = times_of(column)
    for row in np.flatnonzero(np.isnan(times)).tolist():
        (value,) = values_in(column.slice(row, 1))
        mistake = "null" if value is None else f"{shown(value)}, which is not a time"
        part.refuse(row, f"{name} is {mistake}", "time")
    return times


def _features(part: TablePart, plan: ColumnPlan) -> Vectors:
    names = plan.columns["features"]
    if not plan.is_one("features"):
        return _named_columns(part, plan, sorted(names))
    for row in np.flatnonzero(~is_set(part.columns[names[0]])).tolist():
        part.refuse(row, f"{names[0]} is null")
    return _vectors(part, plan, "features", names[0])


def _outputs(part: TablePart, plan: ColumnPlan) -> tuple[Vectors, NDArray[np.bool_]]:
    """Returns the outputs of each row of ``part``, and which rows have any, bool (n,)."""
    names = plan.columns.get("outputs", ())
    if len(names) == 1:
        return _vectors(part, plan, "outputs", names[0]), is_set(part.columns[names[0]])
    outputs = _named_columns(part, plan, names)
    absent: NDArray[np.bool_] = np.isnan(outputs.numbers)
    for row in np.flatnonzero(absent.any(axis=1) & ~absent.all(axis=1)).tolist():
        part.refuse(row, f"{outputs.names[int(absent[row].argmax())]} is null")
    is_answered: NDArray[np.bool_] = np.logical_not(np.logical_and.reduce(absent, axis=1))
    return NamedColumns(class_names(outputs.names), outputs.numbers), is_answered


def _vectors(part: TablePart, plan: ColumnPlan, role: str, name: str) -> Vectors:
    """Returns a column that holds the complete vector of each row, or a single output."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = part.columns[name]
    kind = plan.kinds[name] if kind_of(column.type) == "text" or is_list(column.type) else kind_of(column.type)
    if kind == "list" or kind is None:
        return lists_of(part, role, column)[0]
    if kind == "record" and (role == "features" or _is_distribution(column.type)):
        names = [field.name for field in column.type]
        ordered = sorted(names) if role == "features" else names
        fields = {name: pc.struct_field(column, names.index(name)) for name in ordered}
        return _joined(part, fields, {name for name, column in fields.items() if kind_of(column.type) == "text"})
    if kind in {"value", "record"}:
        values = values_of(part, name, column)
        try:
            return lists_of(part, role, pa.array(values, pa.list_(pa.float64())))[0]
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return JsonColumn(values)
    if kind == "text":
        labels = np.array([text or "" for text in texts_of(column)], object)[:, None]
        return NamedColumns((), np.ones((len(part), 1), np.float32), labels)
    return ListColumn(_float32(numbers_of(part, name, column)), np.arange(len(part) + 1))


def _is_distribution(struct: Any) -> bool:
    """Returns whether the fields of ``struct`` are classes."""
    names = {field.name for field in struct}
    return len(names) > 1 and not names & _ENTRY and all(kind_of(field.type) == "number" for field in struct)


def _named_columns(part: TablePart, plan: ColumnPlan, names: Sequence[str]) -> NamedColumns:
    """Returns columns that hold one number or text per row."""
    texts = {name for name in names if plan.kinds[name] == "text"}
    return _joined(part, {name: part.columns[name] for name in names}, texts)


def _joined(part: TablePart, columns: Mapping[str, Any], texts: set[str]) -> NamedColumns:
    """Returns ``columns`` by name, ``texts`` last; features are sorted by name, as in a JSON query."""
    numeric = [name for name in columns if name not in texts]
    numbers = _numbers_together([columns[name] for name in numeric])
    if numbers is None:
        numbers = np.empty((len(part), len(numeric)), np.float32)
        for at, name in enumerate(numeric):
            numbers[:, at] = _float32(numbers_of(part, name, columns[name]))
    textual = [name for name in columns if name in texts]
    words = np.empty((len(part), len(textual)), object)
    for at, name in enumerate(textual):
        words[:, at] = texts_of(columns[name])
    return NamedColumns((*numeric, *textual), numbers, words if textual else None)


def _numbers_together(columns: Sequence[Any]) -> NDArray[np.float32] | None:
    """Returns ``columns`` of texts of numbers as a matrix, or None if some are not numbers. Converts all at once, which
    takes a tenth of the time for thousands of columns."""
    import pyarrow as pa

    if not columns or any(column.type != pa.string() for column in columns):
        return None
    try:
        numbers = pa.concat_arrays(columns).cast("float64").to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return None
    return _float32(np.asarray(numbers, np.float64)).reshape(len(columns), -1).T


def _float32(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)
