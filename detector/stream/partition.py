"""All state of one partition's principals, and its only writer. Pure: no Kafka, no clock.

The order in which a ``CommitUnit`` is carried out: ``before`` is published and acknowledged; then ``values``, the state
record; then its outbox and the scores; then ``confirm``. Only after that may the source records be acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

from detector.contracts.codecs.records import decode as decode_record
from detector.contracts.errors import InvalidRecord
from detector.contracts.findings import Command
from detector.contracts.queries import BadRow
from detector.core.engine import Observation
from detector.core.profile import ProfileMatcher
from detector.groups.judged_record import JudgedRecord, decode_judged
from detector.groups.owner import SECTION as GROUPS_SECTION
from detector.groups.owner import GroupEffects, GroupOwner
from detector.policy.activity import Effects, Section
from detector.runtime import metric_defs as names
from detector.stream import source_checks
from detector.stream.checkpoint import Checkpointer
from detector.stream.commit_unit import UNKNOWN, CommitUnit, Outbox
from detector.stream.dead_letters import DeadLetters, LetterLimits
from detector.stream.detector import (
    ACCOUNTING_SECTION,
    ALLOWLIST_SECTION,
    BUDGETS_SECTION,
    POLICY_SECTION,
    Detector,
    detect_together,
    policy_sections,
)
from detector.stream.intake import POISON, DecodedRecords, RecordDecoder
from detector.stream.judged import JudgedQueriesOutlet
from detector.stream.scores import ScoreBoard, last_rows
from detector.stream.source_records import SourceRecord, is_repeated
from detector.stream.state_log import (
    RECORD_BYTES,
    Assembly,
    FencedCursor,
    Kind,
    Message,
    StateRecord,
    decode,
    encode_in_parts,
)

_ERROR_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True)
class LogWriter:
    """The writer and its detection settings, recorded in every state record for audits.

    ``record_bytes``: the most bytes of one record of the state log, 64 kB or more. ``letters``: the limits of dead
    letters.
    """

    owner: str
    configuration: str
    record_bytes: int = RECORD_BYTES
    letters: LetterLimits = field(default_factory=LetterLimits)


class Partition:
    """The owner's view of one partition: detection state, ledger, offsets and the position in the state log.

    ``applied``: by source, the last offset that the state in memory holds. ``covered``: the last one whose state record
    is in the log and whose consequences are on the broker; only that may be acknowledged.
    """

    def __init__(
        self,
        decoder: RecordDecoder,
        detector: Detector,
        groups: GroupOwner,
        checkpointer: Checkpointer,
        writer: LogWriter,
    ) -> None:
        self.number, topics = decoder.partition, decoder.topics
        self.detector = detector
        self.groups = groups
        self.checkpointer = checkpointer
        self.cursor = FencedCursor(self.number)
        self.applied: dict[str, int] = {}
        self.covered: dict[str, int] = {}
        self.identities: dict[str, str] = {}
        self.policy_time = 0.0
        self.learn_until: int | None = None
        self._first = False
        self._outbox = Outbox(topics, self.number)
        self._decoder = decoder
        self._writer = writer
        self._letters = DeadLetters(topics, self.number, writer.letters)
        self._assembly = Assembly()
        self._scores = ScoreBoard(topics, self.number, detector)
        self._fitting = ProfileMatcher(detector.engine.config.profiles)
        self._outlet = JudgedQueriesOutlet(detector.engine.config.judging, topics, self.number, decoder.partitions)

    # -- recovery ----------------------------------------------------------------------------------------------------

    def absorb(self, offset: int, value: bytes) -> None:
        """Applies one record of the state log, in order of ``offset``.

        Ignores records of older fences, and records already applied. Raises StateLogHole where a record is missing,
        OwnershipLost where a live owner reads a newer fence than its own, NewerStateLog, StateLogError.
        """
        read = decode(value)
        record = self._assembly.add(read) if self.cursor.admits(offset, read) else None
        if record is None:
            return
        self.applied.update(record.applied)
        self._decoder.origins.update(record.origins)
        self.policy_time, self.learn_until = record.policy_time, record.learn_until
        self._apply_sections(record)
        self._outbox.add(record.position, record.outbox)
        self._outbox.drop(record.published)

    def _apply_sections(self, record: StateRecord) -> None:
        sections = dict(record.sections)
        replaces = record.kind == "chunk"
        engine, ledger = self.detector.engine, self.detector.ledger
        absorbing: dict[str, Callable[[Section], None]] = {
            POLICY_SECTION: ledger.absorb,
            ACCOUNTING_SECTION: ledger.accounting.absorb,
            BUDGETS_SECTION: ledger.budgets.absorb,
            ALLOWLIST_SECTION: ledger.exemptions.absorb,
            GROUPS_SECTION: self.groups.absorb,
        }
        of_policy = {name: sections.pop(name) for name in absorbing if name in sections}
        sources = sections.pop(source_checks.SECTION, None)
        if sections:
            (engine.load if replaces else engine.absorb)(sections)
        if sources is not None:
            self.identities = source_checks.decode_identities(sources)
        for name, section in of_policy.items():
            absorbing[name](section)

    def takeover(self, fence: int, end_of_queries: int) -> list[Message]:
        """Becomes the live owner; ``fence`` is the offset of our own fence record, which recovery must have read.
        Returns what previous owners may have left unpublished, and the standing decisions under the new epoch.
        ``end_of_queries``: where a first start ends its learning."""
        self.cursor.go_live(fence)
        self._first = self.learn_until is None
        if self._first:
            self.learn_until = end_of_queries
        return self._outbox.waiting() + self.assertions()

    def taken_over(self) -> CommitUnit | None:
        """Notes that what ``takeover`` returned is on the broker. Returns a first owner's first state record, which
        records where the learning phase ends, for later owners; None for those."""
        self._outbox.drop_all()
        self.covered = dict(self.applied)
        return self._commit_unit("delta", None, {}) if self._first else None

    def close(self) -> None:
        """Releases the memory of the state: another worker owns the partition now."""
        self.cursor.live = False
        self.detector.engine.close()

    @property
    def ready(self) -> bool:
        """Whether this is the live owner."""
        return self.cursor.live

    def assertions(self) -> list[Message]:
        """Returns every standing decision as published, with the current epoch."""
        standing = self.detector.ledger.active(self.policy_time)
        return [self._outbox.decision(decision, self.cursor.position) for decision in standing]

    def waiting_scores(self) -> list[Message]:
        """Returns the scores that were held back by the rate limit."""
        return list(self._scores.waiting()) if self.ready else []

    # -- live --------------------------------------------------------------------------------------------------------

    def contiguous(self, records: Sequence[SourceRecord]) -> tuple[list[SourceRecord], tuple[int, int] | None]:
        """Returns, of ``records`` of one source in order of delivery, those to apply now, and a gap (expected, found)
        or None. Drops what is applied already, and what follows a gap: either the broker confirms that the gap is empty
        (``pass_gap``), or records were delivered out of order and the worker must stop."""
        fresh: list[SourceRecord] = []
        for record in records:
            expected = fresh[-1].offset + 1 if fresh else self.applied.get(record.source, -1) + 1
            if record.offset > expected:
                return fresh, (expected, record.offset)
            if record.offset == expected:
                fresh.append(record)
        return fresh, None

    def pass_gap(self, source: str, found: int) -> None:
        """Passes a gap: the broker holds nothing of ``source`` between the applied offset and ``found``."""
        self.applied[source] = found - 1

    def decode(self, records: Sequence[SourceRecord]) -> DecodedRecords:
        """Decodes fresh ``records`` of queries or of re-keyed queries, in order, and advances policy time."""
        learn_until = float(self.learn_until or 0)
        if records[0].source != "queries":
            learn_until = inf if self.applied.get("queries", -1) + 1 < learn_until else 0
        decoded = self._decoder.decode(records, self.policy_time, learn_until)
        self.policy_time = decoded.policy_time
        return decoded

    def commit(self, decoded: DecodedRecords, observation: Observation, effects: Effects) -> CommitUnit:
        """Returns the state record of ``decoded`` and what came of it, and all that must precede and follow it."""
        for bad in observation.refused:
            decoded.reject(bad)
        records, last = decoded.records, last_rows(observation)
        self.applied[records[0].source] = records[-1].offset
        sections = observation.sections | policy_sections(effects)
        spends = tuple(self._outbox.spends(effects, self._decoder.partitions))
        unit = self._commit_unit("delta", effects, sections, records, len(decoded), spends)
        self._add_dead_letters(unit, records, decoded.rejected)
        unit.before += [*decoded.misrouted, *self._outlet.messages(decoded, observation)]
        unit.after.extend(self._scores.due(observation, last, decoded))
        unit.count_batch(decoded, observation, effects, last)
        unit.count_judged(decoded, observation, self.detector.profiles_of(decoded.pieces))
        for misfit in self._fitting.mismatches(decoded.pieces):
            unit.count(names.MISFITS, misfit.queries, misfit.model, misfit.reason)
            unit.warnings.append(misfit.detail)
        return unit

    def command(self, record: SourceRecord) -> CommitUnit:
        """Applies one command, of an operator or a group agent, as one state record."""
        try:
            command = decode_record(Command, record.value)
        except InvalidRecord as error:
            return self._reject(record, error.reason, error.detail)
        except Exception as error:  # noqa: BLE001 - decoding changes no state, so that the state can be trusted
            return self._reject(record, POISON, f"the decoder failed: {error!r}"[:_ERROR_CHARACTERS])
        self.applied["commands"] = record.offset
        self.policy_time = max(self.policy_time, record.timestamp)
        if command.kind == "dismiss":
            return self._commit_groups([record], self.groups.command(command, self.policy_time))
        effects = self.detector.ledger.command(command, self.policy_time)
        sections = policy_sections(effects)
        for model, principal in effects.clear:
            sections |= self.detector.engine.clear(model, principal)
        return self._commit_unit("delta", effects, sections, [record])

    def watch(self, records: Sequence[SourceRecord]) -> CommitUnit:
        """Applies judged queries, which other owners sent, as one state record."""
        good, rejected = list[tuple[bytes, JudgedRecord]](), dict[int, list[BadRow]]()
        for at, record in enumerate(records):
            try:
                judged = decode_judged(record.value)
                self.groups.check(judged)
                good.append((record.value or b"", judged))
            except InvalidRecord as error:
                rejected[at] = [BadRow(-1, error.reason, error.detail)]
        self.applied["judged"] = records[-1].offset
        unit = self._commit_groups(records, self.groups.observe(good))
        self._add_dead_letters(unit, records, rejected)
        for reason in (bad.reason for rows in rejected.values() for bad in rows):
            unit.count(names.DEAD_LETTERS, 1, reason)
        return unit

    def _commit_groups(self, records: Sequence[SourceRecord], effects: GroupEffects) -> CommitUnit:
        sections = {} if effects.section is None else {GROUPS_SECTION: effects.section}
        messages = tuple(self._outbox.about_groups(effects, self._decoder.partitions))
        unit = self._commit_unit("delta", None, sections, records, messages=messages)
        unit.count_groups(effects)
        return unit

    def skip(self, record: SourceRecord, why: str) -> CommitUnit:
        """Skips ``record`` unread, because it ends every worker that processes it."""
        with suppress(InvalidRecord):
            is_repeated(record, self._decoder.partitions, self._decoder.origins)
        self.policy_time = max(self.policy_time, record.timestamp)
        return self._reject(record, POISON, why)

    def _reject(self, record: SourceRecord, reason: str, detail: str) -> CommitUnit:
        """Sends all of ``record`` to the dead letters."""
        self.applied[record.source] = record.offset
        unit = self._commit_unit("delta", None, {}, [record])
        self._add_dead_letters(unit, [record], {0: [BadRow(-1, reason, detail)]})
        unit.count(names.DEAD_LETTERS, 1, reason)
        if record.source not in ("commands", "judged"):
            unit.count_answered(names.QUERIES_UNJUDGED, 1, UNKNOWN, reason)
        return unit

    def _add_dead_letters(
        self, unit: CommitUnit, records: Sequence[SourceRecord], rejected: Mapping[int, Sequence[BadRow]]
    ) -> None:
        """Adds the dead letters for the ``rejected`` rows of ``records``; they are published before the record."""
        letters, not_kept = self._letters.write(records, rejected, self.policy_time)
        unit.before += letters
        for reason, rows in not_kept.items():
            unit.count(names.DEAD_LETTERS_NOT_KEPT, rows, reason)

    def checkpoint(self) -> CommitUnit | None:
        """Returns the next chunk of a rolling checkpoint, or the end of its round, when it is due. Never after closing:
        a chunk without the state would be in the log before the next owner's fence, and count."""
        if not (self.ready and self.checkpointer.due()):
            return None
        sections = self.checkpointer.next_chunk()
        return self._commit_unit("round" if sections is None else "chunk", None, sections or {})

    def confirm(self, unit: CommitUnit, offset: int) -> None:
        """Notes that ``unit`` and all that follows from it are on the broker; its record, or first part, is at
        ``offset``."""
        self._outbox.drop(unit.position)
        self.covered = unit.applied
        if unit.kind == "delta":
            self.checkpointer.logged(unit.nbytes)
        elif unit.kind == "chunk":
            self.checkpointer.chunk_written(offset, unit.nbytes)
        else:
            self.checkpointer.ended()

    def _commit_unit(
        self,
        kind: Kind,
        effects: Effects | None,
        sections: Mapping[str, tuple[int, bytes]],
        records: Sequence[SourceRecord] = (),
        rows: int = 0,
        messages: tuple[Message, ...] = (),
    ) -> CommitUnit:
        """Returns the next state record, for what came of ``records``, with ``rows`` queries. ``messages``: what must
        be published because of it, besides ``effects``."""
        position = self.cursor.advance()
        outbox = (*(self._outbox.messages(effects, position) if effects else ()), *messages)
        first_chunk = self.checkpointer.first_chunk if kind == "round" else None
        covers = bool(records) and records[0].source == "queries"
        record = StateRecord(
            kind=kind,
            fence=position[0],
            sequence=position[1],
            applied=self.applied,
            origins=self._decoder.origins,
            source=(records[0].offset, records[-1].offset) if covers else None,
            rows=rows,
            policy_time=self.policy_time,
            learn_until=self.learn_until or 0,
            published=self._outbox.published,
            outbox=outbox,
            sections={**sections, source_checks.SECTION: source_checks.encode_identities(self.identities)},
            first_chunk=first_chunk,
            owner=self._writer.owner,
            configuration=self._writer.configuration,
        )
        self._outbox.add(position, outbox)
        values = encode_in_parts(record, self._writer.record_bytes)
        self.cursor.sequence += len(values) - 1
        applied = dict(self.applied)
        unit = CommitUnit(position, kind, values, applied, after=list(outbox), first_chunk=first_chunk)
        if records:
            unit.count(names.RECORDS, len(records), records[0].source)
        if effects:
            unit.count_findings(effects)
        return unit


def commit_together(work: Sequence[tuple[Partition, DecodedRecords]]) -> list[CommitUnit]:
    """Judges what each partition decoded, in one call of their engines, which are siblings, and commits it."""
    results = detect_together([(partition.detector, decoded) for partition, decoded in work])
    return [partition.commit(decoded, *result) for (partition, decoded), result in zip(work, results, strict=True)]
