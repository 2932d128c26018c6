"""A hostile producer: structured nonsense in every form that Kafka's protocol has, and good queries among it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import aiokafka
import numpy as np
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from detector.contracts.codecs import encode
from detector.contracts.codecs.packed_queries import PACKED_CONTENT_TYPE, encode_packed
from detector.contracts.findings import Action, Command, CommandKind
from detector.contracts.queries import QueryBatch
from detector.contracts.topics import Topics, partition_of
from tests.contracts.malformed import KINDS, damaged, good_record, nonsense

CODECS = (None, "gzip", "lz4", "snappy", "zstd")
DIMENSION = 8
"""Features of each good query."""

_PRINCIPALS = 100
_PLAIN_BYTES, _COMPRESSED_BYTES = 900_000, 8_000_000
_BOMB_BYTES = 100_000_000
_LARGE_BYTES, _LARGE_SHARE = 10_000, 0.03
_IN_FLIGHT = 16
_FLOOD_BATCH = 200
_FUTURE = 5 * 365 * 86_400

Header = tuple[str, bytes | None]
Clients = Mapping[str | None, aiokafka.AIOKafkaProducer]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record; ``due``: the good queries in it by principal."""

    key: bytes | None
    value: bytes | None
    headers: list[Header]
    timestamp: int
    due: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Sent:
    """What was sent: ``records`` of nonsense and ``good`` ones, ``due`` of them by principal. ``given_up`` of both were
    in transactions that were aborted, and are not among the others."""

    records: int = 0
    good: int = 0
    given_up: int = 0
    due: Counter[str] = field(default_factory=Counter)


