"""Converts rows of a table to queries, whole columns at once and in file order."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from detector.contracts.batches import in_log_order
from detector.contracts.codecs.json_queries import decode_json_run
from detector.contracts.codecs.loose import shown
from detector.contracts.codecs.screening import TEXT_COLUMNS, screen
from detector.contracts.principals import names_one, usable_principal
from detector.contracts.queries import BadRow, DecodedQueries, DecodedRun, OutputKind, QueryBatch
from detector.sources.cells import (
    Lists,
    TablePart,
    is_set,
    lists_of,
    numbers_of,
    optional_numbers,
    seconds,
    texts_of,
    values_of,
)
from detector.sources.kinds import is_list, kind_of, values_in
from detector.sources.mapping import LISTS, NUMBERS, TEXTS
from detector.sources.plan import ColumnPlan, LogReader

_NEEDED = ("principal", "model", "model_version")
_OPTIONAL = (*LISTS, *NUMBERS, *TEXT_COLUMNS)


def read_part(reading: LogReader, plan: ColumnPlan, part: TablePart) -> Iterator[DecodedQueries]:
    """Yields the queries in ``part``, and its refused rows."""
    columns = _TableColumns.of(reading, plan, part)
    bad = [_refused(columns, part, row) for row in sorted(part.faults)]
    good = np.array([row for row in range(len(part)) if row not in part.faults], np.int64)
    columns = columns.take(good) if bad else columns
    if bad or part.repaired:
        yield DecodedQueries(None, good[:0], bad_rows=bad, repaired=part.repaired)
    places = part.places[good]
    if any(isinstance(own, Values) for own in (columns.features, columns.outputs)):
        yield from of_run(decode_json_run([*columns.lines()], [None] * len(good)), places)
        return
    for first, stop in pairwise([*np.flatnonzero(columns.breaks()).tolist(), len(good)]):
        decoded = screen(columns.batch(first, stop), Counter())
        own = places[first:stop]
        faults = [replace(fault, row=int(own[fault.row])) for fault in decoded.bad_rows]
        yield DecodedQueries(decoded.batch, own[decoded.rows], bad_rows=faults, repaired=decoded.repaired)


def of_run(run: DecodedRun, places: NDArray[np.int64]) -> Iterator[DecodedQueries]:
    """Yields the queries of ``run``, one per record, in order. ``places`` int64 (n,): the records in their file."""
    for batch, records, _ in in_log_order(run.parts):
        yield DecodedQueries(batch, places[records])
    if run.bad or run.repaired:
        bad = [replace(fault, row=int(places[record])) for record, fault in run.bad]
        yield DecodedQueries(None, places[:0], bad_rows=bad, repaired=run.repaired)


@dataclass(frozen=True)
class _TableColumns:
    """Rows as numpy arrays and lists. ``set_``: which rows of an optional column are not null."""

    texts: dict[str, list[str | None]]
    occurred_at: NDArray[np.float64]
    features: Vectors
    outputs: Vectors
    answered: NDArray[np.bool_]
    lists: dict[str, Lists]
    numbers: dict[str, NDArray[Any]]
    set_: dict[str, NDArray[np.bool_]]

    @classmethod
    def of(cls, reading: LogReader, plan: ColumnPlan, part: TablePart) -> _TableColumns:
        texts = _texts(plan, part)
        occurred_at = _times(reading, plan, part)
        columns = cls(texts, occurred_at, features_of(part, plan), *outputs_of(part, plan), {}, {}, {})
        columns._add_optional(plan, part)
        _find_faults(columns, part)
        return columns

    def _add_optional(self, plan: ColumnPlan, part: TablePart) -> None:
        given = {role: part.columns[name] for role in (*LISTS, *NUMBERS) if (name := plan.column(role))}
        for role in LISTS:
            if role in given:
                self.lists[role], self.set_[role] = lists_of(part, role, given[role])
        for role in NUMBERS:
            if role in given:
                self.numbers[role], self.set_[role] = optional_numbers(part, role, given[role])
        for role in (role for role in TEXT_COLUMNS if role in self.texts):
            self.set_[role] = np.array([text is not None for text in self.texts[role]], np.bool_)
        self._leave_out(part)

    def _leave_out(self, part: TablePart) -> None:
        """Treats lists of a wrong length as null."""
        width = self.features.lengths if isinstance(self.features, Lists) else -1
        for role, own in (("missing", width), ("specification", 2)):
            if role in self.lists:
                odd = (self.lists[role].lengths != own) & self.set_[role]
                part.repaired["column"] += int(odd.sum())
                self.set_[role] &= ~odd
        part.repaired = +part.repaired

    def take(self, rows: NDArray[np.int64]) -> _TableColumns:
        """Returns those of ``rows``."""
        at = rows.tolist()
        return _TableColumns(
            {role: [own[row] for row in at] for role, own in self.texts.items()},
            self.occurred_at[rows],
            self.features.take(rows),
            self.outputs.take(rows),
            self.answered[rows],
            {role: own.take(rows) for role, own in self.lists.items()},
            {role: own[rows] for role, own in self.numbers.items()},
            {role: own[rows] for role, own in self.set_.items()},
        )

    @cached_property
    def kinds(self) -> list[str]:
        """Returns the kind of each row's outputs: the stated one, else by their number."""
        said = self.texts.get("output_kind") or [None] * len(self.answered)
        if isinstance(self.outputs, Named):
            alone = ["probabilities" if self.outputs.names else "label"] * len(said)
            said = [kind if kind == "none" or self.outputs.names else None for kind in said]
        else:
            lengths = cast("Lists", self.outputs).lengths.tolist()
            alone = ["unstated" if length == 1 else "probabilities" for length in lengths]
        known = [None if kind == "unstated" else kind for kind in said]
        given = [kind or own for kind, own in zip(known, alone, strict=True)]
        return [kind if answered else "none" for kind, answered in zip(given, self.answered.tolist(), strict=True)]

    def breaks(self) -> NDArray[np.bool_]:
        """Returns which rows cannot share a batch with the previous row; true for the first."""
        named = (self.texts["model"], self.texts["model_version"], self.kinds)
        vectors = (self.features, self.outputs, *self.lists.values())
        lengths = [own.lengths for own in vectors if isinstance(own, Lists)]
        breaks = np.zeros(len(self.occurred_at), np.bool_)
        breaks[:1] = True
        for column in (*(np.array(names, object) for names in named), *lengths, *self.set_.values()):
            breaks[1:] |= column[1:] != column[:-1]
        return breaks

    def batch(self, first: int, stop: int) -> QueryBatch:
        """Returns rows ``first`` to ``stop``, which share a shape."""
        kind = self.kinds[first]
        numbers: dict[str, int] = {}
        own = {role: [text or "" for text in texts[first:stop]] for role, texts in self.texts.items()}
        index = [numbers.setdefault(name, len(numbers)) for name in own["principal"]]
        return QueryBatch(
            model=own["model"][0],
            model_version=own["model_version"][0],
            output_kind=cast("OutputKind", kind),
            event_ids=own["event_id"],
            occurred_at=self.occurred_at[first:stop],
            principals=list(numbers),
            principal_index=np.array(index, np.int32),
            **self._features(first, stop),
            **self._outputs(kind, first, stop),
            **self._optional(first, stop, own),
        )

    def _features(self, first: int, stop: int) -> dict[str, Any]:
        if isinstance(self.features, Lists):
            return {"features": self.features.matrix(first, stop)}
        own = cast("Named", self.features)
        texts = None if own.texts is None else own.texts[first:stop]
        return {"features": own.numbers[first:stop], "feature_names": own.names, "texts": texts}

    def _outputs(self, kind: str, first: int, stop: int) -> dict[str, Any]:
        rows = stop - first
        if kind == "none":
            return {"outputs": np.zeros((rows, 0), np.float32)}
        if isinstance(self.outputs, Lists):
            return {"outputs": self.outputs.matrix(first, stop)}
        own = cast("Named", self.outputs)
        names = np.tile(np.array(own.names, object), (rows, 1)) if own.names else cast("Any", own.texts)[first:stop]
        return {"outputs": own.numbers[first:stop], "output_names": names}

    def _optional(self, first: int, stop: int, texts: dict[str, list[str]]) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for role in (role for role, own in self.set_.items() if own[first]):
            if role in self.lists:
                columns[role] = self.lists[role].matrix(first, stop)
            else:
                columns[role] = self.numbers[role][first:stop] if role in self.numbers else texts[role]
        return columns

    def lines(self) -> Iterator[bytes]:
        """Yields each row as a JSON query."""
        rows = len(self.occurred_at)
        features, outputs = _entries(self.features, rows), _entries(self.outputs, rows)
        for row in range(rows):
            fields: dict[str, Any] = {role: own[row] for role, own in self.texts.items() if own[row] is not None}
            fields |= {"occurred_at": float(self.occurred_at[row]), "features": features(row)}
            fields["outputs"] = outputs(row) if self.answered[row] else None
            for role in (role for role, own in self.set_.items() if own[row] and role not in TEXT_COLUMNS):
                own = self.lists[role].matrix(row, row + 1)[0] if role in self.lists else self.numbers[role][row]
                fields[role] = own.tolist()
            yield json.dumps(fields).encode()


