"""Shared parts of the operator's commands: durations, commands to the owner, and output formats."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import typer

from detector.cli.screen import print_lines, print_note
from detector.contracts.codecs import decode, encode
from detector.contracts.errors import BrokerError, ConfigurationError, InvalidRecord
from detector.contracts.findings import Alert, Audit, Command, CommandKind
from detector.contracts.topics import partition_of
from detector.replay.topics import BOOTSTRAP_MILLISECONDS, REPLY_MILLISECONDS, Topic, broker_errors, partitions_of
from detector.runtime.sections import KafkaSettings
from detector.runtime.settings import Settings
from detector.runtime.text import rfc3339

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def principal_of(settings: Settings, name: str, api_key: bool) -> str:
    """Returns the principal that ``name`` means: the name itself, or its hash if it is an API key."""
    if not api_key:
        return name
    secret = typer.prompt("API key", hide_input=True, err=True) if name == "-" else name
    return settings.principals.hasher().api_key(secret)


def seconds(duration: str) -> float:
    """Returns the seconds in ``90s``, ``15m``, ``1h30m`` or ``2d``."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", duration)
    if not parts or "".join(number + unit for number, unit in parts) != duration:
        raise typer.BadParameter(f"{duration!r} is not a duration; write it like 90s, 15m, 1h30m or 2d")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def new_id() -> str:
    """Returns a random id for a command."""
    return secrets.token_hex(8)


def new_command(kind: CommandKind, issuer: str, model: str, principal: str, reason: str, **fields: Any) -> Command:
    """Returns a command issued now, with a random id; ``fields``: the others of ``Command``."""
    return Command(new_id(), kind, time.time(), issuer, model, principal, reason, **fields)


def send(settings: Settings, command: Command, wait_seconds: float, partition: int | None = None) -> None:
    """Sends ``command`` as :func:`carry_out` does, prints its result, and exits with 1 if the owner refused it."""
    audit = carry_out(settings.kafka, command, wait_seconds, partition)
    print_lines(f"{command.model} {command.principal}: {audit.summary}")
    if audit.kind == "command_refused":
        raise typer.Exit(1)


def write_record(settings: KafkaSettings, topic: str, **record: Any) -> None:
    """Writes one record and waits for its acknowledgement. Raises BrokerError.

    ``record``: arguments of kafka-python's ``send``.
    """
    import kafka

    partitions_of(settings, topic)
    with broker_errors(settings):
        producer = kafka.KafkaProducer(
            **settings.client_arguments(),
            bootstrap_timeout_ms=BOOTSTRAP_MILLISECONDS,
            max_block_ms=REPLY_MILLISECONDS,
            delivery_timeout_ms=3 * REPLY_MILLISECONDS,
            request_timeout_ms=REPLY_MILLISECONDS,
        )
        try:
            producer.send(topic, **record).get(timeout=4 * REPLY_MILLISECONDS / 1000)
        finally:
            producer.close(timeout=1)


def carry_out(settings: KafkaSettings, command: Command, wait_seconds: float, partition: int | None = None) -> Audit:
    """Sends ``command`` to the owner of ``partition``, None for that of its principal, and returns the owner's audit
    record of it.

    Raises BrokerError if there is none after ``wait_seconds``.
    """
    topic, value = settings.topics.commands, encode(command)
    with Topic(settings, settings.topics.audit) as audit:
        audit.seek_to_end()
        partitions = partitions_of(settings, topic)
        if partitions != settings.partitions:
            raise ConfigurationError(
                f"kafka.partitions is {settings.partitions} and {topic} has {partitions}; set it to {partitions}"
            )
        partition = partition_of(command.principal, partitions) if partition is None else partition
        write_record(settings, topic, key=command.principal.encode(), value=value, partition=partition)
        for record in audit.follow(wait_seconds):
            with suppress(InvalidRecord):
                answer = decode(Audit, record.value)
                if answer.detail.get("command") == command.id:
                    return answer
    raise BrokerError(
        f"the command was written, and no detector has answered within {wait_seconds:g} seconds; it will be carried "
        f"out when one takes partition {partition} of {topic}; check that `weirguard run` is ready"
    )


def alert_line(alert: Alert) -> str:
    """Returns ``alert`` in one line for people."""
    evidence = ", ".join(
        f"{item.name}={item.value:g}" + ("" if item.threshold is None else f" (threshold {item.threshold:g})")
        for item in alert.evidence
    )
    suppressed = "" if alert.suppressed_by is None else f" [{alert.suppressed_by}]"
    suppressed += "" if alert.released_by is None else f" [released by {alert.released_by}]"
    uncalibrated = "" if alert.calibrated is not False else " (uncalibrated)"
    return (
        f"{rfc3339(alert.occurred_at)} {alert.severity} {alert.model} {alert.principal} {alert.signal} "
        f"score {alert.score:.3g}{uncalibrated} at query {alert.query_index + 1:,}: {evidence}{suppressed}"
    )


def note_uncalibrated(models: Iterable[str]) -> None:
    """Prints a warning to standard error if there are ``models``, which are judged without a profile."""
    if names := sorted(set(models)):
        from detector.stream.detection_config import uncalibrated_warning

        print_note(f"{uncalibrated_warning(', '.join(names))}; write a profile with `weirguard calibrate`.")


def as_json(record: Any) -> Any:
    """Returns ``record`` as data that JSON can hold, field by field."""
    import msgspec

    return msgspec.to_builtins(record)
