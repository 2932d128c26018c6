"""Records that no producer should write: refused ones with their reason, odd ones that are kept, and any nonsense."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

import msgspec

from detector.contracts.codecs.limits import RECORD_BYTES
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE

_NAN, _INFINITY = float("nan"), float("inf")


@dataclass(frozen=True)
class Malformed:
    """One bad record: ``content_type`` None is JSON; ``reason`` is one of ``limits.REASONS``."""

    kind: str
    content_type: str | None
    key: bytes | None
    value: bytes
    reason: str


def malformed(seed: int) -> Iterator[Malformed]:
    """Bad records without end, all kinds in turn, the same for the same ``seed``."""
    random = Random(seed)
    for number in count():
        kind = list(KINDS)[number % len(KINDS)]
        content_type, reason, make = KINDS[kind]
        principal = f"account-{random.randrange(50)}"
        key = None if content_type else principal.encode()
        yield Malformed(kind, content_type, key, make(random, principal), reason)


def _floats(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def _query(random: Random, principal: str) -> dict[str, Any]:
    return {
        "event_id": f"bad-{random.getrandbits(40):x}",
        "occurred_at": 1_700_000_000 + random.random(),
        "principal": principal,
        "model": "digits",
        "model_version": "1",
        "features": base64.b64encode(_floats(*(random.gauss(0, 1) for _ in range(8)))).decode(),
        "outputs": [0.25, 0.75],
    }


def _json(**changes: Any) -> Callable[[Random, str], bytes]:
    def make(random: Random, principal: str) -> bytes:
        return json.dumps(_query(random, principal) | changes).encode()

    return make


def _without(field: str) -> Callable[[Random, str], bytes]:
    def make(random: Random, principal: str) -> bytes:
        query = _query(random, principal)
        del query[field]
        return json.dumps(query).encode()

    return make


def _features(*numbers: float) -> str:
    return base64.b64encode(_floats(*numbers)).decode()


def _packed(**changes: Any) -> Callable[[Random, str], bytes]:
    """A packed record of two rows with ``changes``; if one row is bad, both are."""

    def make(random: Random, principal: str) -> bytes:
        record: dict[str, Any] = {
            "schema": "weirguard.packed-queries/1",
            "model": "digits",
            "model_version": "1",
            "output_kind": "probabilities",
            "dimension": 4,
            "output_width": 2,
            "event_ids": [f"bad-{random.getrandbits(40):x}" for _ in range(2)],
            "occurred_at": struct.pack("<2d", 1_700_000_000, 1_700_000_001),
            "principals": [principal],
            "principal_index": struct.pack("<2i", 0, 0),
            "features": _floats(*(random.gauss(0, 1) for _ in range(8))),
            "outputs": _floats(0.25, 0.75, 0.5, 0.5),
            "counts": [],
        }
        return msgspec.msgpack.encode(record | changes)

    return make


def _nested(depth: int) -> dict[str, Any]:
    features: dict[str, Any] = {"a": 1.0}
    for _ in range(depth):
        features = {"a": features}
    return features


def good_record(random: Random, principal: str, *, packed: bool) -> bytes:
    """One good query of ``principal``, or a packed record of two."""
    return (_packed() if packed else _json())(random, principal)


def _count(**changes: Any) -> dict[str, Any]:
    return {"principal": "ana", "kind": "dropped", "queries": 3, "occurred_at": 1_700_000_000.0} | changes


def _truncated(make: Callable[[Random, str], bytes]) -> Callable[[Random, str], bytes]:
    def cut(random: Random, principal: str) -> bytes:
        value = make(random, principal)
        return value[: random.randrange(1, len(value))]

    return cut


def _noise(random: Random, principal: str) -> bytes:
    return b"\xc1" + random.randbytes(random.randrange(1, 400))


def _fixed(value: bytes) -> Callable[[Random, str], bytes]:
    return lambda _random, _principal: value


def _claim(header: bytes) -> bytes:
    """A packed record whose field ``features`` claims what ``header`` says and then ends."""
    return b"\x82\xa6schema\xbaweirguard.packed-queries/1\xa8features" + header


_HUNDRED_MEGABYTES = struct.pack(">I", 100_000_000)
_NO_ROWS: dict[str, Any] = {
    "occurred_at": b"",
    "principals": [],
    "principal_index": b"",
    "features": b"",
    "outputs": b"",
}
_LOOSE = "weirguard.loose-queries/1"
_TEXT: str | None = None
_PACK: str | None = PACKED_CONTENT_TYPE

KINDS: dict[str, tuple[str | None, str, Callable[[Random, str], bytes]]] = {
    "empty": (_TEXT, "empty", _fixed(b"")),
    "truncated JSON": (_TEXT, "syntax", _truncated(_json())),
    "not JSON": (_TEXT, "syntax", _noise),
    "NaN among outputs": (_TEXT, "non-finite", _json(outputs=[_NAN, 1.0])),
    "model that is not UTF-8": (_TEXT, "identity", lambda r, p: _json()(r, p).replace(b"digits", b"dig\xffts")),
    "deep nesting": (_TEXT, "syntax", _fixed(b'{"extra":' + b"[" * 20_000 + b"]" * 20_000 + b"}")),
    "deep nesting where features belong": (_TEXT, "syntax", _fixed(b'{"features":' + b"[" * 20_000)),
    "a list": (_TEXT, "structure", _fixed(b"[1, 2, 3]")),
    "features an empty object": (_TEXT, "dimension", _json(features={})),
    "features deep in objects": (_TEXT, "structure", _json(features=_nested(12))),
    "outputs of texts": (_TEXT, "structure", _json(outputs=["cat", "dog"])),
    "classes without numbers": (_TEXT, "structure", _json(outputs={"cat": "high", "dog": "low"})),
    "best classes without labels": (_TEXT, "structure", _json(outputs=[{"score": 0.5}, {"score": 0.4}])),
    "named probabilities of two": (_TEXT, "outputs", _json(outputs={"cat": 1.0, "dog": 1.0})),
    "no features": (_TEXT, "structure", _without("features")),
    "features in lists": (_TEXT, "structure", _json(features=[[1.0, 2.0]])),
    "no principal": (_TEXT, "structure", _without("principal")),
    "principal null": (_TEXT, "structure", _json(principal=None)),
    "principal true": (_TEXT, "structure", _json(principal=True)),
    "outputs null": (_TEXT, "non-finite", _json(outputs=[None, 1.0])),
    "outputs beyond float64": (_TEXT, "non-finite", lambda r, p: _json()(r, p).replace(b"0.25, 0.75", b"1e999, 0")),
    "zero dimension": (_TEXT, "dimension", _json(features=[])),
    "zero dimension in base64": (_TEXT, "dimension", _json(features="")),
    "too many features": (_TEXT, "dimension", _json(features=[0] * 65_537)),
    "not base64": (_TEXT, "encoding", _json(features="*" * 24)),
    "base64 of half a float": (_TEXT, "encoding", _json(features="AAAA")),
    "negative probability": (_TEXT, "outputs", _json(outputs=[-0.25, 1.25])),
    "probabilities of half": (_TEXT, "outputs", _json(outputs=[0.25, 0.25])),
    "fractional label": (_TEXT, "outputs", _json(outputs=[0.5], output_kind="label")),
    "unknown output kind": (_TEXT, "structure", _json(output_kind="x" * 1000)),
    "unknown version": (_TEXT, "schema", _json(schema="weirguard.query/99")),
    "unknown version of another shape": (_TEXT, "schema", _json(schema="weirguard.query/2", features={"f16": ""})),
    "empty model": (_TEXT, "identity", _json(model="")),
    "over a megabyte": (_TEXT, "too-large", lambda r, p: b" " * RECORD_BYTES + _json()(r, p)),
    "unknown content type": ("application/avro", "content-type", _json()),
    "JSON said to be packed": (_PACK, "structure", _json()),
    "packed said to be JSON": (_TEXT, "syntax", _packed()),
    "packed empty": (_PACK, "empty", _fixed(b"")),
    "packed truncated": (_PACK, "syntax", _truncated(_packed())),
    "packed claim of 100 MB of bytes": (_PACK, "syntax", _fixed(_claim(b"\xc6" + _HUNDRED_MEGABYTES))),
    "packed claim of 100 million entries": (_PACK, "syntax", _fixed(_claim(b"\xdd" + _HUNDRED_MEGABYTES))),
    "packed claim of 100 million event ids": (
        _PACK,
        "syntax",
        _fixed(b"\x81\xa9event_ids\xdd" + _HUNDRED_MEGABYTES + b"\xa1a"),
    ),
    "packed deep nesting": (_PACK, "syntax", _fixed(b"\x81\xa5extra" + b"\x91" * 100_000)),
    "packed features too short": (_PACK, "length", _packed(features=_floats(1, 2, 3, 4, 5, 6, 7))),
    "packed features too long": (_PACK, "length", _packed(features=_floats(*range(9)))),
    "packed features not whole floats": (_PACK, "length", _packed(features=b"\x00" * 31)),
    "packed lying dimension": (_PACK, "length", _packed(dimension=25_000_000 // 400)),
    "packed huge dimension": (_PACK, "dimension", _packed(dimension=25_000_000)),
    "packed zero dimension": (_PACK, "dimension", _packed(dimension=0, features=b"")),
    "packed negative dimension": (_PACK, "dimension", _packed(dimension=-4)),
    "packed outputs of another length": (_PACK, "length", _packed(outputs=_floats(1, 0))),
    "packed times of another length": (_PACK, "length", _packed(occurred_at=struct.pack("<d", 1.0))),
    "packed index outside": (_PACK, "length", _packed(principal_index=struct.pack("<2i", 0, 1))),
    "packed index negative": (_PACK, "length", _packed(principal_index=struct.pack("<2i", -1, 0))),
    "packed unknown version": (_PACK, "schema", _packed(schema="weirguard.packed-queries/99")),
    "packed names of another length": (_PACK, "length", _packed(schema=_LOOSE, feature_names=["a", "b", "c"])),
    "packed names that are the same": (_PACK, "length", _packed(schema=_LOOSE, feature_names=["a", "b", "c", "a"])),
    "packed texts of another length": (
        _PACK,
        "length",
        _packed(schema=_LOOSE, feature_names=["a", "b", "c", "d", "e"], texts=["x"]),
    ),
    "packed texts without names": (_PACK, "length", _packed(schema=_LOOSE, texts=["x", "y"])),
    "packed classes of another length": (_PACK, "length", _packed(schema=_LOOSE, output_names=["x", "y", "z"])),
    "packed outputs where there are none": (_PACK, "outputs", _packed(schema=_LOOSE, output_kind="none")),
    "packed everyone as model": (_PACK, "identity", _packed(model="*")),
    "packed NaN outputs": (_PACK, "non-finite", _packed(outputs=_floats(_NAN, _NAN, _NAN, 1.0))),
    "packed negative probabilities": (_PACK, "outputs", _packed(outputs=_floats(-0.5, 1.5, 2.0, -1.0))),
    "packed probabilities of 3": (_PACK, "outputs", _packed(outputs=_floats(1.5, 1.5, 3.0, 0.0))),
    "packed features a list": (_PACK, "structure", _packed(features=[0.5] * 8)),
    "packed event ids a number": (_PACK, "structure", _packed(event_ids=3)),
    "packed principal null": (_PACK, "structure", _packed(principals=[None])),
    "packed alone with counts and no model": (_PACK, "identity", _packed(model="", event_ids=[], **_NO_ROWS)),
}
"""Those that are refused, with the reason."""

_LONG = "e" * 200_000
ODD: dict[str, tuple[str | None, dict[str, int], Callable[[Random, str], bytes]]] = {
    "null among features": (_TEXT, {}, _json(features=[1.0, None])),
    "NaN literal": (_TEXT, {}, _json(features=[_NAN, 1.0])),
    "NaN in base64": (_TEXT, {}, _json(features=_features(1.0, _NAN))),
    "NaN outside the mask": (_TEXT, {"missing": 1}, _json(features=[_NAN, 1.0], missing=[False, True])),
    "NaN within the mask": (_TEXT, {}, _json(features=[_NAN, 1.0], missing=[True, False])),
    "infinity literal": (_TEXT, {"clipped": 1}, _json(features=[-_INFINITY, 1.0])),
    "infinity in base64": (_TEXT, {"clipped": 1}, _json(features=_features(_INFINITY, 1.0))),
    "number too large for float32": (_TEXT, {"clipped": 1}, _json(features=[1e39])),
    "number too large for float64": (_TEXT, {"clipped": 1}, lambda r, p: _swapped(r, p, b"1e999")),
    "whole number too large for float64": (_TEXT, {"clipped": 1}, lambda r, p: _swapped(r, p, b"9" * 400)),
    "whole number of 5,000 digits": (_TEXT, {"clipped": 1}, lambda r, p: _swapped(r, p, b"-" + b"9" * 5_000)),
    "byte order mark": (_TEXT, {}, lambda r, p: b"\xef\xbb\xbf" + _json()(r, p)),
    "numbers for names": (_TEXT, {}, _json(principal=17, event_id=18, model_version=3)),
    "whole floats for names": (_TEXT, {}, _json(principal=17.0, model_version=3.0)),
    "no event id": (_TEXT, {"event_id": 1}, _without("event_id")),
    "event id a list": (_TEXT, {"event_id": 1}, _json(event_id=[])),
    "huge event id": (_TEXT, {"event_id": 1}, _json(event_id=_LONG)),
    "huge principal": (_TEXT, {"principal": 1}, _json(principal=_LONG)),
    "empty principal": (_TEXT, {"principal": 1}, _json(principal="")),
    "everyone as principal": (_TEXT, {"principal": 1}, _json(principal="*")),
    "control character": (_TEXT, {"principal": 1}, _json(principal="ana\x00")),
    "surrogates": (_TEXT, {"principal": 1, "event_id": 1}, _json(principal="\ud800", event_id="a\udfff")),
    "principal that is not UTF-8": (_TEXT, {"principal": 1}, lambda r, _: _json()(r, "x!").replace(b"x!", b"\xff\xfe")),
    "milliseconds": (_TEXT, {"time": 1}, _json(occurred_at=1_700_000_000_000)),
    "time NaN": (_TEXT, {"time": 1}, _json(occurred_at=_NAN)),
    "time before 1970": (_TEXT, {"time": 1}, _json(occurred_at=-1.0)),
    "time without zone": (_TEXT, {"time": 1}, _json(occurred_at="2026-01-31T12:00:00")),
    "time in words": (_TEXT, {"time": 1}, _json(occurred_at="noon")),
    "time a list": (_TEXT, {"time": 1}, _json(occurred_at=[2026])),
    "missing of another length": (_TEXT, {"column": 1}, _json(missing=[True, False])),
    "missing of words": (_TEXT, {"column": 1}, _json(missing=["no"] * 8)),
    "missing of 0 and 1": (_TEXT, {}, _json(missing=[0, 1] * 4)),
    "leaf beyond 64 bits": (_TEXT, {"column": 1}, _json(leaf=2**63)),
    "leaf of a fraction": (_TEXT, {"column": 1}, _json(leaf=1.5)),
    "specification of three": (_TEXT, {"column": 1}, _json(specification=[1, 2, 3])),
    "specification half null": (_TEXT, {}, _json(specification=[0.9, None])),
    "hardness a text": (_TEXT, {"column": 1}, _json(hardness="hard")),
    "hardness infinite": (_TEXT, {"number": 1}, _json(hardness=_INFINITY)),
    "control character in an attribute": (_TEXT, {"attribute": 1}, _json(organisation="a\x1b[2Jb")),
    "huge attribute": (_TEXT, {"attribute": 1}, _json(served_mode=_LONG)),
    "attribute a list": (_TEXT, {"attribute": 1}, _json(network_prefix=[])),
    "label below zero": (_TEXT, {}, _json(outputs=[-1], output_kind="label")),
    "output kind null": (_TEXT, {}, _json(output_kind=None)),
    "feature a long text": (_TEXT, {"text": 1}, _json(features=["red", _LONG])),
    "feature with a name of control characters": (_TEXT, {"text": 1}, _json(features={"a\x1b[2Jb": 1.0})),
    "packed long text": (
        _PACK,
        {"text": 1},
        _packed(schema=_LOOSE, feature_names=["a", "b", "c", "d", "e"], texts=[_LONG, None]),
    ),
    "packed NaN": (_PACK, {}, _packed(features=_floats(*([_NAN] * 8)))),
    "packed NaN outside the mask": (_PACK, {"missing": 2}, _packed(features=_floats(*([_NAN] * 8)), missing=b"\x11")),
    "packed infinities": (_PACK, {"clipped": 2}, _packed(features=_floats(*([_INFINITY, -_INFINITY] * 4)))),
    "packed NaN times": (_PACK, {"time": 2}, _packed(occurred_at=struct.pack("<2d", _NAN, -1.0))),
    "packed empty principal": (_PACK, {"principal": 2}, _packed(principals=[""])),
    "packed principal that is not UTF-8": (
        _PACK,
        {"principal": 2},
        lambda r, _: _packed()(r, "x!").replace(b"x!", b"\xff\xfe"),
    ),
    "packed principal a number": (_PACK, {}, _packed(principals=[17])),
    "packed principal in bytes": (_PACK, {}, _packed(principals=[b"ana"])),
    "packed huge event ids": (_PACK, {"event_id": 2}, _packed(event_ids=["e" * 129, "f" * 100_000])),
    "packed event ids of all sorts": (_PACK, {"event_id": 1}, _packed(event_ids=[None, 7])),
    "packed missing of another length": (_PACK, {"column": 1}, _packed(missing=b"\x00\x00")),
    "packed leaf of another type": (_PACK, {"column": 1}, _packed(leaf=[1, 2])),
    "packed hardness of another length": (_PACK, {"column": 1}, _packed(hardness=b"\x00" * 4)),
    "packed infinite specification": (_PACK, {"number": 1}, _packed(specification=_floats(1, _INFINITY, 1, 1))),
    "packed served modes of another length": (_PACK, {"column": 1}, _packed(served_mode=["none"])),
    "packed served modes a text": (_PACK, {"column": 1}, _packed(served_mode="none")),
    "packed served modes of all sorts": (_PACK, {"attribute": 2}, _packed(served_mode=[None, "a\n"])),
    "packed negative count": (_PACK, {"count": 1}, _packed(counts=[_count(queries=-1)])),
    "packed count of another kind": (_PACK, {"count": 1}, _packed(counts=[_count(kind="lost"), _count()])),
    "packed counts a number": (_PACK, {"count": 1}, _packed(counts=7)),
    "packed count about everyone": (_PACK, {"principal": 1}, _packed(counts=[_count(principal="*")])),
    "packed count at NaN": (_PACK, {"time": 1}, _packed(counts=[_count(occurred_at=_NAN)])),
    "packed count for a sentence": (_PACK, {"reason": 1}, _packed(counts=[_count(reason="Body: no JSON")])),
}
"""Those that are odd and kept, with what is counted as repaired; all rows are good."""


def _swapped(random: Random, principal: str, number: bytes) -> bytes:
    """With ``number`` as the only feature, as JSON text."""
    return _json(features=[1])(random, principal).replace(b"[1]", b"[" + number + b"]")


def nonsense(seed: int) -> Iterator[tuple[str | None, bytes]]:
    """Content type and value of records without end that were good, odd or malformed ones, and then had up to four
    things done to them; the same for the same ``seed``."""
    random = Random(seed)
    makers = [(kind, make) for kind, _, make in (*KINDS.values(), *ODD.values())]
    makers += [(_TEXT, _json()), (_PACK, _packed())] * 10
    while True:
        content_type, make = random.choice(makers)
        value = make(random, f"account-{random.randrange(50)}")
        value = damaged(random, value)
        yield (content_type if random.random() < 0.9 else random.choice([None, PACKED_CONTENT_TYPE])), value


def damaged(random: Random, value: bytes) -> bytes:
    """``value`` after up to four things were done to it."""
    for _ in range(random.randrange(5)):
        value = random.choice(_DAMAGES)(random, value)
    return value


_PIECES = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"null",
    b'"*"',
    b'"\\ud800"',
    b"[" * 400,
    b"{" * 3,
    b'"principal":"bo",',
    b"9" * 4_400,
    b"\xc0",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\x00\x00\x00\x02\xff\xff",
    b"\xcf" + b"\xff" * 8,
    b"\xcb\x7f\xf8" + b"\x00" * 6,
    b"\xa9principal",
)


def _flip(random: Random, value: bytes) -> bytes:
    changed = bytearray(value)
    for _ in range(min(len(changed), random.randrange(1, 9))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _splice(random: Random, value: bytes) -> bytes:
    start = random.randrange(len(value) + 1)
    return value[:start] + random.choice(_PIECES) + value[start + random.randrange(12) :]


def _repeat(random: Random, value: bytes) -> bytes:
    start = random.randrange(len(value) + 1)
    piece = value[start : start + random.randrange(64)]
    return value[:start] + piece * random.randrange(4) + value[start:]


def _cut(random: Random, value: bytes) -> bytes:
    return value[: random.randrange(len(value) + 1)]


def _swap_type(random: Random, value: bytes) -> bytes:
    """One field of another type, encoded as the record is; a record that is no map stays as it is."""
    try:
        is_json = value[:1] == b"{"
        record = json.loads(value) if is_json else msgspec.msgpack.decode(value)
        record[random.choice(list(record))] = random.choice(_VALUES)
        return json.dumps(record).encode() if is_json else msgspec.msgpack.encode(record)
    except (ValueError, msgspec.DecodeError, RecursionError, TypeError, IndexError, AttributeError):
        return value


_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**40,
    0.5,
    _NAN,
    "",
    "*",
    "x" * 300,
    [],
    [None],
    [[1]],
    {},
    {"a": 1},
    ["a"] * 5,
)
_DAMAGES = (_flip, _splice, _repeat, _cut, _swap_type, _swap_type)
