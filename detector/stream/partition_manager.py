"""All partitions of this worker: joins the pure ``Partition`` to Faust's consumer, producer and recovery.

Errors end the process (``exit_codes``), since Faust would acknowledge, log and continue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar

import faust
import structlog
from faust.types import TP

from detector.contracts.errors import (
    BrokerError,
    ConfigurationError,
    NewerStateLog,
    OwnershipLost,
    SourceGap,
    StateLogError,
)
from detector.contracts.topics import Topics
from detector.stream import faust_internals
from detector.stream.commit_unit import CommitUnit
from detector.stream.exit_codes import Exit, stop_now
from detector.stream.partition import Partition, commit_together
from detector.stream.poison import InFlightNote, OffsetRange, Quarantine, SourcePartition
from detector.stream.reporter import Reporter
from detector.stream.sender import Sender
from detector.stream.source_checks import BrokerReads, EndCheck, check_restored
from detector.stream.source_records import SourceRecord, plausible_time
from detector.stream.state_log import Message, StateRecord, encode

SOURCES = ("commands", "queries", "rekeyed", "judged")

PartitionBatch = tuple[Partition, list[SourceRecord]]
"""A partition and the records to apply to it next: of queries, re-keyed or judged queries, or one command."""

Applied = tuple[Partition, list[SourceRecord], CommitUnit]
"""A micro-batch and its outcome."""

_LARGE_BYTES = 1_048_576
_POISON = "it ended a worker that processed it alone, after it had ended others"

V = TypeVar("V")

_log = structlog.get_logger("weirguard.stream")


@dataclass(frozen=True, slots=True)
class Batching:
    """How source records are cut into micro-batches of at most ``most_bytes``. ``quarantine``: the records to process
    alone, or not at all. ``in_flight``: notes what is being processed."""

    most_bytes: int
    quarantine: Quarantine = field(default_factory=Quarantine)
    in_flight: InFlightNote = field(default_factory=InFlightNote)

    def cut(self, partition: int, records: Sequence[SourceRecord]) -> Iterator[list[SourceRecord]]:
        """Yields ``records`` of one source in micro-batches, in order; a command, or a suspect, is one by itself."""
        batch: list[SourceRecord] = []
        room, alone = self.most_bytes, False
        for record in records:
            suspect = self.quarantine.is_suspect(record.source, partition, record.offset)
            before, alone = alone, suspect or record.source == "commands"
            if batch and (record.nbytes > room or before or alone):
                yield batch
                batch, room = [], self.most_bytes
            batch.append(record)
            room -= record.nbytes
        if batch:
            yield batch


class PartitionManager:
    """Owns partitions from fence to revocation. Their state is in common arrays that one thread alone touches."""

    def __init__(
        self,
        app: faust.App,
        topics: Topics,
        new_partition: Callable[[int], Partition],
        broker: BrokerReads,
        reporter: Reporter,
        batching: Batching,
    ) -> None:
        self.partitions: dict[int, Partition] = {}
        self.reporter = reporter
        self._app = app
        self._sender = Sender(app, topics, reporter.left_out)
        self._topics = topics
        self._new_partition = new_partition
        self._broker = broker
        self._batching = batching
        self._end_check = EndCheck(topics)
        self._fences: dict[int, int] = {}
        self._acknowledged: dict[TP, int] = {}
        self._logic_thread = ThreadPoolExecutor(1, "weirguard-logic")
        self._large_record_lock = asyncio.Lock()
        self._broker_thread = ThreadPoolExecutor(1, "weirguard-broker")
        self._source_of = {getattr(topics, source): source for source in SOURCES}

    # -- taking and losing partitions ----------------------------------------------------------------------------------

    async def reassigned(self, revoked: Iterable[int], assigned: Iterable[int]) -> None:
        """Drops lost partitions, and writes our fence into the log of taken ones, before recovery reads its end."""
        await faust_internals.stopped_flow(self._app)
        moved = {*revoked, *assigned}
        self._acknowledged = {tp: offset for tp, offset in self._acknowledged.items() if tp.partition not in moved}
        dropped = [self.partitions.pop(number) for number in moved if number in self.partitions]
        for partition in dropped:
            self._fences.pop(partition.number, None)
            await self._in_logic_thread(partition.close)
        wanted = sorted(assigned)
        fence = encode(StateRecord("fence", -1, 0))
        writes = (self._sender.send(Message(self._topics.state_log, number, b"fence", fence)) for number in wanted)
        for number, offset in zip(wanted, await asyncio.gather(*writes), strict=True):
            self._fences[number] = offset
            self.partitions[number] = self._new_partition(number)
        self.reporter.assigned(self.partitions)

    def absorb(self, number: int, offset: int, value: bytes) -> None:
        """Applies one record of the state log, from recovery or read again after a rebalance."""
        partition = self.partitions.get(number)
        if partition is None:
            return
        try:
            self._logic_thread.submit(partition.absorb, offset, value).result()
        except NewerStateLog as error:
            stop_now(Exit.NEWER_STATE_LOG, str(error))
        except OwnershipLost as error:
            stop_now(Exit.OWNERSHIP_LOST, str(error))
        except StateLogError as error:
            stop_now(Exit.STATE_LOG, str(error))
        self.reporter.health.absorbed()

    async def recovered(self, numbers: Iterable[int]) -> None:
        """Becomes the live owner once recovery has read to the end: checks the sources, and publishes what may be
        missing."""
        restored = [
            partition for number in numbers if (partition := self.partitions.get(number)) and not partition.ready
        ]
        try:
            ends = await self._in_broker_thread(check_restored, self._broker, self._topics, SOURCES, restored)
            await asyncio.gather(*(self._take_over(partition, ends[partition.number]) for partition in restored))
            await self._sender.beat([partition.number for partition in restored])
            await self.acknowledge()
        except OwnershipLost as error:
            stop_now(Exit.OWNERSHIP_LOST, str(error))
        except ConfigurationError as error:
            stop_now(Exit.CONFIGURATION, str(error))
        except Exception as error:  # noqa: BLE001 - Faust ignores errors of this callback
            stop_now(Exit.STATE_NOT_WRITTEN, "the takeover could not be completed", error)
        self.reporter.recovered(len(self.partitions))

    async def _take_over(self, partition: Partition, end_of_queries: int) -> None:
        messages = partition.takeover(self._fences[partition.number], end_of_queries)
        self.reporter.restored(partition)
        await self._sender.publish(messages)
        first = partition.taken_over()
        if first is not None:
            await self._write_all([(partition, first)])
        _log.info(
            "partition taken",
            partition=partition.number,
            fence=partition.cursor.fence,
            repeated=len(messages),
            **partition.applied,
        )

    def next_offsets(self) -> dict[TP, int]:
        """Returns where reading of each source must continue, according to the state in memory."""
        return self._after({partition.number: partition.applied for partition in self._ready()})

    async def acknowledge(self) -> None:
        """Commits what the state logs cover and this has not committed yet.

        Faust takes an offset for committed even where a rebalance refused it, and does not commit it again before the
        next record; and what a dead owner left uncommitted is not read again.
        """
        covered = self._after({partition.number: partition.covered for partition in self._ready()})
        due = {tp: offset for tp, offset in covered.items() if offset > self._acknowledged.get(tp, 0)}
        self._acknowledged |= await faust_internals.commit(self._app, due)

    def _after(self, offsets: Mapping[int, Mapping[str, int]]) -> dict[TP, int]:
        """Returns the offsets after ``offsets``, the last of each source by partition."""
        return {
            TP(getattr(self._topics, source), number): last.get(source, -1) + 1
            for number, last in offsets.items()
            for source in SOURCES
        }

    def stopping(self) -> None:
        """Reports that the worker is about to stop."""
        self.reporter.health.stopped("it was asked to")

    def _ready(self) -> list[Partition]:
        return [partition for partition in list(self.partitions.values()) if partition.ready]

    # -- every few seconds ---------------------------------------------------------------------------------------------

    async def survey(self) -> None:
        """Reports the partitions and how far their sources are read. Ends the process where a source keeps ending
        before the applied offset."""
        ready = self._ready()
        states = faust_internals.fetch_states(self._app)
        answered_at = max((state.answered_at for state in states.values()), default=None)
        self.reporter.broker_answered(answered_at, faust_internals.any_connection(self._app))
        applied = {
            (source, partition.number): partition.applied.get(source, -1) for source in SOURCES for partition in ready
        }
        fetched = {place: state for place, state in self._by_source(states).items() if place in applied}
        try:
            self._end_check.check({place: state.end for place, state in fetched.items()}, applied)
        except ConfigurationError as error:
            stop_now(Exit.CONFIGURATION, str(error))
        await self._in_logic_thread(self.reporter.survey, ready, fetched, self.committed())

    def committed(self) -> dict[SourcePartition, int]:
        """Returns the offsets of the sources that this worker has committed."""
        return self._by_source(faust_internals.committed_offsets(self._app))

    def _by_source(self, values: Mapping[TP, V]) -> dict[SourcePartition, V]:
        sources = self._source_of
        return {(sources[tp.topic], tp.partition): value for tp, value in values.items() if tp.topic in sources}

    async def check_topics(self) -> None:
        """Checks that the topics are still those of the start."""
        try:
            await self._in_broker_thread(self._broker.identities)
        except ConfigurationError as error:
            stop_now(Exit.CONFIGURATION, str(error))
        except Exception as error:  # noqa: BLE001 - a failed check must not end what goes well; the next may succeed
            _log.warning("the topics could not be looked at", why=str(error))

    async def publish_scores(self) -> None:
        """Publishes the scores that were held back, so that the latest score of each principal is current."""
        for partition in list(self.partitions.values()):
            await self._sender.publish(await self._in_logic_thread(partition.waiting_scores))

    async def assert_decisions(self) -> None:
        """Publishes all current decisions again, so that a frozen owner's late decision does not last long."""
        for partition in self._ready():
            await self._sender.publish(await self._in_logic_thread(partition.assertions))

    async def beat(self) -> None:
        """Tells gates that this worker judges its partitions: not while the thread that does so is stuck."""
        await self._sender.beat(await self._in_logic_thread(lambda: [partition.number for partition in self._ready()]))

    # -- the flow ------------------------------------------------------------------------------------------------------

    async def process(self, messages: Sequence[Any]) -> None:
        """Applies messages of all sources and partitions. Returns when all that follows is on the broker."""
        runs: dict[tuple[int, str], list[SourceRecord]] = {}
        now = self.reporter.wall()
        for message in messages:
            record = self._source_record(message, now)
            runs.setdefault((message.partition, record.source), []).append(record)
        flows = [
            self._micro_batches(self.partitions[number], [runs.get((number, source), []) for source in SOURCES])
            for number in sorted({number for number, _ in runs})
            if number in self.partitions
        ]
        while work := [due for flow in flows if (due := await anext(flow, None)) is not None]:
            alone = any(self._batching.quarantine.is_suspect(*records[:3]) for records in _offset_ranges(work))
            for group in [[batch] for batch in work] if alone else [work]:
                await self._perform(group)

    def _source_record(self, message: Any, now: float) -> SourceRecord:
        timestamp, fault = plausible_time(message.timestamp, now)
        if fault:
            self.reporter.time_replaced(fault, message.topic, message.timestamp)
        headers = message.headers or {}
        pairs = headers.items() if hasattr(headers, "items") else headers
        return SourceRecord(
            source=self._source_of[message.topic],
            offset=message.offset,
            timestamp=timestamp,
            key=message.key,
            value=message.value,
            headers={name: data for name, data in pairs if data is not None},
        )

    async def _micro_batches(
        self, partition: Partition, runs: Sequence[Sequence[SourceRecord]]
    ) -> AsyncIterator[PartitionBatch]:
        """Yields the micro-batches of one partition; each must be applied before the next is requested."""
        if not partition.ready:
            raise SourceGap(f"partition {partition.number}: queries were delivered before its state was restored")
        for run in runs:
            waiting = list(run)
            while waiting:
                fresh, gap = partition.contiguous(waiting)
                for records in self._batching.cut(partition.number, fresh):
                    yield partition, records
                if gap is None:
                    break
                await self._pass_gap(partition, waiting[0].source, *gap)
                waiting = [record for record in waiting if record.offset >= gap[1]]

    async def _pass_gap(self, partition: Partition, source: str, expected: int, found: int) -> None:
        """Distinguishes a real gap (nothing there) from a false one (delivered out of order); Kafka knows."""
        topic = getattr(self._topics, source)
        missing = await self._in_broker_thread(self._broker.missing, topic, partition.number, expected, found)
        self.reporter.passed_gap(source, missing)
        if missing:
            where = {"topic": topic, "partition": partition.number, "expected": expected, "found": found}
            _log.error("records were deleted before they were judged", missing=missing, **where)
        partition.pass_gap(source, found)

    async def _perform(self, work: Sequence[PartitionBatch]) -> None:
        """Applies ``work``, of different partitions, and publishes what follows from it."""
        started = perf_counter()
        self._batching.in_flight.begin(_offset_ranges(work))
        try:
            done, decoding = await self._in_logic_thread(apply_together, work, self._batching.quarantine)
        except Exception as error:  # noqa: BLE001 - the state may be half changed; it must not be acknowledged
            stop_now(Exit.PROCESSING, "records could not be processed", error)
        finally:
            self._batching.in_flight.end()
        self.reporter.took("decode", [decoding])
        self.reporter.took("judge", [perf_counter() - started - decoding])
        await self._write_all([(partition, unit) for partition, _, unit in done])
        self.reporter.performed(done)
        for partition, _, _ in done:
            while partition.checkpointer.due() and (chunk := await self._in_logic_thread(partition.checkpoint)):
                await self._write_all([(partition, chunk)])

    async def _write_all(self, units: Sequence[tuple[Partition, CommitUnit]]) -> None:
        """Writes ``units``, of different partitions, to the broker."""
        took = await asyncio.gather(*(self._write(partition, unit) for partition, unit in units))
        for stage, seconds in zip(("state_log", "publish"), zip(*took, strict=True), strict=False):
            self.reporter.took(stage, seconds)
        self.reporter.logged([unit for _, unit in units])

    async def _write(self, partition: Partition, unit: CommitUnit) -> tuple[float, float]:
        """Writes ``unit``. Returns the seconds that its state record took, and what follows it."""
        await self._sender.publish(unit.before)
        started = perf_counter()
        offset = await self._log(partition.number, unit)
        written = perf_counter()
        await self._sender.publish(unit.after)
        partition.confirm(unit, offset)
        if unit.kind == "round" and unit.first_chunk is not None:
            await self._cut_log(partition, unit.first_chunk)
        return written - started, perf_counter() - written

    async def _log(self, number: int, unit: CommitUnit) -> int:
        """Writes the state record of ``unit``. Returns its offset, or that of its first part.

        Large parts go one after another: a request holds the messages of all partitions, and has a limit.
        """
        entries = [Message(self._topics.state_log, number, key, value) for key, value in unit.log_entries]
        if len(entries) == 1 and entries[0].nbytes <= _LARGE_BYTES:
            return await self._sender.send(entries[0])
        async with self._large_record_lock:
            first, *_ = [await self._sender.send(entry) for entry in entries]
            return first

    async def _cut_log(self, partition: Partition, before: int) -> None:
        """Cuts the log. A failure is harmless: the log is only longer than it need be."""
        try:
            await self._in_broker_thread(self._broker.cut, self._topics.state_log, partition.number, before)
        except BrokerError as error:
            _log.warning("the state log was not cut", partition=partition.number, before=before, why=str(error))

    # -- threads -------------------------------------------------------------------------------------------------------

    async def _in_logic_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._logic_thread, work, *arguments)

    async def _in_broker_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._broker_thread, work, *arguments)
        except OSError as error:
            raise BrokerError(f"the broker did not answer: {error}") from error


def apply_together(work: Sequence[PartitionBatch], quarantine: Quarantine) -> tuple[list[Applied], float]:
    """Applies ``work``, and skips lost partitions, which their new owners process. Returns also the seconds that
    decoding took."""
    queries: list[PartitionBatch] = []
    done: list[Applied] = []
    for partition, records in work:
        first = records[0]
        if not partition.ready:
            continue
        if quarantine.is_poison(first.source, partition.number, first.offset):
            done.append((partition, records, partition.skip(first, _POISON)))
        elif first.source == "commands":
            done.append((partition, records, partition.command(first)))
        elif first.source == "judged":
            done.append((partition, records, partition.watch(records)))
        else:
            queries.append((partition, records))
    started = perf_counter()
    decoded = [(partition, partition.decode(records)) for partition, records in queries]
    decoding = perf_counter() - started
    units = commit_together(decoded)
    return done + [(*batch, unit) for batch, unit in zip(queries, units, strict=True)], decoding


def _offset_ranges(work: Iterable[PartitionBatch]) -> Iterator[OffsetRange]:
    for partition, records in work:
        yield OffsetRange(records[0].source, partition.number, records[0].offset, records[-1].offset)
