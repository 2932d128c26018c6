"""Envoy's ext_authz over gRPC: a client sends the bytes that Envoy sends, by the numbers of Envoy's own messages.

The numbers are those of envoy/service/auth/v3/external_auth.proto and attribute_context.proto; nothing here is shared
with the service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.contracts.errors import ConfigurationError
from detector.gateway.service import listening
from detector.runtime.sections import GateSettings
from tests.gateway.stage import HASHER, SETTINGS, fed_authorizer, served
from tests.serving.doubles import Clock, FedGate, decision, notice

grpc = pytest.importorskip("grpc")
pytest.importorskip("google.protobuf")

CONFIG: Any = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "envoy" / "grpc.yaml").read_text("utf-8"))
FILTER: Any = CONFIG["http_filters"][0]["typed_config"]
METHOD = "/envoy.service.auth.v3.Authorization/Check"
GRPC = SETTINGS.model_copy(update={"grpc_port": 0})


def field(number: int, value: bytes | str | int) -> bytes:
    """One field as protobuf writes it: a number, or a length and its bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def fields(data: bytes) -> dict[int, list[Any]]:
    """The fields of a message by their numbers."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        tag, at = _read(data, at)
        value: Any
        value, at = _read(data, at)
        if tag & 7 == 2:
            value, at = data[at : at + value], at + value
        found.setdefault(tag >> 3, []).append(value)
    return found


def _read(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


@dataclass
class Said:
    """What Envoy makes of the answer: ``ok``, or the status, headers and body for its client."""

    ok: bool
    status: int
    headers: dict[str, str]
    body: str


class Envoy:
    """A client with Envoy's messages."""

    def __init__(self, channel: Any) -> None:
        self._check = channel.unary_unary(METHOD)

    def asks(self, path: str = "/predict", *, headers: Sequence[tuple[str, str]] = (), raw: bool = False) -> Said:
        everything = [(":method", "POST"), (":path", path), ("x-request-id", "7"), *headers]
        if raw:  # encode_raw_headers
            entries = b"".join(field(1, field(1, name) + field(3, value)) for name, value in everything)
            given = field(13, entries)
        else:
            merged: dict[str, str] = {}
            for name, value in everything:
                merged[name] = f"{merged[name]},{value}" if name in merged else value
            given = b"".join(field(3, field(1, name) + field(2, value)) for name, value in merged.items())
        http = field(1, "7") + field(2, "POST") + given + field(4, path) + field(5, "model.example") + field(9, 12)
        attributes = field(1, field(2, "envoy")) + field(4, field(2, http)) + field(10, field(1, "a") + field(2, "b"))
        answer = fields(self._check(field(1, attributes), timeout=20))
        code = fields(answer[1][0]).get(1, [0])[0]
        if code == 0:
            return Said(True, 200, _told(fields(answer[3][0]).get(6, [])), "")
        denied = fields(answer[2][0])
        told = _told(denied[2])
        return Said(False, fields(denied[1][0])[1][0], told, denied[3][0].decode())


def _told(options: Sequence[bytes]) -> dict[str, str]:
    values = [fields(fields(one)[1][0]) for one in options]
    return {one[1][0].decode(): one[2][0].decode() for one in values}


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def gate(clock: Clock) -> FedGate:
    return FedGate([decision("refuse", expires_at=130.5)], clock, when_stale={"digits": "refuse"})


@pytest.fixture
def envoy(gate: FedGate) -> Iterator[Envoy]:
    authorizer = fed_authorizer(gate)
    with served(authorizer, GRPC) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Envoy(channel)


THIEF = [("x-account", "thief")]


@pytest.mark.parametrize("raw", [False, True])
def test_a_refused_principal_gets_429_and_no_reason(envoy: Envoy, gate: FedGate, raw: bool) -> None:
    answer = envoy.asks(headers=THIEF, raw=raw)
    assert (answer.ok, answer.status, answer.body) == (False, 429, '{"error":"too many requests"}')
    assert answer.headers["retry-after"] == "31"
    assert answer.headers["weirguard-decision"] == "d" * 32
    assert "content-length" not in answer.headers, "Envoy sets its own"
    assert envoy.asks(headers=[("x-account", "unknown")], raw=raw).ok
    gate.feed(decision("none", epoch=(1, 2)))
    assert envoy.asks(headers=THIEF, raw=raw).ok


def test_slow_and_observed_decisions(envoy: Envoy, gate: FedGate) -> None:
    gate.feed(decision("slow", rate=0.25, epoch=(1, 2)))
    gate.feed(decision("refuse", principal="watched", mode="observe"))
    gate.feed(notice(15.0, principal="near"))
    assert envoy.asks(headers=[("x-account", "near")]).headers["ratelimit"] == '"budget";r=15'
    assert envoy.asks(headers=THIEF).ok
    assert envoy.asks(headers=THIEF).headers["ratelimit-policy"] == '"queries";q=1;w=4'
    assert envoy.asks(headers=[("x-account", "watched")]).ok
    assert gate.counters.snapshot()["would_have_refused"] == 1


@pytest.mark.parametrize("path", ["/predict?x=1", "//predict", "/a/%2e%2e/predict", "/v2/models/digits/infer"])
def test_no_spelling_of_the_path_passes(envoy: Envoy, path: str) -> None:
    assert envoy.asks(path, headers=THIEF).status == 429


def test_a_gate_without_current_decisions_is_open_or_closed_by_model(envoy: Envoy, clock: Clock) -> None:
    clock.now = 161.0
    answer = envoy.asks(headers=THIEF)
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert envoy.asks("/v2/models/other/infer", headers=THIEF).ok


@pytest.mark.parametrize("raw", [False, True])
def test_several_keys_are_ambiguous_in_either_form(envoy: Envoy, gate: FedGate, raw: bool) -> None:
    gate.feed(decision("refuse", principal="ambiguous"))
    gate.feed(decision("refuse", principal=HASHER.api_key("stolen")))
    asked = [[("x-api-key", one) for one in keys] for keys in (["stolen"], ["good"], ["good", "stolen"], ["good"] * 2)]
    assert [envoy.asks(headers=keys, raw=raw).ok for keys in asked] == [False, True, False, True]


def test_bytes_that_are_no_request_are_refused_and_end_nothing(envoy: Envoy) -> None:
    with pytest.raises(grpc.RpcError):
        envoy._check(b"\xff\xff\xff", timeout=20)
    assert envoy._check(b"", timeout=20), "no attributes, so no path of a model"
    assert envoy.asks(headers=THIEF).status == 429


def test_the_file_of_deploy_names_the_service_that_this_client_calls() -> None:
    service = FILTER["grpc_service"]["envoy_grpc"]["cluster_name"]
    assert service in [cluster["name"] for cluster in CONFIG["clusters"]]
    assert FILTER["transport_api_version"] == "V3"


def test_a_port_that_is_taken_is_named() -> None:
    async def listen(port: int) -> None:
        async with listening(fed_authorizer(FedGate()), GateSettings(port=0, grpc_port=port)):
            pass

    with served(fed_authorizer(FedGate())) as taken, pytest.raises(ConfigurationError, match=r"gate\.grpc_port"):
        asyncio.run(listen(taken))
