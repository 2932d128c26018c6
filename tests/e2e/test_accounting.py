"""A thief who sends what cannot be judged among what can: each query is accounted for, and held against them."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing

from detector.cli import principals
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.codecs.records import decode
from detector.contracts.findings import Alert, Decision
from detector.contracts.queries import Count, QueryBatch
from detector.contracts.topics import partition_of
from tests.conftest import Broker
from tests.core.profiles import profile
from tests.core.streams import Features, batch, linear_outputs, random
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.e2e.test_service import _rows, until

ROWS = random(np.random.default_rng(1), 80, 6)
ANSWERED = {
    "judged": 50,
    "repeats": 15,
    "unjudged": {"dimension": 12, "no-profile": 8, "encoding": 20},
    "dropped": {"queue": 5},
}
UNREADABLE = 7


def asked(rows: Features, version: str = "1", classes: int = 3, who: str = "eve") -> QueryBatch:
    return batch(rows, [who] * len(rows), outputs=linear_outputs(rows, classes), kind="probabilities", version=version)


def send(service: Service, queries: QueryBatch, *counts: Count) -> None:
    headers = [("content-type", PACKED_CONTENT_TYPE.encode())]
    home = partition_of(queries.principals[0], PARTITIONS)
    service.producer.send(service.topics.queries, encode_packed(queries, counts), headers=headers, partition=home)


def reach(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands find the service's broker."""
    chosen = service.kafka.model_dump(mode="json", exclude_unset=True)
    for name, value in chosen.items():
        text = value if isinstance(value, str) else json.dumps(value)
        monkeypatch.setenv(f"WEIRGUARD_KAFKA__{name.upper()}", text)


def show(service: Service) -> dict[str, Any]:
    shown = typer.testing.CliRunner().invoke(principals.app, ["show", "credit", "eve", "--json"])
    known: dict[str, Any] = json.loads(shown.stdout)
    return known["score"] or {"answered": 0}


def metrics(service: Service) -> dict[str, float]:
    """What each part of the answered queries comes to, over all labels."""
    with urllib.request.urlopen(f"{service.worker.url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {
        part: sum(
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"weirguard_queries_{part}total{{")
        )
        for part in ("answered_", "", "repeated_", "unjudged_", "dropped_")
    }


def test_every_answered_query_of_a_thief_is_accounted_for_and_the_unjudged_accuse(
    broker: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "credit.profile"
    path.write_bytes(profile(ROWS).to_bytes())
    setting = {"WEIRGUARD_DETECTION__PROFILES": json.dumps([str(path)])}
    with running_service(broker, prefix, tmp_path, **setting) as service:
        send(service, asked(ROWS[:40]))
        send(service, asked(ROWS[:15]))
        for at in range(40, 50):
            send(service, asked(ROWS[at : at + 1], f"no-such-{at}"))
        lost = (
            Count("credit", "eve", "unjudged", 20, 1.0, "encoding"),
            Count("credit", "eve", "dropped", 5, 1.0, "queue"),
        )
        send(service, asked(ROWS[:12, :5]), *lost)
        send(service, asked(ROWS[:8], "no-such", classes=2))
        send(service, asked(ROWS[:1], who="ana"))
        for _ in range(UNREADABLE):
            service.producer.send(service.topics.queries, b"{nonsense", partition=partition_of("eve", PARTITIONS))
        service.producer.flush()
        total = 50 + 15 + 40 + 5
        service.read(service.topics.state_log, lambda found: _rows(found) >= 86)
        reach(service, monkeypatch)
        until(lambda: show(service)["answered"] == total)
        score = show(service)
        assert {name: score[name] for name in ANSWERED} == ANSWERED
        assert score["flagged"]
        parts = metrics(service)
        assert parts.pop("answered_") == sum(parts.values()) == total + 1 + UNREADABLE
        assert parts == {"": 51, "repeated_": 15, "unjudged_": 40 + UNREADABLE, "dropped_": 5}
        alerts = service.read(service.topics.alerts, lambda found: len(found) >= 1)
        assert {(said.principal, said.signal) for said in (decode(Alert, one.value) for one in alerts)} == {
            ("eve", "unjudged")
        }
        (decision, *_) = service.read(service.topics.decisions, lambda found: len(found) >= 1)
        said = decode(Decision, decision.value)
        assert (said.principal, said.action.name, said.mode) == ("eve", "slow", "enforce")
