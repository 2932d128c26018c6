"""Malformed records of many kinds, each with the reason it must be refused for."""

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
from detector.contracts.codecs.queries_packed import PACKED_CONTENT_TYPE

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
    """A packed record of two rows with ``changes``; a row is bad in both rows where it is bad at all."""

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
_TEXT: str | None = None
_PACK: str | None = PACKED_CONTENT_TYPE

KINDS: dict[str, tuple[str | None, str, Callable[[Random, str], bytes]]] = {
    "empty": (_TEXT, "empty", _fixed(b"")),
    "truncated JSON": (_TEXT, "syntax", _truncated(_json())),
    "not JSON": (_TEXT, "syntax", _noise),
    "NaN literal": (_TEXT, "syntax", _json(outputs=[_NAN, 1.0])),
    "invalid UTF-8": (_TEXT, "syntax", lambda r, p: _json()(r, p).replace(b"digits", b"dig\xffts")),
    "deep nesting": (_TEXT, "syntax", _fixed(b'{"extra":' + b"[" * 20_000 + b"]" * 20_000 + b"}")),
    "deep nesting where features belong": (_TEXT, "structure", _fixed(b'{"features":' + b"[" * 20_000)),
    "a list": (_TEXT, "structure", _fixed(b"[1, 2, 3]")),
    "features an object": (_TEXT, "structure", _json(features={"0": 1.0})),
    "features of text": (_TEXT, "structure", _json(features=["1.0"])),
    "no features": (_TEXT, "structure", _without("features")),
    "no principal": (_TEXT, "structure", _without("principal")),
    "number too large for float64": (
        _TEXT,
        "structure",
        lambda r, p: _json(features=[1])(r, p).replace(b"[1]", b"[1e999]"),
    ),
    "number too large for float32": (_TEXT, "non-finite", _json(features=[1e39])),
    "NaN in base64": (_TEXT, "non-finite", _json(features=_features(1.0, _NAN))),
    "infinity in base64": (_TEXT, "non-finite", _json(features=_features(_INFINITY, 1.0))),
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
    "huge event id": (_TEXT, "identity", _json(event_id="e" * 200_000)),
    "huge principal": (_TEXT, "identity", _json(principal="p" * 200_000)),
    "empty principal": (_TEXT, "identity", _json(principal="")),
    "everyone as principal": (_TEXT, "identity", _json(principal="*")),
    "control character": (_TEXT, "identity", _json(principal="ana\x00")),
    "empty model": (_TEXT, "identity", _json(model="")),
    "milliseconds": (_TEXT, "time", _json(occurred_at=1_700_000_000_000)),
    "time without zone": (_TEXT, "time", _json(occurred_at="2026-01-31T12:00:00")),
    "time before 1970": (_TEXT, "time", _json(occurred_at=-1.0)),
    "missing of another length": (_TEXT, "length", _json(missing=[True, False])),
    "control character in an attribute": (_TEXT, "attribute", _json(organisation="a\x1b[2Jb")),
    "leaf beyond 64 bits": (_TEXT, "value", _json(leaf=2**63)),
    "over a megabyte": (_TEXT, "too-large", lambda r, p: b" " * RECORD_BYTES + _json()(r, p)),
    "unknown content type": ("application/avro", "content-type", _json()),
    "JSON said to be packed": (_PACK, "structure", _json()),
    "packed said to be JSON": (_TEXT, "syntax", _packed()),
    "packed empty": (_PACK, "empty", _fixed(b"")),
    "packed truncated": (_PACK, "syntax", _truncated(_packed())),
    "packed claim of 100 MB of bytes": (_PACK, "syntax", _fixed(_claim(b"\xc6" + _HUNDRED_MEGABYTES))),
    "packed claim of 100 million entries": (_PACK, "structure", _fixed(_claim(b"\xdd" + _HUNDRED_MEGABYTES))),
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
    "packed missing of another length": (_PACK, "length", _packed(missing=b"\x00\x00")),
    "packed served modes of another length": (_PACK, "length", _packed(served_mode=["none"])),
    "packed unknown version": (_PACK, "schema", _packed(schema="weirguard.packed-queries/2")),
    "packed everyone as model": (_PACK, "identity", _packed(model="*")),
    "packed empty principal": (_PACK, "identity", _packed(principals=[""])),
    "packed huge event ids": (_PACK, "identity", _packed(event_ids=["e" * 129, "f" * 100_000])),
    "packed NaN": (_PACK, "non-finite", _packed(features=_floats(*([_NAN] * 8)))),
    "packed infinities": (_PACK, "non-finite", _packed(features=_floats(*([_INFINITY, -_INFINITY] * 4)))),
    "packed NaN outputs": (_PACK, "non-finite", _packed(outputs=_floats(_NAN, _NAN, _NAN, 1.0))),
    "packed negative probabilities": (_PACK, "outputs", _packed(outputs=_floats(-0.5, 1.5, 2.0, -1.0))),
    "packed probabilities of 3": (_PACK, "outputs", _packed(outputs=_floats(1.5, 1.5, 3.0, 0.0))),
    "packed NaN times": (_PACK, "time", _packed(occurred_at=struct.pack("<2d", _NAN, -1.0))),
    "packed negative count": (_PACK, "counts", _packed(counts=[_count(queries=-1)])),
    "packed count about everyone": (_PACK, "identity", _packed(counts=[_count(principal="*")])),
    "packed count at NaN": (_PACK, "time", _packed(counts=[_count(occurred_at=_NAN)])),
    "packed features a list": (_PACK, "structure", _packed(features=[0.5] * 8)),
}
