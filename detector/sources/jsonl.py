"""JSON lines: one query per line, as in ``weirguard.query`` or with fields that a plan names."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.json_queries import decode_json_run
from detector.contracts.codecs.limits import RECORD_BYTES
from detector.contracts.codecs.loose import json_fields
from detector.contracts.errors import ConfigurationError, InvalidRecord
from detector.contracts.queries import DecodedQueries
from detector.sources.cells import moment
from detector.sources.files import opened, partitions
from detector.sources.kinds import ColumnLook, Kind
from detector.sources.mapping import VECTORS
from detector.sources.plan import ColumnPlan, LogReader
from detector.sources.table import class_names, event_ids, of_run

_LINES = 1024
_BYTES = 16 << 20
_DISTINCT = 100
_MARK = b"\xef\xbb\xbf"
_BASE64, _BASE64_LETTERS = 16, re.compile(r"[A-Za-z0-9+/]+={0,2}")


def read_jsonl(path: Path, reading: LogReader | None = None) -> Iterator[DecodedQueries]:
    """Yields the queries in the JSON lines file at ``path``, without blank lines. Raises ConfigurationError."""
    reading = reading or LogReader()
    plan, is_query = None, True
    with opened(path) as file:
        if file.peek(1)[:1] == b"[":  # type: ignore[attr-defined]
            raise ConfigurationError(f"{path}: the file is one JSON array; write an object a line instead")
        lines = enumerate(_lines(file))
        while portion := _portion(lines):
            written = [(number, line) for number, line in portion if line.strip(b" \t\r\n" + _MARK)]
            places = np.array([number for number, _ in written], np.int64)
            values = [line for _, line in written]
            if plan is None:
                plan, is_query = _plan(path, reading, values)
            if plan is not None and not is_query:
                values = [*_Rewriting(path, reading, plan).lines(values, places)]
            yield from of_run(decode_json_run(values, [None] * len(values)), places)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yields each line; a line above the record limit is cut, but stays long enough to be refused."""
    while line := file.readline(RECORD_BYTES + 2):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(RECORD_BYTES)
        yield line.rstrip(b"\r\n")


def _portion(lines: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    portion, nbytes = [], 0
    for number, line in islice(lines, _LINES):
        portion.append((number, line))
        nbytes += len(line)
        if nbytes > _BYTES:
            break
    return portion


def _plan(path: Path, reading: LogReader, values: list[bytes]) -> tuple[ColumnPlan | None, bool]:
    """Returns the plan for the fields in ``values``, or None if none is an object, and whether they need no mapping."""
    objects = [fields for value in values if (fields := _fields(value)[0]) is not None]
    names = dict.fromkeys(name for fields in objects for name in fields if name != "schema")
    if not names:
        return None, True
    columns = {name: [fields[name] for fields in objects if fields.get(name) is not None] for name in names}
    looks = {name: _look(name, own) for name, own in columns.items() if own}
    plan = reading.plan(path, lambda: looks, frozenset([*looks, *partitions(path)]))
    return plan, _is_query(plan) and all(map(_is_time, columns["occurred_at"]))


def _fields(value: bytes) -> tuple[dict[str, Any] | None, bool]:
    """Returns the object in ``value``, or None, and whether it is strict JSON, without NaN or infinity."""
    import msgspec

    try:
        found = msgspec.json.decode(value)
    except (msgspec.DecodeError, ValueError, RecursionError):
        try:
            return json_fields(value), False
        except InvalidRecord:
            return None, False
    return (found if isinstance(found, dict) else None), True


def _look(name: str, values: list[Any]) -> ColumnLook:
    if name in VECTORS:
        return ColumnLook("value")
    kinds = Counter(map(_kind, values))
    kind = kinds.most_common(1)[0][0]
    distinct = len({value for value in values if isinstance(value, str)})
    return ColumnLook(kind, varied=distinct > min(_DISTINCT, max(2, len(values) // 2)))


def _kind(value: object) -> Kind:
    if isinstance(value, str):
        return "value" if value.lstrip()[:1] in {"[", "{"} or _is_base64(value) else "text"
    return "number" if isinstance(value, (bool, int, float)) else "value"


def _is_base64(text: str) -> bool:
    return len(text) >= _BASE64 and len(text) % 4 == 0 and _BASE64_LETTERS.fullmatch(text) is not None


def _is_time(value: object) -> bool:
    """Returns whether ``value`` is a time that a query may have."""
    if isinstance(value, str):
        found = moment(value)
        return found is not None and value[10:11] in {"T", "t"} and (value[-1] in "Zz" or value[-6:-5] in {"+", "-"})
    return not isinstance(value, (int, float)) or moment(value) == value


def _is_query(plan: ColumnPlan) -> bool:
    """Returns whether its objects have the fields of queries."""
    return (
        not plan.constants
        and all(own == (role,) for role, own in plan.columns.items())
        and {"event_id", "occurred_at"} <= plan.columns.keys()
        and plan.kinds["features"] == "value"
    )


@dataclass(frozen=True, slots=True)
class _Rewriting:
    """Rewrites objects to queries by ``plan``. Other values stay unchanged, and are refused later."""

    path: Path
    reading: LogReader
    plan: ColumnPlan

    def lines(self, values: list[bytes], places: NDArray[np.int64]) -> Iterator[bytes]:
        """Yields the queries in ``values``, which are at ``places`` int64 (n,) of the file."""
        import msgspec

        given = partitions(self.path)
        ids = event_ids(self.path, places)
        times = self.reading.times(len(values)) if "occurred_at" not in self.plan.columns else None
        for at, value in enumerate(values):
            fields, is_strict = _fields(value)
            if fields is None:
                yield value
                continue
            query = self._query(given | fields)
            query.setdefault("event_id", ids[at])
            if times is not None:
                query["occurred_at"] = float(times[at])
            yield msgspec.json.encode(query) if is_strict else json.dumps(query).encode()

    def _query(self, fields: dict[str, Any]) -> dict[str, Any]:
        plan, query = self.plan, dict[str, Any](self.plan.constants)
        for role, own in plan.columns.items():
            if role not in VECTORS:
                query[role] = fields.get(own[0])
            elif plan.is_one(role):
                query[role] = _unpacked(fields.get(own[0]))
            elif role == "features":
                query[role] = {name: fields.get(name) for name in own}
            else:
                query[role] = dict(zip(class_names(own), map(fields.get, own), strict=True))
        time = moment(query.get("occurred_at"))
        if time is not None:
            query["occurred_at"] = time
        return query | ({"schema": fields["schema"]} if "schema" in fields else {})


def _unpacked(value: Any) -> Any:
    """Returns ``value``; a text that holds JSON is parsed."""
    if isinstance(value, str) and value.lstrip()[:1] in {"[", "{"}:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