def _entries(vectors: Vectors, rows: int) -> Callable[[int], Any]:
    """Returns the JSON value for a row."""
    if isinstance(vectors, Values):
        return vectors.values.__getitem__
    if isinstance(vectors, Lists):
        return lambda row: vectors.matrix(row, row + 1)[0].tolist()
    if not vectors.names:
        return lambda row: cast("Any", vectors.texts)[row, 0]
    texts = np.zeros((rows, 0), object) if vectors.texts is None else vectors.texts
    return lambda row: dict(zip(vectors.names, [*vectors.numbers[row].tolist(), *texts[row]], strict=True))


def _texts(plan: ColumnPlan, part: TablePart) -> dict[str, list[str | None]]:
    texts: dict[str, list[str | None]] = {role: [text] * len(part) for role, text in plan.constants.items()}
    for role in TEXTS:
        if name := plan.column(role):
            texts[role] = texts_of(part.columns[name])
    if "event_id" not in texts:
        texts["event_id"] = event_ids(part.path, part.places)
    return texts


def event_ids(path: Any, places: NDArray[np.int64]) -> list[str | None]:
    """Returns ids for a log without ids: file and row, from 1, for ``places`` int64 (n,)."""
    name = "/".join(path.parts[-2:])[-80:]
    return [f"{name}:{place + 1}" for place in places.tolist()]


