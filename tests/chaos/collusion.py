"""What should have come of a ring: the judged queries as a detector that nothing happened to sends them, and the groups
and commands that follow from the judged queries as they lie on the broker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from detector.contracts.topics import Topics
from detector.core.calibration.calibrate import calibrate
from detector.core.calibration.traffic import accounts_of
from detector.core.engine import Engine
from detector.groups.calibration import crowd_of
from detector.groups.judged_record import JudgedRecord, decode_judged
from detector.groups.owner import GroupOwner
from detector.policy.ledger import Ledger
from detector.runtime.settings import Settings
from detector.stream.detection_config import engine_config, policy_config
from detector.stream.detector import Detector
from detector.stream.intake import RecordDecoder
from detector.stream.judged import JudgedQueriesOutlet
from detector.stream.source_records import SourceRecord
from tests.chaos.audit import Names
from tests.chaos.logs import Entry, Logs
from tests.chaos.population import Population

_CALIBRATING = 9_000
_AT_ONCE = 20

Row = tuple[int, int, int]
"""(partition, offset, row): where a query stands in its topic."""


def write_profile(seed: int, path: Path) -> Path:
    """The profile of honest accounts of the population of ``seed``, with their crowd."""
    accounts = accounts_of([Population(seed, honest=30, thieves=0).draw(_CALIBRATING)])
    calibration = calibrate(accounts, 0.01)
    path.write_bytes(replace(calibration.profile, crowd=crowd_of(calibration, accounts)).to_bytes())
    return path


def members(logs: Logs, settings: Settings) -> set[str]:
    """The accounts that a group has commanded to join."""
    commands = (json.loads(entry.value or b"{}") for entry in logs.of(Names(settings.kafka.prefix).commands))
    return {command["principal"] for command in commands if command.get("kind") == "join"}


def ring_differences(logs: Logs, settings: Settings) -> list[str]:
    """What differs, in sentences; none where all is equal."""
    names, found = Names(settings.kafka.prefix), list[str]()
    judged = [decode_judged(entry.value) for entry in logs.of(names.judged)]
    sent, due = _rows(judged), _rows(_undisturbed(logs, settings))
    found += [f"judged query missing: {row}" for row in sorted(due.keys() - sent.keys())[:20]]
    found += [f"judged query too many: {row}" for row in sorted(sent.keys() - due.keys())[:20]]
    found += [
        f"judged query {row} is {sent[row]} where {due[row]} is due"
        for row in sorted(due.keys() & sent.keys())
        if not np.allclose(sent[row], due[row], rtol=1e-9, atol=1e-9, equal_nan=True)
    ]
    alerts, commands = _followed(logs, settings)
    for what, topic, wanted in (("group", names.groups, alerts), ("command", names.commands, commands)):
        got = {entry.value for entry in logs.of(topic)}
        found += [f"{what} missing: {value!r:.300}" for value in sorted(wanted - got, key=repr)]
        found += [f"{what} too many: {value!r:.300}" for value in sorted(got - wanted, key=repr)]
    return found + _undecided(logs, settings)


def _rows(records: Iterable[JudgedRecord]) -> dict[Row, tuple[float, ...]]:
    """By place, the number of each query within its account and, where it is due, D; the first copy counts."""
    found: dict[Row, tuple[float, ...]] = {}
    for record in records:
        queries = record.queries
        distance = np.full(len(record), np.nan)
        distance[queries.due] = queries.distance
        linked = np.isin(np.arange(len(record)), queries.linked)
        columns = (record.offset, queries.row, queries.number, distance, linked)
        for offset, row, *rest in zip(*(column.tolist() for column in columns), strict=True):
            found.setdefault((record.partition, offset, row), tuple(map(float, rest)))
    return found


def _undisturbed(logs: Logs, settings: Settings) -> Iterator[JudgedRecord]:
    """The judged queries of a detector that reads each partition from its first record to its last."""
    config, names = engine_config(settings), Names(settings.kafka.prefix)
    for partition in logs.partitions(names.queries):
        detector = Detector(Engine(config), Ledger(policy_config(settings), ""))
        topics, partitions = Topics(settings.kafka.prefix), settings.kafka.partitions
        decoder = RecordDecoder(partition, partitions, topics)
        outlet = JudgedQueriesOutlet(config.judging, topics, partition, partitions)
        entries = logs.entries[names.queries, partition]
        for start in range(0, len(entries), _AT_ONCE):
            decoded = decoder.decode([_source(entry) for entry in entries[start : start + _AT_ONCE]])
            for message in outlet.messages(decoded, detector.detect(decoded)[0]):
                yield decode_judged(message.value)


def _source(entry: Entry) -> SourceRecord:
    return SourceRecord("queries", entry.offset, entry.at / 1000, entry.key, entry.value, dict(entry.headers))


def _followed(logs: Logs, settings: Settings) -> tuple[set[bytes | None], set[bytes | None]]:
    """The records of groups and the commands that follow from the judged queries on the broker, in their order."""
    from detector.contracts.codecs.records import encode

    config, names = engine_config(settings), Names(settings.kafka.prefix)
    alerts, commands = set[bytes | None](), set[bytes | None]()
    for partition in logs.partitions(names.judged):
        owner = GroupOwner(config.judging, config.configuration_hash(), settings.detection.group_bytes)
        for entry in logs.entries[names.judged, partition]:
            effects = owner.observe([(entry.value or b"", decode_judged(entry.value))])
            alerts |= {encode(alert) for alert in effects.alerts}
            commands |= {encode(command) for command in effects.commands}
    return alerts, commands


def _undecided(logs: Logs, settings: Settings) -> list[str]:
    """Members without a decision that names their group."""
    decisions = (json.loads(entry.value or b"{}") for entry in logs.of(Names(settings.kafka.prefix).decisions))
    decided = {decision["principal"] for decision in decisions if _names_group(decision)}
    return [f"no decision names the group of {name}" for name in sorted(members(logs, settings) - decided)]


def _names_group(decision: Mapping[str, list[dict[str, str]]]) -> bool:
    return any(cause["origin"].startswith("group:") for cause in decision.get("causes", ()))
