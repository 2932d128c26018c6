"""All partitions of this worker: joins the pure ``Partition`` to Faust's consumer, producer and recovery.

Errors end the process (``exits``), since Faust would acknowledge, log and go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, Protocol

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
from detector.stream import agreement, faust_edges
from detector.stream.care import Care, Work, flights
from detector.stream.exits import Exit, stop_now
from detector.stream.intake import SourceRecord
from detector.stream.partition import Partition, conclude_together
from detector.stream.record import Message, StateRecord
from detector.stream.record import encode as encode_record
from detector.stream.record_time import believed
from detector.stream.reporter import Reporter
from detector.stream.sending import Sender
from detector.stream.step import Step
from detector.stream.survey import Survey

SOURCES = ("commands", "queries", "rekeyed")

Done = tuple[Partition, list[SourceRecord], Step]
"""A partition, the records of a micro-batch, and the step they gave."""

_LARGE_BYTES = 1_048_576
_POISON = "it ended a worker that processed it alone, after it had ended others"

_log = structlog.get_logger("weirguard.stream")


class Broker(agreement.Broker, Protocol):
    """The requests of the owner to the broker outside of Faust; all raise BrokerError, and ``missing`` SourceGap."""

    def missing(self, topic: str, partition: int, expected: int, found: int) -> int: ...
    def cut(self, topic: str, partition: int, before: int) -> None: ...


class Owner:
    """Owns partitions from fence to revocation. Their state is in common arrays that one thread alone touches."""

    def __init__(
        self,
        app: faust.App,
        topics: Topics,
        new_partition: Callable[[int], Partition],
        broker: Broker,
        reporter: Reporter,
        care: Care,
    ) -> None:
        self.partitions: dict[int, Partition] = {}
        self._app = app
        self._sender = Sender(app, topics, reporter.left_out)
        self._topics = topics
        self._new_partition = new_partition
        self._broker = broker
        self.reporter = reporter
        self._care = care
        self._survey = Survey(app, topics, SOURCES, reporter)
        self._fences: dict[int, int] = {}
        self._logic = ThreadPoolExecutor(1, "weirguard-logic")
        self._large = asyncio.Lock()
        self._brokering = ThreadPoolExecutor(1, "weirguard-broker")
        self._source_of = {getattr(topics, source): source for source in SOURCES}

    # -- taking and losing partitions ----------------------------------------------------------------------------------

    async def reassigned(self, lost: Iterable[int], taken: Iterable[int]) -> None:
        """Drops lost partitions, and writes our fence into the log of taken ones, before recovery reads its end."""
        await faust_edges.stopped_flow(self._app)
        gone = [self.partitions.pop(number) for number in {*lost, *taken} if number in self.partitions]
        for partition in gone:
            self._fences.pop(partition.number, None)
            await self._in_logic_thread(partition.close)
        wanted = sorted(taken)
        offsets = await asyncio.gather(*(self._fence(number) for number in wanted))
        for number, offset in zip(wanted, offsets, strict=True):
            self._fences[number] = offset
            self.partitions[number] = self._new_partition(number)
        self.reporter.assigned(self.partitions)

    async def _fence(self, number: int) -> int:
        fence = encode_record(StateRecord("fence", -1, 0))
        return await self._sender.send(Message(self._topics.state_log, number, b"fence", fence))

    def absorb(self, number: int, offset: int, value: bytes) -> None:
        """Applies one record of the state log, from recovery or read again after a rebalance."""
        partition = self.partitions.get(number)
        if partition is None:
            return
        try:
            self._logic.submit(partition.absorb, offset, value).result()
        except NewerStateLog as error:
            stop_now(Exit.NEWER_STATE_LOG, str(error))
        except OwnershipLost as error:
            stop_now(Exit.OWNERSHIP_LOST, str(error))
        except StateLogError as error:
            stop_now(Exit.STATE_LOG, str(error))
        self.reporter.absorbed()

    async def recovered(self, numbers: Iterable[int]) -> None:
        """Recovery has read to the end: publishes what may be missing, agrees on offsets, and becomes the live
        owner."""
        fresh = [number for number in numbers if number in self.partitions and not self.partitions[number].ready]
        try:
            restored = [self.partitions[number] for number in fresh]
            ends = await self._in_broker_thread(agreement.agree, self._broker, self._topics, SOURCES, restored)
            await asyncio.gather(*(self._take_over(number, ends[number]) for number in fresh))
            await faust_edges.commit(self._app, self.next_offsets())
        except OwnershipLost as error:
            stop_now(Exit.OWNERSHIP_LOST, str(error))
        except ConfigurationError as error:
            stop_now(Exit.CONFIGURATION, str(error))
        except Exception as error:  # noqa: BLE001 - Faust ignores errors of this callback
            stop_now(Exit.STATE_NOT_WRITTEN, "the takeover could not be completed", error)
        self.reporter.recovered(len(self.partitions))

    async def _take_over(self, number: int, end_of_queries: int) -> None:
        partition = self.partitions[number]
        messages = partition.takeover(self._fences[number], end_of_queries)
        self.reporter.restored(partition)
        await self._sender.publish(messages)
        partition.taken_over()
        opening = partition.opening()
        if opening is not None:
            await self._finish([(partition, opening)])
        _log.info(
            "partition taken",
            partition=number,
            fence=partition.place.fence,
            repeated=len(messages),
            **partition.applied,
        )

    def next_offsets(self) -> dict[TP, int]:
        """Returns where reading of each source must continue, according to the state."""
        return {
            TP(getattr(self._topics, source), partition.number): partition.applied.get(source, -1) + 1
            for partition in list(self.partitions.values())
            if partition.ready
            for source in SOURCES
        }

    def stopping(self) -> None:
        """The worker is asked to stop."""
        self.reporter.health.stopped("it was asked to")

    async def survey(self) -> None:
        """Reports the partitions and their progress."""
        ready = [partition for partition in self.partitions.values() if partition.ready]
        await self._survey.take(ready, self._in_logic_thread)

    async def look(self) -> None:
        """Checks that the topics are still those of the start."""
        try:
            await self._in_broker_thread(self._broker.look)
        except ConfigurationError as error:
            stop_now(Exit.CONFIGURATION, str(error))
        except Exception as error:  # noqa: BLE001 - looking must not end what goes well; the next look may succeed
            _log.warning("the topics could not be looked at", why=str(error))

    async def publish_scores(self) -> None:
        """Publishes the scores that were held back, so that the latest score of each principal is current."""
        for partition in list(self.partitions.values()):
            await self._sender.publish(await self._in_logic_thread(partition.waiting_scores))

    async def assert_decisions(self) -> None:
        """Publishes all standing decisions again, so that a frozen owner's late decision does not stand for long."""
        for partition in list(self.partitions.values()):
            if partition.ready:
                await self._sender.publish(await self._in_logic_thread(partition.assertions))

    # -- the flow ------------------------------------------------------------------------------------------------------

    async def process(self, messages: Sequence[Any]) -> None:
        """Applies messages of all sources and partitions. Returns when all that follows is on the broker."""
        runs: dict[tuple[int, str], list[SourceRecord]] = {}
        now = self.reporter.now()
        for message in messages:
            record = self._source_record(message, now)
            runs.setdefault((message.partition, record.source), []).append(record)
        flows = [
            self._micro_batches(self.partitions[number], [runs.get((number, source), []) for source in SOURCES])
            for number in sorted({number for number, _ in runs})
            if number in self.partitions
        ]
        while work := [due for flow in flows if (due := await anext(flow, None)) is not None]:
            for group in self._care.groups(work):
                await self._perform(group)

    def _source_record(self, message: Any, now: float) -> SourceRecord:
        timestamp, fault = believed(message.timestamp, now)
        if fault:
            self.reporter.disbelieved(fault, message.topic, message.timestamp)
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

    async def _micro_batches(self, partition: Partition, runs: Sequence[Sequence[SourceRecord]]) -> AsyncIterator[Work]:
        """Yields the micro-batches of one partition; each must be applied before the next is requested."""
        if not partition.ready:
            raise SourceGap(f"partition {partition.number}: queries were delivered before its state was restored")
        for run in runs:
            waiting = list(run)
            while waiting:
                fresh, gap = partition.contiguous(waiting)
                for records in self._care.micro_batches(partition.number, fresh):
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

    async def _perform(self, work: Sequence[Work]) -> None:
        started = perf_counter()
        done, decoding = await self._process(work)
        self.reporter.took("decode", [decoding])
        self.reporter.took("judge", [perf_counter() - started - decoding])
        await self._finish([(partition, step) for partition, _, step in done])
        self.reporter.performed(done)
        for partition, _, _ in done:
            while partition.checkpointer.due() and (chunk := await self._in_logic_thread(partition.checkpoint)):
                await self._finish([(partition, chunk)])

    async def _process(self, work: Sequence[Work]) -> tuple[list[Done], float]:
        """Applies ``work``. Errors here are caused by its records, which are noted for the supervisor meanwhile."""
        self._care.notes.enter(flights(work))
        try:
            done: tuple[list[Done], float] = await self._in_logic_thread(_steps, work, self._care)
            return done
        except Exception as error:  # noqa: BLE001 - the state may be half changed; it must not be acknowledged
            stop_now(Exit.PROCESSING, "records could not be processed", error)
        finally:
            self._care.notes.leave()

    async def _finish(self, steps: Sequence[tuple[Partition, Step]]) -> None:
        """Writes ``steps`` of different partitions to the broker."""
        took = await asyncio.gather(*(self._write(partition, step) for partition, step in steps))
        for stage, seconds in zip(("state_log", "publish"), zip(*took, strict=True), strict=False):
            self.reporter.took(stage, seconds)
        self.reporter.logged([step for _, step in steps])

    async def _write(self, partition: Partition, step: Step) -> tuple[float, float]:
        """Writes ``step``. Returns the seconds that its state record took, and what follows it."""
        await self._sender.publish(step.before)
        started = perf_counter()
        offset = await self._log(partition.number, step)
        written = perf_counter()
        await self._sender.publish(step.after)
        partition.confirm(step, offset)
        if step.kind == "round" and step.first_chunk is not None:
            await self._cut(partition, step.first_chunk)
        return written - started, perf_counter() - written

    async def _log(self, number: int, step: Step) -> int:
        """Writes the state record of ``step``. Returns its offset, or that of its first part.

        Large parts go one after another: a request holds the messages of all partitions, and has a limit.
        """
        entries = [Message(self._topics.state_log, number, key, value) for key, value in step.log_entries]
        if len(entries) == 1 and entries[0].nbytes <= _LARGE_BYTES:
            return await self._sender.send(entries[0])
        async with self._large:
            first, *_ = [await self._sender.send(entry) for entry in entries]
            return first

    async def _cut(self, partition: Partition, before: int) -> None:
        """Cuts the log. A failure is harmless: the log is only longer than it need be."""
        try:
            await self._in_broker_thread(self._broker.cut, self._topics.state_log, partition.number, before)
        except BrokerError as error:
            _log.warning("the state log was not cut", partition=partition.number, before=before, why=str(error))

    # -- threads ------------------------------------------------------------------------------------------------------

    async def _in_logic_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._logic, work, *arguments)

    async def _in_broker_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._brokering, work, *arguments)
        except OSError as error:
            raise BrokerError(f"the broker did not answer: {error}") from error


def _steps(work: Sequence[Work], care: Care) -> tuple[list[Done], float]:
    """Applies what is due; skips lost partitions, which their new owners process. Returns also how long decoding
    took."""
    held = [(partition, records) for partition, records in work if partition.ready]
    poison = [(partition, records) for partition, records in held if care.is_poison(partition.number, records[0])]
    if poison:
        return [(partition, records, partition.bury(records[0], _POISON)) for partition, records in poison], 0.0
    commands = [(partition, records) for partition, records in held if records[0].source == "commands"]
    queries = [(partition, records) for partition, records in held if records[0].source != "commands"]
    done = [(partition, records, partition.command(records[0])) for partition, records in commands]
    started = perf_counter()
    received = [(partition, partition.receive(records)) for partition, records in queries]
    decoding = perf_counter() - started
    done += [(*one, step) for one, step in zip(queries, conclude_together(received), strict=True)]
    return done, decoding
