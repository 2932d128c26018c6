"""Each record name with its codec, seen through JSON as its schema sees it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from detector.contracts.codecs import decode, encode, encode_packed
from detector.contracts.codecs.json_queries import SCHEMA as JSON_SCHEMA
from detector.contracts.codecs.packed_queries import LOOSE_SCHEMA, PACKED_CONTENT_TYPE, PackedQueries
from detector.contracts.codecs.packed_queries import SCHEMA as PACKED_SCHEMA
from detector.contracts.codecs.records import SCHEMAS
from detector.contracts.errors import ConfigurationError, InvalidRecord
from detector.core.owner_model import from_json, to_json
from detector.core.owner_model.models import SCHEMA as MODEL_SCHEMA
from detector.groups.judged_record import COLUMNS as JUDGED_COLUMNS
from detector.groups.judged_record import SCHEMA as JUDGED_SCHEMA
from detector.groups.judged_record import JudgedRecord, decode_judged, encode_judged
from tests.contracts.wire import decode_queries, encode_json_query

ROOT = Path(__file__).parents[2] / "schemas"
BINARY = {field.name for field in fields(PackedQueries) if "bytes" in str(field.type)} | JUDGED_COLUMNS.keys()


@dataclass(frozen=True)
class Form:
    """``read`` bytes into whatever the codec makes of them, ``write`` that back; ``wire`` is bytes from JSON text."""

    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    wire: Callable[[str], bytes]


def name_of(schema: str) -> str:
    """``alert`` of ``weirguard.alert/1``."""
    return schema.removeprefix("weirguard.").partition("/")[0]


def packed_to_json(value: bytes) -> Any:
    """The decoded map of a packed record, its binary columns in base64."""
    record = msgspec.msgpack.decode(value)
    return {key: base64.b64encode(item).decode() if isinstance(item, bytes) else item for key, item in record.items()}


def packed_from_json(text: str) -> bytes:
    record = json.loads(text)
    for name in BINARY & record.keys():
        if isinstance(record[name], str):
            record[name] = base64.b64decode(record[name])
    return msgspec.msgpack.encode(record)


def _read_json_query(value: bytes) -> Any:
    return decode_queries(value, None, timestamp=1.0)


def _read_packed(value: bytes) -> Any:
    return decode_queries(value, PACKED_CONTENT_TYPE, timestamp=1.0)


def _write_packed(decoded: Any) -> bytes:
    from detector.contracts.batches import empty_batch

    return encode_packed(decoded.batch or empty_batch("digits", "3"), decoded.counts)


def _write_judged(record: JudgedRecord) -> bytes:
    (value,) = encode_judged(record)
    return value


def _read_model(value: bytes) -> Any:
    """The one form that is a file of the owner's: its reader complains of configuration."""
    try:
        return from_json(value)
    except ConfigurationError as error:
        raise InvalidRecord("schema", str(error)) from error


def _record_form(kind: Any) -> Form:
    return Form(lambda value: decode(kind, value), encode, str.encode)


FORMS: dict[str, Form] = {
    name_of(JSON_SCHEMA): Form(_read_json_query, lambda decoded: encode_json_query(decoded.batch), str.encode),
    name_of(PACKED_SCHEMA): Form(_read_packed, _write_packed, packed_from_json),
    name_of(LOOSE_SCHEMA): Form(_read_packed, _write_packed, packed_from_json),
    name_of(JUDGED_SCHEMA): Form(decode_judged, _write_judged, packed_from_json),
    name_of(MODEL_SCHEMA): Form(_read_model, lambda model: to_json(model).encode(), str.encode),
    **{name_of(schema): _record_form(kind) for kind, schema in SCHEMAS.items()},
}
