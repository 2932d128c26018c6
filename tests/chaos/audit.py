"""The audit: from the records on the broker alone, was every query counted once and every due message published?

It imports nothing of the stream, so that it can catch the stream's mistakes. What it holds the workers to:

- The state log. A fence record, at log offset f, ends all earlier owners; after it only records of fence f count, with
  sequences that grow by one. Records of an older fence are void, whoever wrote them.
- Every source record is covered by exactly one record that counts, in order, and its rows are counted.
- Whatever stands in an outbox that counts is published; never after a commit that acknowledges its queries, and never
  after a record whose watermark says that it is.
- A record in parts counts once all of them are there, in a row.
- Each query that ends workers (the caller knows which) is in the dead letters, byte for byte and counted by nobody;
  nothing else is there.
- No decision lasts longer than decisions do, whatever the time of a record says.
- No commit runs ahead of the state: the record that covers it lies on the broker first.
- Nothing is published that no outbox holds, and no revision of an alert says two things.

Order between topics is the broker's append time, in milliseconds.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Any

from tests.chaos.logs import CONSUMER_OFFSETS, Commit, Entry, Joining, Logs, commit_of, header_of, poison_of, rows_of
from tests.chaos.report import Problem, ProblemKind, Report

Place = tuple[int, int]
"""(partition, offset)."""


@dataclass(frozen=True, slots=True)
class Names:
    """Topics and group under one prefix, written out here so that a renamed topic is noticed."""

    prefix: str

    @property
    def queries(self) -> str:
        return f"{self.prefix}.queries"

    @property
    def judged(self) -> str:
        return f"{self.prefix}.judged"

    @property
    def groups(self) -> str:
        return f"{self.prefix}.groups"

    @property
    def commands(self) -> str:
        return f"{self.prefix}.commands"

    @property
    def alerts(self) -> str:
        return f"{self.prefix}.alerts"

    @property
    def decisions(self) -> str:
        return f"{self.prefix}.decisions"

    @property
    def audit(self) -> str:
        return f"{self.prefix}.audit"

    @property
    def dead_letters(self) -> str:
        return f"{self.prefix}.dead-letters"

    @property
    def state(self) -> str:
        return f"{self.prefix}-state-changelog"

    def source(self, topic: str) -> str:
        """The state record's name for a source topic: what follows the prefix."""
        return topic.removeprefix(f"{self.prefix}.")


@dataclass(frozen=True, slots=True)
class Counted:
    """A state record that counts."""

    entry: Entry
    header: dict[str, Any]

    @property
    def position(self) -> tuple[int, int]:
        return self.header["fence"], self.header["sequence"]

    def applied(self, source: str) -> int:
        return int(self.header["applied"].get(source, -1))


Published = dict[tuple[str, bytes | None, bytes | None], list[int]]
"""(topic, key, value) to the times of its copies on the broker, ascending."""


def audit(
    logs: Logs,
    prefix: str,
    *,
    commits: list[Commit] | None = None,
    append_times: bool = True,
    poison: Collection[Place] = (),
    most_seconds: float = inf,
) -> Report:
    """Everything above, for every partition of the source topic.

    ``append_times`` False for a broker that does not stamp records itself: then only what is there at the end is
    judged, not what came first. ``commits``: for a broker without a readable offsets topic, what was seen committed.
    ``poison``: partition and offset of each query that ends workers. ``most_seconds``: how long after it was written a
    decision may end.
    """
    names, report = Names(prefix), Report()
    found = _commits(logs, prefix) if commits is None else commits
    report.commits = len(found)
    report.alerts, report.decisions = len(logs.of(names.alerts)), len(logs.of(names.decisions))
    for partition in sorted({*logs.partitions(names.queries), *logs.partitions(names.state)}):
        mine = [commit for commit in found if commit.partition == partition]
        own = {offset for where, offset in poison if where == partition}
        _PartitionAudit(logs, names, partition, report, append_times, own).run(mine)
    _check_invented(logs, names, report)
    _check_contradictions(logs, names, report)
    _check_letters(logs, names, poison, report)
    if append_times:
        _check_ends(logs, names, most_seconds, report)
    return report


