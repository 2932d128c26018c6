"""The audit finds nothing in a faultless history and names each planted fault."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.chaos.audit import Counted, audit
from tests.chaos.logs import CONSUMER_OFFSETS, Commit, Entry, Logs, commit_of, rows_of
from tests.chaos.undisturbed import believed

PREFIX = "p"
STATE, QUERIES, ALERTS, DECISIONS = "p-state-changelog", "p.queries", "p.alerts", "p.decisions"
LETTERS = "p.dead-letters"


def _offset_key(group: str, topic: str, partition: int) -> bytes:
    names = b"".join(struct.pack(">h", len(name)) + name.encode() for name in (group, topic))
    return struct.pack(">h", 1) + names + struct.pack(">i", partition)


class History:
    """One partition's history as a faultless worker makes it; time passes by one millisecond a record."""

    def __init__(self) -> None:
        self.logs = Logs()
        self.now = 1_000
        self.fence = -1
        self.sequence = 0
        self.applied = -1
        self.published = (-1, 0)

    def put(self, topic: str, key: bytes | None, value: bytes, **headers: bytes) -> int:
        self.now += 1
        offset = len(self.logs.entries[topic, 0])
        pairs = tuple((name.replace("_", "-"), data) for name, data in headers.items())
        self.logs.add(topic, Entry(0, offset, self.now, key, value, pairs))
        return offset

    def query(self, rows: int = 3) -> None:
        value = msgspec.msgpack.encode({"event_ids": [f"e{at}" for at in range(rows)]})
        self.put(QUERIES, None, value, content_type=b"application/vnd.weirguard.queries+msgpack")

    def take(self) -> None:
        """A fence: somebody becomes the owner."""
        record = {"kind": "fence", "fence": -1, "sequence": 0}
        self.fence, self.sequence = self.put(STATE, b"fence", self._record(record)), 0

    def delta(self, first: int, last: int, rows: int, outbox: list[Any] | None = None, **changes: Any) -> None:
        self.sequence += 1
        self.applied = max(self.applied, last)
        record = {"kind": "delta", "source": (first, last), "rows": rows, "outbox": outbox or [], **changes}
        self.put(STATE, b"s", self._record(record))

    def parts(self, first: int, last: int, rows: int, count: int = 3, outbox: list[Any] | None = None) -> None:
        """A delta that comes in ``count`` parts."""
        self.sequence += 1
        self.applied = max(self.applied, last)
        whole = self._record({"kind": "delta", "source": (first, last), "rows": rows, "outbox": outbox or []})
        size = -(-len(whole) // count)
        for number in range(count):
            self.part(number, count, whole[number * size : (number + 1) * size])
            self.sequence += 1
        self.sequence -= 1

    def part(self, number: int, count: int, data: bytes) -> None:
        fields = {"format": 2, "kind": "part", "of": "delta", "fence": self.fence, "sequence": self.sequence}
        self.put(STATE, b"s", msgspec.msgpack.encode(fields | {"number": number, "count": count, "data": data}))

    def letter(self, partition: int, offset: int, value: bytes) -> None:
        told = json.dumps({"topic": QUERIES, "partition": partition, "offset": offset, "reason": "poison"})
        self.logs.add(LETTERS, Entry(0, 0, self.now, None, value, (("weirguard.dead-letter", told.encode()),)))

    def _record(self, changes: dict[str, Any]) -> bytes:
        record = {
            "format": 1,
            "fence": self.fence,
            "sequence": self.sequence,
            "applied": {"queries": self.applied} if self.applied >= 0 else {},
            "source": None,
            "rows": 0,
            "published": self.published,
            "outbox": [],
            "sections": {"engine": (1, b"x")},
        }
        return msgspec.msgpack.encode(record | changes)

    def publish(self, outbox: list[Any]) -> None:
        for topic, _, key, value, *_ in outbox:
            self.put(topic, key, value)
        self.published = (self.fence, self.sequence)

    def commit(self, offset: int, group: str = PREFIX) -> None:
        value = struct.pack(">hq", 3, offset) + b"rest"
        self.put(CONSUMER_OFFSETS, _offset_key(group, QUERIES, 0), value)


def alert(identity: str = "a1", **changes: Any) -> list[Any]:
    return [ALERTS, None, b'["m","thief"]', json.dumps({"id": identity} | changes).encode(), [], None]


def decision(epoch: tuple[int, int], action: str = "slow") -> list[Any]:
    value = json.dumps({"id": "d1", "action": action, "epoch": epoch}).encode()
    return [DECISIONS, 0, b'["m","thief"]', value, [], None]


def faultless() -> History:
    """Two owners: the first alerts; its frozen record comes late; the second continues and repeats a decision."""
    history = History()
    for _ in range(4):
        history.query()
    history.take()
    history.delta(0, 0, 3)
    alerts = [alert(), decision((history.fence, history.sequence))]
    history.delta(1, 1, 3, alerts)
    history.publish(alerts)
    history.commit(2)
    first, sequence = history.fence, history.sequence
    history.take()
    history.put(STATE, b"s", history._record({"kind": "delta", "fence": first, "sequence": sequence + 1, "rows": 3}))
    history.publish([alert(), decision((history.fence, 0))])
    history.delta(2, 3, 6)
    history.commit(4)
    return history


def kinds(history: History) -> dict[str, int]:
    return dict(audit(history.logs, PREFIX).kinds())


def test_a_faultless_history_with_a_takeover_and_a_late_record_of_the_old_owner_has_no_problem() -> None:
    report = audit(faultless().logs, PREFIX)
    assert report.problems == []
    assert (report.source_rows, report.counted_rows) == (12, 12)
    assert (report.fences, report.void_records, report.commits) == (2, 1, 2)
    assert (report.outbox_messages, report.repeated_messages) == (2, 1)


def _never_applied(history: History) -> None:
    history.query()


def _skipped(history: History) -> None:
    history.query()
    history.query()
    history.delta(5, 5, 3)


def _skipped_though_said_applied(history: History) -> None:
    history.query()
    history.query()
    history.delta(4, 4, 3, applied={"queries": 5})


def _counted_again(history: History) -> None:
    history.query()
    history.delta(3, 4, 6)


def _went_back(history: History) -> None:
    history.query()
    history.delta(4, 4, 3)
    history.delta(3, 3, 3, applied={"queries": 3})


def _rows_left_out(history: History) -> None:
    history.query(rows=5)
    history.delta(4, 4, 4)


def _hole(history: History) -> None:
    history.query()
    history.sequence += 1
    history.delta(4, 4, 3)


def _forked(history: History) -> None:
    history.query()
    history.delta(4, 4, 3)
    history.sequence -= 1
    history.delta(4, 4, 3, owner="another")


def _unknown_fence(history: History) -> None:
    history.query()
    history.delta(4, 4, 3, fence=99)


def _garbage(history: History) -> None:
    history.put(STATE, b"s", b"\xc1")


def _commit_ahead_for_good(history: History) -> None:
    history.commit(5)


def _commit_ahead_for_a_moment(history: History) -> None:
    history.query()
    history.commit(5)
    history.delta(4, 4, 3)


def _alert_not_sent(history: History) -> None:
    history.query()
    history.delta(4, 4, 3, [alert("a2")])


def _alert_sent_after_the_commit(history: History) -> None:
    history.query()
    history.delta(4, 4, 3, [alert("a2")])
    history.commit(5)
    history.publish([alert("a2")])


def _alert_sent_after_the_watermark(history: History) -> None:
    history.query()
    history.query()
    history.delta(4, 4, 3, [alert("a2")])
    history.published = (history.fence, history.sequence)
    history.delta(5, 5, 3)
    history.publish([alert("a2")])


def _alert_from_nowhere(history: History) -> None:
    history.publish([alert("a9")])


def _decision_from_nowhere(history: History) -> None:
    history.publish([decision((1, 1), "refuse")])


def _one_alert_says_two_things(history: History) -> None:
    history.query()
    other = [alert("a1", score=2.0)]
    history.delta(4, 4, 3, other)
    history.publish(other)


def _parts_cut_short(history: History) -> None:
    history.query()
    history.sequence += 1
    history.part(0, 3, b"a")
    history.delta(4, 4, 3)


def _part_left_out(history: History) -> None:
    history.query()
    history.sequence += 1
    history.part(0, 3, b"a")
    history.sequence += 1
    history.part(2, 3, b"c")
    history.delta(4, 4, 3)


def _parts_that_say_nothing(history: History) -> None:
    history.query()
    history.sequence += 1
    history.part(0, 1, b"\xc1")
    history.delta(4, 4, 3)


def _outbox_of_parts_not_sent(history: History) -> None:
    history.query()
    history.parts(4, 4, 3, outbox=[alert("a2")])


def _innocent_in_the_dead_letters(history: History) -> None:
    history.letter(0, 1, b"innocent")


PLANTED: list[tuple[Callable[[History], None], set[str]]] = [
    (_never_applied, {"lost"}),
    (_skipped, {"lost"}),
    (_skipped_though_said_applied, {"lost"}),
    (_counted_again, {"counted-twice"}),
    (_went_back, {"counted-twice", "lost"}),
    (_rows_left_out, {"miscounted"}),
    (_hole, {"hole"}),
    (_forked, {"forked"}),
    (_unknown_fence, {"foreign-fence", "lost"}),
    (_garbage, {"unreadable"}),
    (_commit_ahead_for_good, {"commit-ahead"}),
    (_commit_ahead_for_a_moment, {"commit-ahead"}),
    (_alert_not_sent, {"unpublished"}),
    (_alert_sent_after_the_commit, {"acknowledged-unpublished"}),
    (_alert_sent_after_the_watermark, {"published-late"}),
    (_alert_from_nowhere, {"invented"}),
    (_decision_from_nowhere, {"invented"}),
    (_one_alert_says_two_things, {"contradiction"}),
    (_parts_cut_short, {"hole"}),
    (_part_left_out, {"hole"}),
    (_parts_that_say_nothing, {"unreadable"}),
    (_outbox_of_parts_not_sent, {"unpublished"}),
    (_innocent_in_the_dead_letters, {"buried"}),
]


@pytest.mark.parametrize(("plant", "expected"), PLANTED, ids=[plant.__name__.strip("_") for plant, _ in PLANTED])
def test_each_planted_fault_is_found_and_named(plant: Callable[[History], None], expected: set[str]) -> None:
    history = faultless()
    plant(history)
    assert set(kinds(history)) == expected


def test_a_higher_revision_of_an_alert_may_say_something_else() -> None:
    history = faultless()
    history.query()
    higher = [alert("a1", score=2.0, revision=2)]
    history.delta(4, 4, 3, higher)
    history.publish(higher)
    history.commit(5)
    assert not kinds(history)


def test_a_record_in_parts_counts_once_all_are_there_and_what_an_owner_left_unfinished_is_void() -> None:
    history = faultless()
    history.query()
    history.sequence += 1
    history.part(0, 2, b"a")
    history.take()
    alerts = [alert("a2")]
    history.parts(4, 4, 3, outbox=alerts)
    history.publish(alerts)
    history.commit(5)
    report = audit(history.logs, PREFIX)
    assert report.problems == []
    assert (report.counted_rows, report.parts) == (15, 4)


def test_acknowledged_before_the_last_part_is_ahead() -> None:
    history = faultless()
    history.query()
    history.commit(5)
    history.parts(4, 4, 3)
    assert kinds(history) == {"commit-ahead": 1}


def test_poison_must_be_in_the_dead_letters_and_counted_by_nobody() -> None:
    history = faultless()
    history.query()
    history.delta(4, 4, 0)
    value = history.logs.entries[QUERIES, 0][4].value
    assert value is not None
    assert set(audit(history.logs, PREFIX).kinds()) == {"miscounted"}
    assert set(audit(history.logs, PREFIX, poison={(0, 4)}).kinds()) == {"buried"}
    history.letter(0, 4, value)
    assert audit(history.logs, PREFIX, poison={(0, 4)}).problems == []
    history.logs.entries[LETTERS, 0].clear()
    history.letter(0, 4, value[:-1])
    assert set(audit(history.logs, PREFIX, poison={(0, 4)}).kinds()) == {"buried"}


def test_a_decision_that_ends_years_ahead_is_found() -> None:
    history = faultless()
    history.query()
    value = json.dumps({"id": "d2", "expires_at": history.now / 1000 + 60}).encode()
    said = [[DECISIONS, 0, b"k", value, [], None]]
    history.delta(4, 4, 3, said)
    history.publish(said)
    assert audit(history.logs, PREFIX, most_seconds=60.0).problems == []
    assert audit(history.logs, PREFIX, most_seconds=50.0).kinds() == {"too-long": 1}


def test_a_log_that_was_cut_before_it_was_read_is_refused() -> None:
    history = faultless()
    del history.logs.entries[STATE, 0][0]
    assert kinds(history)["cut-too-far"] == 1


def test_a_gap_that_the_source_itself_has_is_no_loss() -> None:
    history = faultless()
    history.query()
    history.query()
    del history.logs.entries[QUERIES, 0][4]
    history.delta(5, 5, 3)
    assert kinds(history) == {}


def test_without_append_times_a_commit_is_judged_by_what_is_there_at_the_end() -> None:
    history = faultless()
    _commit_ahead_for_a_moment(history)
    seen = [Commit(QUERIES, 0, 5, 0)]
    assert audit(history.logs, PREFIX, commits=seen, append_times=False).problems == []
    ahead = [Commit(QUERIES, 0, 6, 0)]
    assert audit(history.logs, PREFIX, commits=ahead, append_times=False).kinds() == {"commit-ahead": 1}


def test_commits_of_other_groups_and_other_records_of_the_offsets_topic_are_left_alone() -> None:
    history = faultless()
    history.commit(1_000, group="another")
    assert kinds(history) == {}
    metadata = Entry(0, 0, 0, struct.pack(">hh", 2, 1) + b"p", b"members")
    tombstone = Entry(0, 0, 0, _offset_key("p", QUERIES, 0), None)
    assert commit_of(metadata, "p") is None
    assert commit_of(tombstone, "p") is None


def test_a_single_json_query_is_one_row() -> None:
    assert rows_of(Entry(0, 0, 0, b"k", b'{"event_id": "e"}')) == 1
    assert rows_of(Entry(0, 0, 0, b"k", b'{"other": 1}')) == 0


def test_a_query_is_of_its_own_time_unless_its_worker_took_it_for_another() -> None:
    def record(clock: float, source: tuple[int, int] | None) -> Counted:
        return Counted(Entry(0, 0, 0, None, None, ()), {"policy_time": clock, "source": source})

    records = [record(1.002, (0, 1)), record(1.008, None), record(1.008, (2, 2)), record(1.010, (3, 3))]
    entries = [Entry(0, offset, at, None, None, ()) for offset, at in enumerate([1_001, 1_002, 1_005, 9_000, 1_006])]
    assert [time for _, time in believed(entries, records)] == [1.001, 1.002, 1.008, 1.010, 1.006]
