"""A partition accounts for every answered query, by principal and in the metrics, through any crash."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.contracts.codecs.packed_queries import encode_packed
from detector.contracts.codecs.records import decode
from detector.contracts.findings import Score
from detector.contracts.queries import BadRow, Count, QueryBatch
from detector.contracts.topics import Topics
from detector.policy.entry import decode_changes
from detector.runtime.health import Health
from detector.runtime.metric_defs import QUERIES, QUERIES_DROPPED, QUERIES_EXCUSED, QUERIES_REPEATED, QUERIES_UNJUDGED
from detector.runtime.metrics import new_metrics
from detector.stream.commit_unit import CommitUnit
from detector.stream.intake import DecodedRecords, RecordDecoder
from detector.stream.partition import Partition
from detector.stream.reporter import Reporter
from detector.stream.source_records import SourceRecord
from detector.stream.state_log import Message
from detector.stream.state_log import decode as decode_record
from tests.contracts.wire import encode_json_query
from tests.core.streams import batch, linear_outputs, random, unclipped
from tests.stream.world import PACKED, TOPICS, World, apply, figures, new_partition, state_of

PEOPLE = ("ana", "bo", "eve")


@dataclass
class Sent:
    """What each principal sent, in records of odd and good queries."""

    records: list[SourceRecord] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    counted: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in PEOPLE})

    def send(self, rows: QueryBatch, counts: list[Count]) -> None:
        offset = len(self.records)
        value = encode_packed(rows, counts)
        self.records.append(SourceRecord("queries", offset, 1000.0 + offset, None, value, PACKED))
        for at in rows.principal_index.tolist():
            self.answered[rows.principals[at]] += 1
        for count in counts:
            if count.kind != "refused":
                self.answered[count.principal] += count.queries
                self.counted[count.principal][count.reason] += count.queries


def sent(seed: int, number: int = 40) -> Sent:
    """Records of any width, version and repetition, some with counts."""
    rng = np.random.default_rng(seed)
    whole, before = Sent(), random(rng, 5, 6)
    for _ in range(number):
        rows = random(rng, int(rng.integers(1, 9)), int(rng.choice([6, 6, 6, 5])))
        if rng.random() < 0.3:
            rows = before[rng.integers(0, len(before), len(rows))]
        before = rows
        who = rng.choice(PEOPLE, len(rows), p=[0.2, 0.2, 0.6]).tolist()
        outputs = linear_outputs(rows, 3)
        version = str(rng.choice(["1", "2", f"v{rng.integers(1000)}"]))
        kind: Any = str(rng.choice(["dropped", "unjudged", "refused"]))
        word = {"dropped": "queue", "unjudged": "encoding", "refused": ""}[kind]
        counts = [Count("credit", "eve", kind, int(rng.integers(1, 9)), 1.0, word)] if rng.random() < 0.3 else []
        whole.send(batch(rows, who, outputs=outputs, kind="probabilities", version=version), counts)
    return whole


def account(partition: Partition, principal: str) -> dict[str, int]:
    """What became of the queries of ``principal``, by the parts of the state that know."""
    standing = partition.detector.engine.status("credit", principal)
    held = partition.detector.ledger.accounting.of(("credit", principal))
    odd = {} if held is None else held.unjudged | held.dropped
    return {"judged": standing.queries - standing.repeats, "repeats": standing.repeats, **odd}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(0, 40), st.sampled_from(["", "step", "record"]))
def test_every_answered_query_is_accounted_for_through_deaths_and_checkpoints(
    seed: int, size: int, died_at: int, dies_after: str
) -> None:
    whole = sent(seed)
    world = World(whole.records, round_bytes=3_000)
    world.run(world.take_over(), died_at, size, dies_after)
    successor = world.take_over()
    world.run(successor, len(whole.records), 3)
    undisturbed = World(whole.records)
    alone = undisturbed.take_over()
    undisturbed.run(alone, len(whole.records), 7)
    for name in PEOPLE:
        parts = account(successor, name)
        assert sum(parts.values()) == whole.answered[name]
        assert {reason: parts.get(reason, 0) for reason in whole.counted[name]} == whole.counted[name]
        assert parts == account(alone, name)
    assert state_of(world.take_over())[5] == state_of(successor)[5] == state_of(alone)[5]
    assert world.outcome() == undisturbed.outcome()


def test_an_account_of_long_ago_outlives_the_log_that_it_stood_in() -> None:
    whole, rng = Sent(), np.random.default_rng(0)
    whole.send(batch(random(rng, 2, 6), ["eve"] * 2), [Count("credit", "eve", "unjudged", 40, 1.0, "encoding")])
    for _ in range(60):
        whole.send(batch(random(rng, 20, 6), ["ana"] * 20), [])
    world = World(whole.records, round_bytes=3_000)
    owner = world.take_over()
    world.run(owner, len(whole.records))
    assert decode_record(world.log[0][1]).kind == "chunk"
    successor = world.take_over()
    assert account(successor, "eve") == {"judged": 2, "repeats": 0, "encoding": 40}
    assert state_of(successor)[5] == state_of(owner)[5]


def test_the_metrics_and_the_last_scores_give_the_same_account() -> None:
    whole = sent(3)
    partition = World(whole.records).take_over()
    metrics = new_metrics(5)
    reporter = Reporter(Health(lambda: 0.0, 60.0), metrics, lambda: 2.0)
    published = []
    for start in range(0, len(whole.records), 4):
        records = whole.records[start : start + 4]
        step = apply(partition, records)
        published += step.after
        reporter.performed([(partition, records, step)])
    published += partition.waiting_scores()
    assert partition.waiting_scores() == []
    values = metrics.render().decode()
    total = {name: _sum(values, f"weirguard_queries_{name}total") for name in _FIGURES}
    assert total["answered_"] == sum(whole.answered.values()) == sum(total.values()) - total["answered_"]
    assert min(total.values()) > 0
    scores = {}
    for message in published:
        if message.topic == TOPICS.scores:
            score = decode(Score, message.value)
            scores[score.principal] = score
    for name, score in scores.items():
        assert score.answered == whole.answered[name]
        parts = {"judged": score.judged, "repeats": score.repeats, **score.unjudged, **score.dropped}
        assert parts == account(partition, name)


_FIGURES = ("answered_", "", "repeated_", "unjudged_", "dropped_")


def _sum(page: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name + "{"))


def test_queries_excused_by_the_deployment_are_counted() -> None:
    metrics = new_metrics(5)
    reporter = Reporter(Health(lambda: 0.0, 60.0), metrics, lambda: 2.0)
    step = CommitUnit((1, 1), "delta", [b""])
    step.count(QUERIES_EXCUSED, 7, "credit")
    partition: Any = SimpleNamespace(number=0)
    for _ in range(2):
        reporter.performed([(partition, [SourceRecord("queries", 0, 1.0, None, b"")], step)])
    assert _sum(metrics.render().decode(), "weirguard_queries_excused_total") == 14


def test_rows_that_could_not_be_read_stand_where_they_were_and_belong_to_their_principal() -> None:
    decoded = DecodedRecords(
        record_of=np.array([0, 0, 2, 2]),
        row_of=np.array([0, 3, 0, 1]),
        reported=[(0, Count("m", "ana", "dropped", 2, 1.0), 2)],
        rejected={
            0: [BadRow(1, "features", "", "m", "ana"), BadRow(2, "time", "", "", "")],
            1: [BadRow(-1, "syntax", "", "m", "bo", 4)],
            2: [BadRow(5, "outputs", "", "m", "away"), BadRow(6, "counts", "", "m", "bo", 0)],
        },
    )
    found = decoded.counted(lambda name: name != "away", np.array([1.0, 2.0, 3.0]), np.array([True, False, False]))
    assert [(one.count.principal, one.count.reason, one.count.queries, one.at_row) for one in found] == [
        ("ana", "features", 1, 1),
        ("ana", "", 2, 2),
        ("bo", "syntax", 4, 2),
    ]
    assert [(one.time, one.learning) for one in found] == [(1.0, True), (1.0, True), (2.0, False)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.booleans())
def test_what_comes_in_the_wrong_partition_is_accounted_for_in_the_right_one(seed: int, as_json: bool) -> None:
    rng = np.random.default_rng(seed)
    owners = [new_partition(number, 3) for number in range(3)]
    for owner in owners:
        owner.cursor.fence, owner.cursor.live = 0, True
    answered: Counter[str] = Counter()
    waiting: dict[int, list[Message]] = {}
    told: Counter[str] = Counter()
    for offset in range(20):
        rows = random(rng, 4, 6)
        who = rng.choice(PEOPLE, 4).tolist()
        outputs = linear_outputs(rows, 3)
        outputs[rng.random(4) < 0.5] = np.nan
        some = batch(rows, who, outputs=outputs, kind="probabilities", version="1")
        counts = [Count("credit", name, "unjudged", 3, 1.0, "encoding") for name in PEOPLE[: offset % 4]]
        values = [encode_json_query(some, row) for row in range(4)] if as_json else [encode_packed(some, counts)]
        answered.update(who)
        answered.update({} if as_json else {count.principal: 3 for count in counts})
        for at, value in enumerate(values):
            record = SourceRecord("queries", 4 * offset + at, 1000.0, None, value, {} if as_json else PACKED)
            step = apply(owners[0], [record])
            told.update({"answered": _answered(step)})
            for message in step.before:
                if message.topic == TOPICS.rekeyed:
                    assert message.partition is not None
                    waiting.setdefault(message.partition, []).append(message)
    for number, messages in waiting.items():
        for at, message in enumerate(messages):
            headers = dict(message.headers)
            record = SourceRecord("rekeyed", at, 1000.0, message.key, message.value, headers)
            told.update({"answered": _answered(apply(owners[number], [record]))})
    given = Counter({name: sum(sum(account(owner, name).values()) for owner in owners) for name in PEOPLE})
    assert given == answered
    assert told["answered"] == answered.total()


def _answered(step: CommitUnit) -> int:
    """Queries that the metrics tell of."""
    metrics = QUERIES, QUERIES_REPEATED, QUERIES_UNJUDGED, QUERIES_DROPPED
    return sum(amount for metric in metrics for amount in figures(step, metric).values())


def test_who_lives_elsewhere_is_not_accounted_for_here() -> None:
    decoders = [RecordDecoder(number, 4, Topics("x")) for number in range(4)]
    assert [sum(decoder._is_home(name) for decoder in decoders) for name in PEOPLE] == [1, 1, 1]


def test_a_suspect_who_rotates_versions_has_one_latch() -> None:
    whole, rows = Sent(), unclipped(np.random.default_rng(6), 600, 16)
    for at in range(0, 600, 4):
        whole.send(batch(rows[at : at + 4], ["eve"] * 4, version=f"v{at}"), [])
    partition = World(whole.records).take_over()
    for record in whole.records:
        apply(partition, [record])
    section = partition.detector.ledger.dump([("credit", "eve")])
    (entry,) = decode_changes(section).values()
    assert entry is not None
    assert len(entry.latches) == 1


def test_a_flood_of_what_cannot_be_judged_is_an_alert_and_a_decision_of_the_partition() -> None:
    rows = random(np.random.default_rng(0), 200, 6)
    whole = Sent()
    for at in range(40):
        part = rows[5 * at : 5 * at + 5]
        part = part[:, :5] if at % 3 else part
        whole.send(batch(part, ["eve"] * 5, outputs=linear_outputs(part, 3), kind="probabilities"), [])
    world = World(whole.records)
    partition = world.take_over()
    world.run(partition, len(whole.records))
    alerts, decisions = world.outcome()
    assert any(b'"signal":"unjudged"' in alert for alert in alerts)
    assert any(b"signal:unjudged" in decision for decision in decisions)