def counted_records(logs: Logs, prefix: str, partition: int) -> list[Counted]:
    """The records of a partition's state log that count, fences included."""
    return _PartitionAudit(logs, Names(prefix), partition, Report(), timed=False).counted()


def _commits(logs: Logs, group: str) -> list[Commit]:
    return [commit for entry in logs.of(CONSUMER_OFFSETS) if (commit := commit_of(entry, group)) is not None]


class _PartitionAudit:
    """The checks of one partition; what they find goes into ``report``."""

    def __init__(
        self, logs: Logs, names: Names, partition: int, report: Report, timed: bool, poison: Collection[int] = ()
    ) -> None:
        self._poison = poison
        self._logs = logs
        self._names = names
        self._partition = partition
        self._report = report
        self._timed = timed

    def run(self, commits: list[Commit]) -> None:
        records = self.counted()
        self._check_coverage(records)
        self._check_commits(records, commits)
        self._check_outboxes(records, commits)

    def _found(self, kind: ProblemKind, offset: int, detail: str) -> None:
        self._report.problems.append(Problem(kind, self._partition, offset, detail))

    # -- which records count

    def counted(self) -> list[Counted]:
        entries = self._logs.entries[self._names.state, self._partition]
        for expected, entry in enumerate(entries):
            if entry.offset != expected:
                detail = f"offset {entry.offset} of the state log was read where {expected} is due; read it as it grows"
                self._found("cut-too-far", entry.offset, detail)
                break
        fence, records, under_fence, joining = -1, list[Counted](), dict[int, Entry](), Joining()
        for entry in entries:
            header = self._header(entry)
            if header is None:
                continue
            self._report.state_records += 1
            if header["kind"] == "fence":
                fence, under_fence = entry.offset, {header["sequence"]: entry}
                self._report.fences += 1
                records.append(Counted(entry, header | {"fence": fence}))
            elif self._counts(entry, header, fence, under_fence):
                under_fence[header["sequence"]] = entry
                records += self._whole(entry, header, joining)
            else:
                self._report.void_records += 1
        return records

    def _whole(self, entry: Entry, header: dict[str, Any], joining: Joining) -> list[Counted]:
        """The record in ``entry``, or that it completes, if it does."""
        part = header["kind"] == "part"
        waiting = joining.open.get(header["fence"], [])
        if waiting and not (part and header["number"] == len(waiting)):
            self._found("hole", entry.offset, f"{len(waiting)} parts from {waiting[0][0].offset} on lack the others")
        if not part:
            return [Counted(entry, header)]
        self._report.parts += 1
        whole = joining.add(entry, header)
        found = None if whole is None else self._header(whole)
        return [] if whole is None or found is None else [Counted(whole, found)]

    def _header(self, entry: Entry) -> dict[str, Any] | None:
        try:
            return header_of(entry)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
            self._found("unreadable", entry.offset, repr(error))
            return None

    def _counts(self, entry: Entry, header: dict[str, Any], fence: int, before: dict[int, Entry]) -> bool:
        """Whether a record other than a fence counts; one that should not be there at all is a problem."""
        if header["fence"] != fence:
            if header["fence"] > fence:
                detail = f"fence {header['fence']} was never set; the fence here is {fence}"
                self._found("foreign-fence", entry.offset, detail)
            return False
        sequence, last = header["sequence"], max(before)
        if sequence <= last:
            if before[sequence].value != entry.value:
                detail = f"sequence {sequence} of fence {fence} was something else at {before[sequence].offset}"
                self._found("forked", entry.offset, detail)
            return False
        if sequence != last + 1:
            self._found("hole", entry.offset, f"sequence {sequence} follows {last} under fence {fence}")
        return True

    # -- every query once

    def _check_coverage(self, records: list[Counted]) -> None:
        """Each source record once, in order, with all its rows; what the log says it applied is what it covers."""
        source = self._logs.entries[self._names.queries, self._partition]
        rows = {entry.offset: 0 if entry.offset in self._poison else rows_of(entry) for entry in source}
        self._report.source_rows += sum(rows.values())
        applied = -1
        for record in records:
            self._report.counted_rows += record.header["rows"]
            self._report.rounds += record.header["kind"] == "round"
            if record.header["source"] is not None:
                self._check_range(record, applied, rows)
                applied = max(applied, record.header["source"][1])
            if record.header["kind"] != "fence":
                applied = self._agreed(record, applied)
        left = [offset for offset in rows if offset > applied]
        if left:
            queries = sum(rows[offset] for offset in left)
            self._found("lost", left[0], f"source offsets {left[0]} to {left[-1]} never applied ({queries} queries)")

    def _check_range(self, record: Counted, applied: int, rows: dict[int, int]) -> None:
        first, last = record.header["source"]
        skipped = [offset for offset in range(applied + 1, first) if offset in rows]
        if skipped:
            detail = f"source offsets {skipped[0]} to {skipped[-1]} lie between two state records"
            self._found("lost", record.entry.offset, detail)
        if first <= applied:
            detail = f"source offsets {first} to {min(last, applied)} were covered before"
            self._found("counted-twice", record.entry.offset, detail)
        inside = sum(rows.get(offset, 0) for offset in range(first, last + 1))
        if record.header["rows"] != inside:
            detail = f"{record.header['rows']} rows counted of {inside} at source offsets {first} to {last}"
            self._found("miscounted", record.entry.offset, detail)

    def _agreed(self, record: Counted, applied: int) -> int:
        said = record.applied("queries")
        if said != applied:
            detail = f"applied offset {said} while the records so far cover the source up to {applied}"
            self._found("lost" if said > applied else "counted-twice", record.entry.offset, detail)
        return said

    # -- commits follow the state

    def _check_commits(self, records: list[Counted], commits: list[Commit]) -> None:
        for source in sorted({self._names.source(commit.topic) for commit in commits}):
            applied = list(accumulate((record.applied(source) for record in records), max))
            for commit in commits:
                if self._names.source(commit.topic) == source:
                    at = bisect_left(applied, commit.offset - 1)
                    self._check_commit(commit, records[at] if at < len(records) else None)

    def _check_commit(self, commit: Commit, covering: Counted | None) -> None:
        if covering is None or (self._timed and commit.offset > 0 and covering.entry.at > commit.at):
            late = "never" if covering is None else f"{covering.entry.at - commit.at} ms later"
            detail = f"{commit.topic} committed up to {commit.offset} and the state that covers it came {late}"
            self._found("commit-ahead", commit.offset, detail)

    # -- what had to be said was said

    def _check_outboxes(self, records: list[Counted], commits: list[Commit]) -> None:
        published = _published(self._logs, records)
        queries = sorted((c for c in commits if c.topic == self._names.queries), key=lambda commit: commit.at)
        for number, record in enumerate(records):
            done = self._published_at(record, published)
            if done is not None and self._timed:
                self._check_watermark(record, records[number + 1 :], done)
                self._check_acknowledged(record, queries, done)

    def _published_at(self, record: Counted, published: Published) -> int | None:
        """When the last message of the outbox was first on the broker; None for an empty one or a missing message."""
        times = []
        for topic, _, key, value, *_ in record.header["outbox"]:
            self._report.outbox_messages += 1
            copies = published.get((topic, key, value))
            if not copies:
                detail = f"a message to {topic} under key {key!r} is not there: {value!r:.300}"
                self._found("unpublished", record.entry.offset, detail)
                return None
            self._report.repeated_messages += len(copies) - 1
            times.append(min(copies))
        return max(times, default=None)

    def _check_watermark(self, record: Counted, later: list[Counted], done: int) -> None:
        claim = next((one for one in later if tuple(one.header["published"]) >= record.position), None)
        if claim is not None and claim.entry.at < done:
            early = f"the record at {claim.entry.offset}, which came {done - claim.entry.at} ms before"
            self._found("published-late", record.entry.offset, f"said to be published by {early}")

    def _check_acknowledged(self, record: Counted, commits: list[Commit], done: int) -> None:
        source = record.header["source"]
        early = next((commit for commit in commits if source and commit.offset > source[0]), None)
        if early is not None and early.at < done:
            detail = f"its queries were acknowledged {done - early.at} ms before its outbox was published"
            self._found("acknowledged-unpublished", record.entry.offset, detail)


