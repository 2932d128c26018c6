"""Records that end the worker that processes them: found, moved to the dead letters and counted, while all others are
processed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detector.contracts.codecs import decode, encode
from detector.contracts.findings import Action, Audit, Command, DeadLetter
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import partition_of
from tests.conftest import Broker
from tests.contracts.batches import make_batch
from tests.contracts.wire import encode_json_query
from tests.e2e.marked_worker import SUPERVISE
from tests.e2e.service import PARTITIONS, Service, running_service
from tests.e2e.test_service import _rows


def _named(kind: str, partition: int) -> str:
    return next(name for at in range(999) if partition_of(name := f"{kind}{at}", PARTITIONS) == partition)


def _of(name: str, rows: int, seed: int) -> QueryBatch:
    return make_batch(rows=rows, seed=seed, principals=[name], principal_index=np.zeros(rows, np.int32))


def _send(service: Service, batch: QueryBatch, partition: int) -> list[int]:
    values = [encode_json_query(batch, row) for row in range(len(batch))]
    sent = [service.producer.send(service.topics.queries, value, partition=partition) for value in values]
    return [future.get(30).offset for future in sent]


def _command(service: Service, principal: str, reason: str, partition: int) -> int:
    word = Command(f"c-{reason}", "add", 1.7e9, "eve", "digits", principal, reason, Action("refuse"), None, 60.0)
    sent = service.producer.send(service.topics.commands, encode(word), partition=partition)
    return int(sent.get(30).offset)


def test_poison_goes_to_the_dead_letters_and_all_else_is_judged(broker: Broker, prefix: str, tmp_path: Path) -> None:
    with running_service(broker, prefix, tmp_path, SUPERVISE) as service:
        good, other = _named("good", 0), _named("good", 1)
        rows, poison = 0, set()
        for seed, kind in enumerate(("kill-", "raise-")):
            _send(service, _of(good, 20, seed), 0)
            _send(service, _of(other, 20, seed), 1)
            poison.add(("queries", 0, *_send(service, _of(_named(kind, 0), 1, seed), 0)))
            rows += 40
        _send(service, _of(good, 20, 9), 0)
        poison.add(("commands", 1, _command(service, other, "raise", 1)))
        letters = service.read(service.topics.dead_letters, lambda found: len(found) >= len(poison), 180.0)
        described = [decode(DeadLetter, dict(letter.headers)["weirguard.dead-letter"]) for letter in letters]
        assert {letter.reason for letter in described} == {"poison"}
        source = {service.topics.queries: "queries", service.topics.commands: "commands"}
        assert {(source[letter.topic], letter.partition, letter.offset) for letter in described} == poison
        _send(service, _of(good, 20, 10), 0)
        _command(service, other, "later", 1)
        log = service.read(service.topics.state_log, lambda found: _rows(found) >= rows + 40)
        assert _rows(log) == rows + 40
        audits = service.read(service.topics.audit, lambda found: len(found) >= 1)
        assert decode(Audit, audits[0].value).detail["reason"] == "later"
        stops = service.worker.log.read_text().count("worker stopped")
        assert 3 <= stops <= 3 * len(poison) + 1, service.log_tail()
