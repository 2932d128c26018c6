"""JSON lines: one query per line, as in ``weirguard.query`` or with fields that a plan names."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
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
from detector.sources.cells import parse_time
from detector.sources.files import opened, partitions
from detector.sources.kinds import ColumnKind, Kind, too_varied
from detector.sources.mapping import VECTORS
from detector.sources.plan import ColumnPlan, LogReader
from detector.sources.table import class_names, event_ids, of_run

_LINES = 1024
_BYTES = 16 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BASE64_CHARACTERS, _BASE64 = 16, re.compile(r"[A-Za-z0-9+/]+={0,2}")


def read_jsonl(path: Path, reader: LogReader) -> Iterator[DecodedQueries]:
    """Yields the queries in the JSON lines file at ``path``, without blank lines. Raises ConfigurationError."""
    plan, is_query = None, True
    with opened(path) as file:
        if file.peek(1)[:1] == b"[":  # type: ignore[attr-defined]
            raise ConfigurationError(f"{path}: the file is one JSON array; write an object a line instead")
        lines = enumerate(_lines(file))
        while portion := _portion(lines):
            written = [(number, line) for number, line in portion if line.strip(b" \t\r\n" + _BYTE_ORDER_MARK)]
            file_rows = np.array([number for number, _ in written], np.int64)
            values = [line for _, line in written]
            if plan is None:
                plan, is_query = _plan(path, reader, values)
            if plan is not None and not is_query:
                values = [*_rewritten(path, reader, plan, values, file_rows)]
            yield from of_run(decode_json_run(values, [None] * len(values)), file_rows)


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


def _plan(path: Path, reader: LogReader, values: list[bytes]) -> tuple[ColumnPlan | None, bool]:
    """Returns the plan for the fields in ``values``, or None if none is an object, and whether they need no mapping."""
    objects = [fields for value in values if (fields := _fields(value)[0]) is not None]
    names = dict.fromkeys(name for fields in objects for name in fields if name != "schema")
    if not names:
        return None, True
    columns = {name: [fields[name] for fields in objects if fields.get(name) is not None] for name in names}
    kinds = {name: _column_kind(name, column) for name, column in columns.items() if column}
    plan = reader.plan(path, lambda: kinds, kinds)
    return plan, _is_query(plan) and all(map(_is_query_time, columns["occurred_at"]))


def _fields(value: bytes) -> tuple[dict[str, Any] | None, bool]:
    """Returns the object in ``value``, or None, and whether it is strict JSON, without NaN or infinity."""
    import msgspec

    try:
        fields = msgspec.json.decode(value)
    except (msgspec.DecodeError, ValueError, RecursionError):
        try:
            return json_fields(value), False
        except InvalidRecord:
            return None, False
    return (fields if isinstance(fields, dict) else None), True


def _column_kind(name: str, values: list[Any]) -> ColumnKind:
    if name in VECTORS:
        return ColumnKind("value")
    kind = Counter(map(_kind, values)).most_common(1)[0][0]
    distinct = len({value for value in values if isinstance(value, str)})
    return ColumnKind(kind, too_varied(distinct, len(values)))


def _kind(value: object) -> Kind:
    if isinstance(value, str):
        is_base64 = len(value) >= _BASE64_CHARACTERS and len(value) % 4 == 0 and _BASE64.fullmatch(value)
        return "value" if is_base64 or value.lstrip()[:1] in {"[", "{"} else "text"
    return "number" if isinstance(value, (bool, int, float)) else "value"


def _is_query(plan: ColumnPlan) -> bool:
    """Returns whether its objects have the fields of queries."""
    return (
        not plan.constants
        and all(names == (role,) for role, names in plan.columns.items())
        and {"event_id", "occurred_at"} <= plan.columns.keys()
        and plan.kinds["features"] == "value"
    )


def _is_query_time(value: object) -> bool:
    """Returns whether ``value`` is a time that a query may have."""
    if isinstance(value, str):
        is_zoned = value[10:11] in {"T", "t"} and (value[-1] in "Zz" or value[-6:-5] in {"+", "-"})
        return parse_time(value) is not None and is_zoned
    return not isinstance(value, (int, float)) or parse_time(value) == value


def _rewritten(
    path: Path, reader: LogReader, plan: ColumnPlan, values: list[bytes], file_rows: NDArray[np.int64]
) -> Iterator[bytes]:
    """Yields the objects in ``values``, the lines ``file_rows`` int64 (n,) of the file, as queries by ``plan``. Other
    values stay unchanged, and are refused later."""
    import msgspec

    from_path, ids = partitions(path), event_ids(path, file_rows)
    times = reader.times(len(values)) if "occurred_at" not in plan.columns else None
    for at, value in enumerate(values):
        fields, is_strict = _fields(value)
        if fields is None:
            yield value
            continue
        query = _query(plan, from_path | fields)
        query.setdefault("event_id", ids[at])
        if times is not None:
            query["occurred_at"] = float(times[at])
        yield msgspec.json.encode(query) if is_strict else json.dumps(query).encode()


def _query(plan: ColumnPlan, fields: dict[str, Any]) -> dict[str, Any]:
    query = dict[str, Any](plan.constants)
    for role, names in plan.columns.items():
        if role not in VECTORS:
            query[role] = fields.get(names[0])
        elif plan.is_one(role):
            query[role] = _unpacked(fields.get(names[0]))
        else:
            keys = names if role == "features" else class_names(names)
            query[role] = dict(zip(keys, map(fields.get, names), strict=True))
    time = parse_time(query.get("occurred_at"))
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