def _published(logs: Logs, records: Iterable[Counted]) -> Published:
    """Where the messages of outboxes have to be looked for, indexed."""
    index: Published = defaultdict(list)
    for topic in {message[0] for record in records for message in record.header["outbox"]}:
        for entry in logs.of(topic):
            index[topic, entry.key, entry.value].append(entry.at)
    return index


def content(value: bytes) -> str:
    """An alert or decision without what a takeover may change: its epoch."""
    fields = json.loads(value)
    fields.pop("epoch", None)
    return json.dumps(fields, sort_keys=True)


def _check_invented(logs: Logs, names: Names, report: Report) -> None:
    """Every alert and decision on the broker is in some state record, even if that came too late to count."""
    meant = defaultdict[str, set[str]](set)
    whole = (one for partition in logs.partitions(names.state) for one in _whole(logs.entries[names.state, partition]))
    for message in (message for entry in whole for message in _outbox(entry)):
        if message[0] in (names.alerts, names.decisions):
            meant[message[0]].add(content(message[3]))
    for topic in (names.alerts, names.decisions):
        for entry in logs.of(topic):
            if entry.value is not None and content(entry.value) not in meant[topic]:
                detail = f"{topic} holds what no state record says: {entry.value!r:.300}"
                report.problems.append(Problem("invented", entry.partition, entry.offset, detail))