def _times(reading: LogReader, plan: ColumnPlan, part: TablePart) -> NDArray[np.float64]:
    name = plan.column("occurred_at")
    if name is None:
        return reading.times(len(part))
    column = part.columns[name]
    times = seconds(column)
    for row in np.flatnonzero(np.isnan(times)).tolist():
        (value,) = values_in(column.slice(row, 1))
        told = "null" if value is None else f"{shown(value)}, which is no moment"
        part.refuse(row, f"{name} is {told}", "time")
    return times


def _find_faults(columns: _TableColumns, part: TablePart) -> None:
    for role in _NEEDED:
        for row, text in enumerate(columns.texts[role]):
            if text is None:
                part.refuse(row, f"{role} is null or no text")
    kinds: Sequence[str] = get_args(OutputKind)
    for row, kind in enumerate(columns.texts.get("output_kind", ())):
        if kind is not None and kind not in kinds:
            part.refuse(row, f"output_kind is none of {', '.join(kinds)}")


def _refused(columns: _TableColumns, part: TablePart, row: int) -> BadRow:
    """Returns the bad ``row`` with its place in the file."""
    reason, detail = part.faults[row]
    model, principal = columns.texts["model"][row] or "", columns.texts["principal"][row]
    who = "" if principal is None else usable_principal(principal)
    return BadRow(int(part.places[row]), reason, detail, model if names_one(model) else "", who)


@dataclass(frozen=True, slots=True)
class Named:
    """``names``: first of the columns of ``numbers`` float32 (n, d), NaN if missing, then of ``texts`` object (n, t),
    None if missing."""

    names: tuple[str, ...]
    numbers: NDArray[np.float32]
    texts: NDArray[np.object_] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.full(len(self.numbers), self.numbers.shape[1])

    def take(self, rows: NDArray[np.int64]) -> Named:
        """Those of ``rows``."""
        return Named(self.names, self.numbers[rows], None if self.texts is None else self.texts[rows])


@dataclass(frozen=True, slots=True)
class Values:
    """The JSON value of each row."""

    values: list[Any]

    def take(self, rows: NDArray[np.int64]) -> Values:
        """Those of ``rows``."""
        return Values([self.values[row] for row in rows.tolist()])


Vectors = Lists | Named | Values

_WORD, _LETTERS = re.compile(r".*[\W_](?=[^\W_]+$)"), re.compile(r"\D+(?=\d+$)")
_ENTRY = {"label", "class", "name", "score", "probability"}
"""Fields of a struct that describes one of the best classes, and not a distribution over classes."""


