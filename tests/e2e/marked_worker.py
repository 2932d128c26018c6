"""A worker that marked records end, under the real supervisor: ``python -m tests.e2e.marked_worker``.

The engine fails on a principal whose name begins with ``raise-`` and the process is killed by one that begins with
``kill-``; the ledger fails on a command whose reason is ``raise``. The first two workers are killed once part N of a
state record is on the broker, where KILL_AFTER_PART says N.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

SUPERVISE = (sys.executable, "-m", "tests.e2e.marked_worker", "supervise")


KILL_AFTER_PART = "TEST_KILL_AFTER_PART"


def _kill_between_parts(number: int) -> None:
    from detector.stream.sender import Sender
    from detector.stream.state_log import Message, RecordPart, decode

    send = Sender.send

    async def sending(self: Sender, message: Message) -> int:
        offset = await send(self, message)
        part = decode(message.value)
        if isinstance(part, RecordPart) and part.number == number and int(os.environ["WEIRGUARD_RESTARTS"]) < 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return offset

    Sender.send = sending  # type: ignore[method-assign]


def _mark() -> None:
    from detector.policy.ledger import Ledger
    from detector.stream import detector

    observe, command = detector.observe_together, Ledger.command  # type: ignore[attr-defined]

    def observing(work: Sequence[Any]) -> Any:
        names = {name for _, batch in work for piece in batch for name in piece.principals}
        if any(name.startswith("kill-") for name in names):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(name.startswith("raise-") for name in names):
            raise RuntimeError("a marked principal")
        return observe(work)

    def commanding(self: Ledger, word: Any, now: float) -> Any:
        if word.reason == "raise":
            raise RuntimeError("a marked command")
        return command(self, word, now)

    detector.observe_together = observing  # type: ignore[attr-defined]
    Ledger.command = commanding  # type: ignore[method-assign, assignment]


def _supervise() -> int:
    from detector.runtime.logging import configure_logging
    from detector.runtime.settings import load_settings
    from detector.stream.supervisor import Backoff, Supervisor

    settings = load_settings()
    configure_logging(settings.logging)
    command = [sys.executable, "-m", "tests.e2e.marked_worker"]
    return Supervisor(command, settings.kafka.servers, Backoff(0.05, 0.2)).run()


if __name__ == "__main__":
    if sys.argv[1:] == ["supervise"]:
        sys.exit(_supervise())
    _mark()
    if KILL_AFTER_PART in os.environ:
        _kill_between_parts(int(os.environ[KILL_AFTER_PART]))
    from detector.stream.worker import main

    main()
