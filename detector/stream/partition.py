"""All state of one partition's principals, and its only writer. Pure: no Kafka, no clock.

The order of each step: ``before`` is published and acknowledged; then ``record``, the step's state record; then its
outbox and the scores; then ``confirm``. Only after that may the source records be acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detector.contracts.codecs.records import decode as decode_record
from detector.contracts.errors import InvalidRecord
from detector.contracts.findings import Command
from detector.contracts.queries import BadRow
from detector.contracts.topics import Topics
from detector.core.engine import Observation
from detector.core.profile.profile import ProfileMatcher
from detector.policy.activity import Effects
from detector.stream import agreement
from detector.stream.checkpoint import Checkpointer
from detector.stream.dead_letters import DeadLetters, LetterLimits, faults_of
from detector.stream.intake import POISON, Intake, Receiver, SourceRecord
from detector.stream.judge import (
    ACCOUNTING_SECTION,
    POLICY_SECTION,
    Hearing,
    Judge,
    Judgement,
    judge_together,
    policy_sections,
)
from detector.stream.origins import Origins
from detector.stream.outbox import Outbox
from detector.stream.place import Place
from detector.stream.record import RECORD_BYTES, Assembly, Kind, Message, StateRecord, decode, written
from detector.stream.scores import ScoreBoard, last_rows
from detector.stream.step import UNKNOWN, Step
from detector.stream.unread import counted

_ERROR_CHARACTERS = 1_000


@dataclass(frozen=True, slots=True)
class Writer:
    """The writer and its detection settings, recorded in every state record for audits.

    ``record_bytes``: the most bytes of one record of the state log, 64 kB or more. ``letters``: the limits of dead
    letters.
    """

    owner: str
    configuration: str
    record_bytes: int = RECORD_BYTES
    letters: LetterLimits = field(default_factory=LetterLimits)


@dataclass(frozen=True, slots=True)
class Received:
    """Source records, decoded and not yet judged. ``unseen``: those that count; ``refused`` are no such records."""

    records: Sequence[SourceRecord]
    unseen: Sequence[SourceRecord]
    refused: Mapping[int, Sequence[BadRow]]
    intake: Intake
    hearing: Hearing


class Partition:
    """The owner's view of one partition: detection state, ledger, offsets and the position in the state log."""

    def __init__(
        self,
        receiver: Receiver,
        judge: Judge,
        checkpointer: Checkpointer,
        topics: Topics,
        number: int,
        writer: Writer,
    ) -> None:
        self.number = number
        self.judge = judge
        self.checkpointer = checkpointer
        self.place = Place(number)
        self.applied: dict[str, int] = {}
        self.identities: dict[str, str] = {}
        self.policy_time = 0.0
        self.learn_until: int | None = None
        self._first = False
        self._origins = Origins(receiver.partitions)
        self._outbox = Outbox(topics, number)
        self._receiver = receiver
        self._writer = writer
        self._letters = DeadLetters(topics, number, writer.letters)
        self._assembly = Assembly()
        self._scores = ScoreBoard(topics, number, judge)
        self._fitting = ProfileMatcher(judge.engine.config.profiles)

    # -- recovery ----------------------------------------------------------------------------------------------------

    def absorb(self, offset: int, value: bytes) -> None:
        """Applies one record of the state log, in order of ``offset``.

        Ignores records of older fences, and records already applied. Raises StateLogHole where a record is missing,
        OwnershipLost where a live owner reads a newer fence than its own, NewerStateLog, StateLogError.
        """
        record = decode(value)
        if self.place.admits(offset, record) and (whole := self._assembly.whole(record)) is not None:
            self._apply(whole)

    def _apply(self, record: StateRecord) -> None:
        self.applied.update(record.applied)
        self._origins.absorb(record.origins)
        self.policy_time, self.learn_until = record.policy_time, record.learn_until
        self._apply_sections(record)
        self._outbox.add(record.position, record.outbox)
        self._outbox.drop(record.published)

    def _apply_sections(self, record: StateRecord) -> None:
        sections = dict(record.sections)
        own = (POLICY_SECTION, ACCOUNTING_SECTION, agreement.SECTION)
        policy, accounting, sources = (sections.pop(name, None) for name in own)
        whole = record.kind == "chunk"
        if sections:
            (self.judge.engine.load if whole else self.judge.engine.absorb)(sections)
        if sources is not None:
            self.identities = agreement.decode(sources)
        if policy is not None:
            self.judge.ledger.absorb(policy)
        if accounting is not None:
            self.judge.ledger.accounting.absorb(accounting)

    def takeover(self, fence: int, end_of_queries: int) -> list[Message]:
        """Becomes the live owner; ``fence`` is the offset of our own fence record, which recovery must have read.
        Returns what previous owners may have left unpublished, and the standing decisions under the new epoch.
        ``end_of_queries``: where a first start ends its learning."""
        self.place.take(fence)
        self._first = self.learn_until is None
        if self._first:
            self.learn_until = end_of_queries
        return self._outbox.waiting() + self.assertions()

    def taken_over(self) -> None:
        """Notes that what ``takeover`` returned is on the broker."""
        self._outbox.drop_all()

    def opening(self) -> Step | None:
        """Returns a first owner's first state record, which records where the learning phase ends, for later owners;
        None for those."""
        return self._write("delta", None, {}) if self._first else None

    def close(self) -> None:
        """Releases the memory of the state: another worker owns the partition now."""
        self.place.live = False
        self.judge.engine.close()

    @property
    def ready(self) -> bool:
        """Whether this is the live owner."""
        return self.place.live

    def assertions(self) -> list[Message]:
        """Returns every standing decision as published, with the current epoch."""
        standing = self.judge.ledger.active(self.policy_time)
        return [self._outbox.decision(decision, self.place.position) for decision in standing]

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

    def step(self, records: Sequence[SourceRecord]) -> Step:
        """Applies fresh ``records`` of queries or re-keyed queries, in order, as one state record."""
        return step_together([(self, records)])[0]

    def receive(self, records: Sequence[SourceRecord]) -> Received:
        """The first half of a step: decodes ``records`` and advances policy time."""
        unseen, refused = self._origins.unseen(records)
        intake = self._receiver.receive(unseen)
        clocks, backlog = self._advance(unseen), self._backlog(unseen)
        learning = backlog[intake.record_of] if backlog.any() else None
        counts = counted(intake, self._receiver.lives_here, clocks, backlog)
        return Received(
            records, unseen, refused, intake, Hearing(intake.pieces, clocks[intake.record_of], counts, learning)
        )

    def conclude(self, received: Received, judgement: Judgement) -> Step:
        """The second half: returns the state record, and all that must precede and follow it."""
        records, intake, refused = received.records, received.intake, received.refused
        self._refuse_rows(intake, judgement.observation)
        source = records[0].source
        self.applied[source] = records[-1].offset
        covers = (records[0].offset, records[-1].offset) if source == "queries" else None
        step = self._write("delta", judgement.effects, judgement.sections, covers, intake.rows)
        faults = faults_of(intake.refused)
        step.write(self._letters.write(received.unseen, faults, self.policy_time))
        step.write(self._letters.write(records, faults_of(refused), self.policy_time))
        step.before += intake.strays
        last = last_rows(judgement.observation)
        step.after.extend(self._scores.due(judgement.observation, last, received.hearing))
        step.count(intake, judgement, last, refused)
        step.misfits = self._fitting.mismatches(intake.pieces)
        return step

    def command(self, record: SourceRecord) -> Step:
        """Applies one command, of an operator or a group agent, as one state record."""
        self.applied["commands"] = record.offset
        try:
            command = decode_record(Command, record.value)
        except InvalidRecord as error:
            return self._refuse(record, error.reason, error.detail)
        except Exception as error:  # noqa: BLE001 - decoding changes nothing, so that nothing is in doubt
            return self._refuse(record, POISON, f"the decoder failed: {error!r}"[:_ERROR_CHARACTERS])
        self._advance([record])
        effects = self.judge.ledger.command(command, self.policy_time)
        sections = policy_sections(effects)
        for model, principal in effects.clear:
            sections |= self.judge.engine.clear(model, principal)
        return self._write("delta", effects, sections)

    def bury(self, record: SourceRecord, why: str) -> Step:
        """Skips ``record`` unread, because it ends every worker that processes it."""
        self._origins.unseen([record])
        self._advance([record])
        return self._refuse(record, POISON, why)

    def _refuse(self, record: SourceRecord, reason: str, detail: str) -> Step:
        """Sends all of ``record`` to the dead letters."""
        self.applied[record.source] = record.offset
        step = self._write("delta", None, {}, (record.offset, record.offset) if record.source == "queries" else None)
        faults = faults_of({0: [BadRow(-1, reason, detail)]})
        step.write(self._letters.write([record], faults, self.policy_time))
        step.refused[reason] += 1
        if record.source != "commands":
            step.unjudged[UNKNOWN, reason] += 1
        return step

    def checkpoint(self) -> Step | None:
        """Returns the next chunk of a rolling checkpoint, or the end of its round, when it is due. Never after closing:
        a chunk without the state would be in the log before the next owner's fence, and count."""
        if not (self.ready and self.checkpointer.due()):
            return None
        sections = self.checkpointer.next_chunk()
        if sections is not None:
            return self._write("chunk", None, sections)
        return self._write("round", None, {})

    def confirm(self, step: Step, offset: int) -> None:
        """Notes that ``step`` and all that follows from it are on the broker; its record, or first part, is at
        ``offset``."""
        self._outbox.drop(step.position)
        if step.kind == "delta":
            self.checkpointer.logged(step.nbytes)
        elif step.kind == "chunk":
            self.checkpointer.chunk_written(offset, step.nbytes)
        else:
            self.checkpointer.ended()

    # -- parts -------------------------------------------------------------------------------------------------------

    def _advance(self, records: Sequence[SourceRecord]) -> NDArray[np.float64]:
        """Policy time as of each record, float64 (records,)."""
        clocks = np.maximum.accumulate([self.policy_time, *(record.timestamp for record in records)])
        self.policy_time = float(clocks[-1])
        return clocks[1:]

    def _backlog(self, records: Sequence[SourceRecord]) -> NDArray[np.bool_]:
        """Which records were waiting when this partition was first taken, bool (records,)."""
        until = self.learn_until or 0
        return np.asarray([self._in_backlog(record, until) for record in records], bool)

    def _in_backlog(self, record: SourceRecord, until: int) -> bool:
        place = record.offset if record.source == "queries" else self.applied.get("queries", -1) + 1
        return place < until

    def _refuse_rows(self, intake: Intake, observation: Observation) -> None:
        for bad in observation.refused:
            row = replace(bad, row=int(intake.row_of[bad.row]))
            intake.refused.setdefault(int(intake.record_of[bad.row]), []).append(row)

    def _write(
        self,
        kind: Kind,
        effects: Effects | None,
        sections: Mapping[str, tuple[int, bytes]],
        covers: tuple[int, int] | None = None,
        rows: int = 0,
    ) -> Step:
        position = self.place.advance()
        outbox = tuple(self._outbox.messages(effects, position)) if effects else ()
        first_chunk = self.checkpointer.first_chunk if kind == "round" else None
        record = StateRecord(
            kind=kind,
            fence=position[0],
            sequence=position[1],
            applied=dict(self.applied),
            origins=dict(self._origins.latest),
            source=covers,
            rows=rows,
            policy_time=self.policy_time,
            learn_until=self.learn_until or 0,
            published=self._outbox.published,
            outbox=outbox,
            sections={**sections, agreement.SECTION: agreement.encode(self.identities)},
            first_chunk=first_chunk,
            owner=self._writer.owner,
            configuration=self._writer.configuration,
        )
        self._outbox.add(position, outbox)
        value, *more = written(record, self._writer.record_bytes)
        self.place.extend(len(more))
        step = Step(position, kind, value, more, after=list(outbox), first_chunk=first_chunk)
        if effects:
            step.alerts, step.decisions = effects.alerts, effects.decisions
        return step


def step_together(work: Sequence[tuple[Partition, Sequence[SourceRecord]]]) -> list[Step]:
    """Runs ``step`` of each partition in one call of their engines, which are siblings."""
    return conclude_together([(partition, partition.receive(records)) for partition, records in work])


def conclude_together(received: Sequence[tuple[Partition, Received]]) -> list[Step]:
    """The second half of ``step_together``."""
    judged = judge_together([(partition.judge, own.hearing) for partition, own in received])
    return [partition.conclude(own, judgement) for (partition, own), judgement in zip(received, judged, strict=True)]