def features_of(part: TablePart, plan: ColumnPlan) -> Vectors:
    """Returns the features of each row of ``part``."""
    own = plan.columns["features"]
    if not plan.is_one("features"):
        return _named(part, plan, sorted(own))
    column = part.columns[own[0]]
    for row in np.flatnonzero(~is_set(column)).tolist():
        part.refuse(row, f"{own[0]} is null")
    return _whole(part, plan, "features", own[0])


def outputs_of(part: TablePart, plan: ColumnPlan) -> tuple[Vectors, NDArray[np.bool_]]:
    """Returns the outputs of each row of ``part`` (for texts a ``Named`` without names), and which rows have any, bool
    (n,)."""
    own = plan.columns.get("outputs", ())
    if len(own) == 1:
        return _whole(part, plan, "outputs", own[0]), is_set(part.columns[own[0]])
    named = _named(part, plan, own)
    absent: NDArray[np.bool_] = np.isnan(named.numbers)
    for row in np.flatnonzero(absent.any(axis=1) & ~absent.all(axis=1)).tolist():
        part.refuse(row, f"{named.names[int(absent[row].argmax())]} is null")
    is_answered: NDArray[np.bool_] = np.logical_not(np.logical_and.reduce(absent, axis=1))
    return Named(class_names(named.names), named.numbers), is_answered


def class_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Returns the class names of output ``columns``, without their common prefix."""
    for beginning in (_WORD, _LETTERS):
        found = {match[0] if (match := beginning.match(name)) else "" for name in columns}
        if len(found) == 1:
            start = len(found.pop())
            return tuple(name[start:] or name for name in columns)
    return tuple(columns)


def _whole(part: TablePart, plan: ColumnPlan, role: str, name: str) -> Vectors:
    """Returns a column that holds the whole vector of each row, or a single output."""
    column = part.columns[name]
    kind = plan.kinds[name] if kind_of(column.type) == "text" or is_list(column.type) else kind_of(column.type)
    if kind == "list" or kind is None:
        return lists_of(part, role, column)[0]
    if kind == "record" and (role == "features" or _is_distribution(column.type)):
        return _record(part, column, is_sorted=role == "features")
    if kind in {"value", "record"}:
        return _plainly(part, role, values_of(part, name, column))
    if kind == "text":
        names = np.array([text or "" for text in texts_of(column)], object)[:, None]
        return Named((), np.ones((len(part), 1), np.float32), names)
    return Lists(_float32(numbers_of(part, name, column)), np.arange(len(part) + 1))


def _is_distribution(struct: Any) -> bool:
    """Returns whether the fields of ``struct`` are classes."""
    names = {field.name for field in struct}
    return len(names) > 1 and not names & _ENTRY and all(kind_of(field.type) == "number" for field in struct)


def _named(part: TablePart, plan: ColumnPlan, names: Sequence[str]) -> Named:
    """Returns columns that hold one number or text per row."""
    return _joined(
        part, {name: part.columns[name] for name in names}, {name for name in names if plan.kinds[name] == "text"}
    )


def _record(part: TablePart, column: Any, *, is_sorted: bool) -> Named:
    import pyarrow.compute as pc

    names = [field.name for field in column.type]
    fields = {name: pc.struct_field(column, names.index(name)) for name in (sorted(names) if is_sorted else names)}
    return _joined(part, fields, {name for name, own in fields.items() if kind_of(own.type) == "text"})


def _joined(part: TablePart, columns: Mapping[str, Any], texts: set[str]) -> Named:
    """Returns ``columns`` by name, ``texts`` last; features are sorted by name, as in a JSON query."""
    numbers = [name for name in columns if name not in texts]
    matrix = _together([columns[name] for name in numbers])
    if matrix is None:
        matrix = np.empty((len(part), len(numbers)), np.float32)
        for at, name in enumerate(numbers):
            matrix[:, at] = _float32(numbers_of(part, name, columns[name]))
    names = [name for name in columns if name in texts]
    words = np.empty((len(part), len(names)), object)
    for at, name in enumerate(names):
        words[:, at] = texts_of(columns[name])
    return Named((*numbers, *names), matrix, words if names else None)


def _together(columns: Sequence[Any]) -> NDArray[np.float32] | None:
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


def _plainly(part: TablePart, role: str, values: list[Any]) -> Vectors:
    """Returns ``values`` as lists of numbers, if they are lists of numbers."""
    import pyarrow as pa

    try:
        return lists_of(part, role, pa.array(values, pa.list_(pa.float64())))[0]
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return Values(values)
