"""Converts rows of a table to queries, whole columns at once and in file order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from detector.sources.cells import Lists, Part, lists_of, optional_numbers, texts_of
from detector.sources.looks import values_in
from detector.sources.mapping import LISTS, NUMBERS, TEXTS
from detector.sources.plan import Plan
from detector.sources.reading import Reading
from detector.sources.times import seconds
from detector.sources.vectors import Named, Values, Vectors, features_of, outputs_of

_NEEDED = ("principal", "model", "model_version")
_OPTIONAL = (*LISTS, *NUMBERS, *TEXT_COLUMNS)


def read_part(reading: Reading, plan: Plan, part: Part) -> Iterator[DecodedQueries]:
    """Yields the queries in ``part``, and its refused rows."""
    columns = _Columns.of(reading, plan, part)
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
class _Columns:
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
    def of(cls, reading: Reading, plan: Plan, part: Part) -> _Columns:
        texts = _texts(plan, part)
        occurred_at = _times(reading, plan, part)
        columns = cls(texts, occurred_at, features_of(part, plan), *outputs_of(part, plan), {}, {}, {})
        columns._add_optional(plan, part)
        _find_faults(columns, part)
        return columns

    def _add_optional(self, plan: Plan, part: Part) -> None:
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

    def _leave_out(self, part: Part) -> None:
        """Treats lists of a wrong length as null."""
        width = self.features.lengths if isinstance(self.features, Lists) else -1
        for role, own in (("missing", width), ("specification", 2)):
            if role in self.lists:
                odd = (self.lists[role].lengths != own) & self.set_[role]
                part.repaired["column"] += int(odd.sum())
                self.set_[role] &= ~odd
        part.repaired = +part.repaired

    def take(self, rows: NDArray[np.int64]) -> _Columns:
        """Returns those of ``rows``."""
        at = rows.tolist()
        return _Columns(
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
        for role in (role for role, is_set in self.set_.items() if is_set[first]):
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
            for role in (role for role, is_set in self.set_.items() if is_set[row] and role not in TEXT_COLUMNS):
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


def _texts(plan: Plan, part: Part) -> dict[str, list[str | None]]:
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


def _times(reading: Reading, plan: Plan, part: Part) -> NDArray[np.float64]:
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


def _find_faults(columns: _Columns, part: Part) -> None:
    for role in _NEEDED:
        for row, text in enumerate(columns.texts[role]):
            if text is None:
                part.refuse(row, f"{role} is null or no text")
    kinds: Sequence[str] = get_args(OutputKind)
    for row, kind in enumerate(columns.texts.get("output_kind", ())):
        if kind is not None and kind not in kinds:
            part.refuse(row, f"output_kind is none of {', '.join(kinds)}")


def _refused(columns: _Columns, part: Part, row: int) -> BadRow:
    """Returns the bad ``row`` with its place in the file."""
    reason, detail = part.faults[row]
    model, principal = columns.texts["model"][row] or "", columns.texts["principal"][row]
    who = "" if principal is None else usable_principal(principal)
    return BadRow(int(part.places[row]), reason, detail, model if names_one(model) else "", who)