def _whole(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The state records of one partition, parts put together, whether they count or not."""
    joining = Joining()
    for entry in entries:
        with suppress(Exception):  # reported where the log is walked
            header = header_of(entry)
            joined = joining.add(entry, header) if header["kind"] == "part" else entry
            if joined is not None:
                yield joined


def _outbox(entry: Entry) -> list[Any]:
    try:
        return list(header_of(entry)["outbox"])
    except Exception:  # noqa: BLE001 (reported where the log is walked)
        return []


def _check_contradictions(logs: Logs, names: Names, report: Report) -> None:
    said: dict[tuple[str, int], str] = {}
    for entry in logs.of(names.alerts):
        assert entry.value is not None
        alert = json.loads(entry.value)
        identity, text = (alert["id"], alert.get("revision", 1)), content(entry.value)
        if said.setdefault(identity, text) != text:
            detail = f"alert {identity} says {text:.300} and before {said[identity]:.300}"
            report.problems.append(Problem("contradiction", entry.partition, entry.offset, detail))


def _check_letters(logs: Logs, names: Names, poison: Collection[Place], report: Report) -> None:
    """The dead letters are the queries that end workers and nothing else, as they came."""
    sent = {(entry.partition, entry.offset): entry.value for entry in logs.of(names.queries)}
    found: dict[Place, Entry] = {}
    for letter in logs.of(names.dead_letters):
        report.letters += 1
        place = poison_of(letter, names.prefix)
        if place is None or place not in poison or sent.get(place) != letter.value:
            detail = f"a dead letter of {place} that ended no worker: {letter.headers!r:.300}"
            report.problems.append(Problem("buried", letter.partition, letter.offset, detail))
        else:
            found[place] = letter
    for partition, offset in sorted(set(poison) - set(found)):
        detail = "what ends workers is not in the dead letters"
        report.problems.append(Problem("buried", partition, offset, detail))


def _check_ends(logs: Logs, names: Names, most_seconds: float, report: Report) -> None:
    for entry in logs.of(names.decisions):
        ends = json.loads(entry.value or b"{}").get("expires_at") or 0.0
        if ends > entry.at / 1000 + most_seconds:
            detail = f"a decision ends {ends - entry.at / 1000:.0f} s after it was written"
            report.problems.append(Problem("too-long", entry.partition, entry.offset, detail))