class _RawName(str):
    """A header name that another client wrote: no UTF-8."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"\xff\xfe" + super().encode(encoding, errors)


class Generator:
    """Records without end for ``partitions`` partitions; the same for the same ``seed``, apart from the present."""

    def __init__(self, seed: int, partitions: int) -> None:
        self.random = Random(seed)
        self._nonsense = nonsense(seed)
        self._names = [f"good-{at:03d}" for at in range(_PRINCIPALS)]
        self.homes = [
            [name for name in self._names if partition_of(name, partitions) == number] for number in range(partitions)
        ]

    @property
    def names(self) -> list[str]:
        """Who sends the good ones."""
        return self._names

    def query(self) -> Outgoing:
        """Nonsense for the queries topic."""
        content_type, value = next(self._nonsense)
        while len(value) > _LARGE_BYTES and self.random.random() > _LARGE_SHARE:
            content_type, value = next(self._nonsense)
        headers: list[Header] = [] if content_type is None else [("content-type", content_type.encode())]
        return self._odd(None if self.random.random() < 0.02 else value, headers)

    def command(self) -> Outgoing:
        """Nonsense for the commands topic, a good one now and then."""
        who, now = f"account-{self.random.randrange(50)}", time.time()
        kind: CommandKind = self.random.choice(("add", "delete", "clear"))
        word = Command(f"c-{self.random.random()}", kind, now, "eve", "digits", who, "test")
        if kind == "add":
            word = replace(word, action=Action("refuse"), mode="enforce", duration_seconds=60.0)
        value = encode(word)
        return self._odd(damaged(self.random, value), [])

    def good(self, partition: int) -> Outgoing:
        """A query, or a packed record of some, that must be judged; one in twenty comes to a wrong partition."""
        own = self.homes[partition]
        names = own if own and self.random.random() < 0.95 else self._names
        if self.random.random() < 0.9:
            name = self.random.choice(names)
            value = good_record(self.random, name, packed=False)
            return Outgoing(name.encode(), value, [], int(time.time() * 1000), Counter([name]))
        batch = self._batch(self.random.sample(names, 2), self.random.randrange(1, 12))
        due = Counter(batch.principals[at] for at in batch.principal_index)
        headers: list[Header] = [("content-type", PACKED_CONTENT_TYPE.encode())]
        return Outgoing(None, encode_packed(batch), headers, int(time.time() * 1000), due)

    def newcomer(self, number: int) -> tuple[str, Outgoing]:
        """A principal and their only query; one in four can be judged."""
        name, (_, _, unjudged) = f"newcomer-{number}", KINDS["outputs null"]
        value = unjudged(self.random, name) if number % 4 else good_record(self.random, name, packed=False)
        return name, Outgoing(name.encode(), value, [], int(time.time() * 1000))

    def _batch(self, names: list[str], rows: int) -> QueryBatch:
        rng = np.random.default_rng(self.random.getrandbits(32))
        return QueryBatch(
            model="digits",
            model_version="1",
            output_kind="probabilities",
            event_ids=[f"g-{self.random.getrandbits(40):x}" for _ in range(rows)],
            occurred_at=np.full(rows, 1_700_000_000.0),
            principals=names,
            principal_index=rng.integers(0, len(names), rows).astype(np.int32),
            features=rng.standard_normal((rows, DIMENSION)).astype(np.float32),
            outputs=np.tile(np.array([0.25, 0.75], np.float32), (rows, 1)),
        )

    def _odd(self, value: bytes | None, headers: list[Header]) -> Outgoing:
        """``value`` under a key, with headers and a time that no sane producer gives it."""
        if self.random.random() < 0.2:
            headers = self.random.choice(_HEADERS)(self.random, headers)
        key = self.random.choice(_KEYS)(self.random)
        timestamp = self.random.choice(_TIMES)(time.time())
        return Outgoing(key, value, headers, int(timestamp * 1000))


_KEYS: tuple[Callable[[Random], bytes | None], ...] = (
    lambda _: None,
    lambda _: b"",
    lambda random: f"account-{random.randrange(50)}".encode(),
    lambda random: random.randbytes(random.randrange(40)),
    lambda random: b"k" * (20_000 if random.random() < 0.01 else 20),
)
_HEADERS: tuple[Callable[[Random, list[Header]], list[Header]], ...] = (
    lambda _, headers: [*headers, ("content-type", None)],
    lambda _, headers: [("content-type", b"\xff\xfe"), *headers],
    lambda _, headers: [*headers, ("content-type", b"application/json; charset=latin-1"), ("content-type", b"x")],
    lambda _, headers: [*headers, ("", b""), ("", None), ("\x1b[2J", b"\x00")],
    lambda random, headers: [*headers, ("weirguard-origin", b"%d:%d" % (random.randrange(9), random.randrange(999)))],
    lambda _, headers: [*headers, ("weirguard-origin", b"-1:" + b"9" * 400)],
    lambda _, headers: [*headers, ("weirguard.dead-letter", b"{"), ("__connect.errors.topic", None)],
    lambda random, headers: [*headers, ("huge", b"h" * (60_000 if random.random() < 0.02 else 600))],
    lambda _, headers: [*headers, ("n" * 2_000, b"v")],
    lambda _, headers: [*headers, *((f"h{at}", None) for at in range(40))],
)
_TIMES: tuple[Callable[[float], float], ...] = (
    lambda now: now,
    lambda now: now + _FUTURE,
    lambda now: now - _FUTURE,
    lambda _: 0.0,
    lambda _: -0.001,
    lambda _: 1e12,
)


class HostileProducer:
    """Sends nonsense, and good queries among it, in batches of all codecs, within and without transactions."""

    def __init__(self, bootstrap: str, topics: Topics, partitions: int, seed: int) -> None:
        self.sent = Sent()
        self._bootstrap = bootstrap
        self._topics = topics
        self._partitions = partitions
        self.generator = Generator(seed, partitions)
        self._random = Random(seed + 1)
        self._pending: set[asyncio.Future[Any]] = set()

    def send(self, records: int, good: int, progress: Callable[[int], None] = lambda _: None) -> Sent:
        """``records`` of nonsense and ``good`` records; returns when the broker has all."""
        asyncio.run(self._send(records, good, progress))
        return self.sent

    def flood(self, newcomers: int) -> None:
        """That many principals with one query each, so that what is held by principal is full."""
        asyncio.run(self._flood(newcomers))

    async def _flood(self, newcomers: int) -> None:
        async with self._client(None) as client:
            batches = [client.create_batch() for _ in range(self._partitions)]
            for number in range(newcomers):
                name, one = self.generator.newcomer(number)
                home = partition_of(name, self._partitions)
                if batches[home].record_count() == _FLOOD_BATCH:
                    await self._ship(client, batches[home], self._topics.queries, home)
                    batches[home] = client.create_batch()
                assert _append(batches[home], one)
            for home, batch in enumerate(batches):
                await self._ship(client, batch, self._topics.queries, home)
            await self._flush()

    async def _send(self, records: int, good: int, progress: Callable[[int], None]) -> None:
        share = good / records
        async with AsyncExitStack() as stack:
            plain = {codec: await stack.enter_async_context(self._client(codec)) for codec in CODECS}
            bound = {codec: await stack.enter_async_context(self._client(codec, bound=True)) for codec in CODECS}
            await self._bomb("zstd")
            while self.sent.records < records:
                before, codec = self.sent.records, self._random.choice(CODECS)
                count = min(self._random.randrange(1, 400), records - before)
                if self._random.random() < 0.06:
                    await self._transaction(bound, codec, count, share, keep=self._random.random() < 0.6)
                elif self._random.random() < 0.05:
                    await self._raw_names(plain[None], min(count, 100))
                else:
                    await self._batch(plain, codec, count, share)
                progress(self.sent.records - before)
            while self.sent.good < good:
                await self._batch(plain, None, 0, good - self.sent.good)
            for partition in range(self._partitions):
                await self._last_word(plain[None], partition)
            await self._flush()

    def _client(
        self, codec: str | None, most: int = _COMPRESSED_BYTES, *, bound: bool = False
    ) -> aiokafka.AIOKafkaProducer:
        """``most``: bytes of a compressed batch before it is compressed. ``bound``: it has transactions."""
        most = _PLAIN_BYTES if codec is None else most
        name = f"{self._topics.application}-hostile-{codec}" if bound else None
        options = {"max_batch_size": most, "max_request_size": 2 * most, "transactional_id": name}
        return aiokafka.AIOKafkaProducer(bootstrap_servers=self._bootstrap, compression_type=codec, **options)

    async def _bomb(self, codec: str) -> None:
        """One record that has a few kilobytes on the broker and takes all that memory from its reader."""
        async with self._client(codec, 2 * _BOMB_BYTES) as client:
            await client.send_and_wait(self._topics.queries, b" " * _BOMB_BYTES, partition=0)
        self.sent.records += 1

    async def _transaction(self, clients: Clients, codec: str | None, count: int, share: float, *, keep: bool) -> None:
        client = clients[codec]
        await client.begin_transaction()
        before, self.sent = self.sent, Sent()
        await self._batch(clients, codec, count, share)
        await self._flush()
        await (client.commit_transaction() if keep else client.abort_transaction())
        within, self.sent = self.sent, before
        if keep:
            self.sent.records += within.records
            self.sent.good += within.good
            self.sent.due += within.due
        else:
            self.sent.given_up += within.records + within.good

    async def _batch(self, clients: Clients, codec: str | None, count: int, share: float) -> None:
        """``count`` records of nonsense for one partition, and ``share`` as many good ones between them. What is over a
        megabyte is left out where nothing compresses it."""
        partition = self._random.randrange(self._partitions)
        commands = count > 0 and self._random.random() < 0.02
        topic, due = self._topics.commands if commands else self._topics.queries, Counter[str]()
        goods = 0 if commands else _rounded(self._random, share * count if count else share)
        marks = [False] * count + [True] * goods
        self._random.shuffle(marks)
        client = clients[codec]
        batch = client.create_batch()
        for is_good in marks:
            one = self._one(partition, is_good, commands)
            if codec is None and len(one.value or b"") > _PLAIN_BYTES // 2:
                continue
            if batch.size() + len(one.value or b"") > _PLAIN_BYTES:
                await self._ship(client, batch, topic, partition)
                batch = client.create_batch()
            assert _append(batch, one)
            due += one.due
            self.sent.good += is_good
            self.sent.records += not is_good
        await self._ship(client, batch, topic, partition)
        self.sent.due += due

    async def _raw_names(self, client: aiokafka.AIOKafkaProducer, count: int) -> None:
        """``count`` records with header names that are not UTF-8, a few kilobytes each at most."""
        partition, batch = self._random.randrange(self._partitions), _raw_batch(client)
        while batch.record_count() < count:
            one = self.generator.query()
            if len(one.value or b"") < _LARGE_BYTES // 2:
                assert _append(batch, replace(one, headers=[*one.headers, (_RawName("name"), b"x")]))
        await self._ship(client, batch, self._topics.queries, partition)
        self.sent.records += count

    async def _last_word(self, client: aiokafka.AIOKafkaProducer, partition: int) -> None:
        """A record at the end of each source: past a transaction's marker nothing is ever committed."""
        for topic in (self._topics.queries, self._topics.commands):
            batch = client.create_batch()
            _append(batch, Outgoing(None, b"the end", [], -1))
            await self._ship(client, batch, topic, partition)
            self.sent.records += 1

    def _one(self, partition: int, is_good: bool, commands: bool) -> Outgoing:
        if is_good:
            return self.generator.good(partition)
        return self.generator.command() if commands else self.generator.query()

    async def _ship(self, client: aiokafka.AIOKafkaProducer, batch: Any, topic: str, partition: int) -> None:
        if batch.record_count():
            self._pending.add(await client.send_batch(batch, topic, partition=partition))
        if len(self._pending) >= _IN_FLIGHT:
            done, self._pending = await asyncio.wait(self._pending, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()

    async def _flush(self) -> None:
        for one in await asyncio.gather(*self._pending):
            assert one is not None
        self._pending.clear()


def _append(batch: Any, one: Outgoing) -> bool:
    return batch.append(key=one.key, value=one.value, timestamp=one.timestamp, headers=one.headers) is not None


def _raw_batch(client: aiokafka.AIOKafkaProducer) -> Any:
    """A batch that holds header names as they are; only aiokafka's Python writer asks a name for its bytes."""
    batch = client.create_batch()
    options = {"compression_type": 0, "is_transactional": 0, "batch_size": _PLAIN_BYTES}
    numbers = {"producer_id": -1, "producer_epoch": -1, "base_sequence": -1}
    batch._builder = _DefaultRecordBatchBuilderPy(magic=2, **options, **numbers)
    return batch


def _rounded(random: Random, number: float) -> int:
    """``number``, up or down by chance, so that the mean is right."""
    return int(number) + (random.random() < number % 1)
