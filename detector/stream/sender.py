"""Sends messages to Kafka, and handles refusals.

The producer waits for a broker that is away or slow, and in the end the worker stops. After a restart the broker
would refuse the same message again: a dead letter is cut until it is taken, messages that only people read are counted
and left out, and without a required message the worker stops and says what to change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import faust
import msgspec
import structlog
from aiokafka import errors

from detector.contracts.codecs.limits import is_time
from detector.contracts.codecs.records import HEARTBEAT_KEY
from detector.contracts.topics import Topics
from detector.stream.dead_letters import cut_letter
from detector.stream.exit_codes import Exit, stop_now
from detector.stream.state_log import Message

_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_PERMANENT = (
    *_TOO_LARGE,
    errors.InvalidMessageError,
    errors.InvalidTopicError,
    errors.InvalidTimestampError,
    errors.InvalidRequestError,
    errors.UnsupportedForMessageFormatError,
    errors.PolicyViolationError,
)
_SMALLEST_LETTER = 1_024

_log = structlog.get_logger("weirguard.stream")


class Sender:
    """Sends by the producer of ``app``. ``refused`` gets the short name of a topic for each message left out."""

    def __init__(self, app: faust.App, topics: Topics, refused: Callable[[str], None]) -> None:
        self._app = app
        self._refused = refused
        self._letters = topics.dead_letters
        self._decisions = topics.decisions
        self._for_people = {
            getattr(topics, name): name for name in ("groups", "alerts", "audit", "scores", "dead_letters")
        }

    async def send(self, message: Message) -> int:
        """Sends a required message. Returns its offset."""
        try:
            metadata = await (await self._queue(message))
        except Exception as error:
            self._stop_if_permanent(message, error)
            raise
        return int(metadata.offset)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Sends ``messages``. Returns when each is on the broker, or left out."""
        sent = [await self._queue(message) for message in messages]
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        for message, outcome in zip(messages, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                await self._handle_refusal(message, outcome)

    async def beat(self, partitions: Sequence[int]) -> None:
        """Tells gates that the owner of each of ``partitions`` is at work."""
        send, topic = self._app.producer.send, self._decisions
        await asyncio.gather(*[await send(topic, HEARTBEAT_KEY, None, number, None, None) for number in partitions])

    async def _handle_refusal(self, message: Message, error: BaseException) -> None:
        if not _is(error, _PERMANENT) or message.topic not in self._for_people:
            self._stop_if_permanent(message, error)
            raise error
        for smaller in self._smaller(message, error):
            try:
                await (await self._queue(smaller))
            except Exception as again:
                if not _is(again, _PERMANENT):
                    self._stop_if_permanent(message, again)
                    raise
            else:
                return
        _log.error(
            "Kafka refuses a record permanently; left out", topic=message.topic, bytes=message.nbytes, why=str(error)
        )
        self._refused(self._for_people[message.topic])

    def _smaller(self, message: Message, error: BaseException) -> Iterator[Message]:
        """Yields replacements of ``message`` that the broker may take: a record without its time, and shorter and
        shorter dead letters."""
        if message.timestamp is not None and not _is(error, _TOO_LARGE):
            yield msgspec.structs.replace(message, timestamp=None)
        size = message.nbytes if message.topic == self._letters else 0
        while (size := size // 2) >= _SMALLEST_LETTER:
            yield msgspec.structs.replace(cut_letter(message, size), timestamp=None)

    def _stop_if_permanent(self, message: Message, error: BaseException) -> None:
        if is_denied(error):
            stop_now(Exit.REFUSED, f"this worker may not write to {message.topic}: grant it Write there", error)
        if _is(error, _PERMANENT):
            why = f"{message.topic} refuses a record of {message.nbytes} bytes: {error}; look at the topic's settings"
            stop_now(Exit.REFUSED, why, error)

    async def _queue(self, message: Message) -> Awaitable[Any]:
        """Returns what to await; a refusal by the producer itself is raised there too."""
        time = message.timestamp
        try:
            sent: Awaitable[Any] = await self._app.producer.send(
                message.topic,
                message.key,
                message.value,
                message.partition,
                time if time is not None and is_time(time) else None,
                list(message.headers) or None,
            )
        except Exception as error:  # noqa: BLE001 - passed on
            failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed
        return sent


def is_denied(error: BaseException) -> bool:
    """Returns whether ``error``, of any Kafka client, means a missing permission."""
    return any(type(cause).__name__.endswith("AuthorizationFailedError") for cause in _causes(error))


def _is(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    return any(isinstance(cause, kinds) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
