"""Structured logs on standard error, without secrets and without customers' data."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from textwrap import indent
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from detector.runtime.sections import LoggingSettings
from detector.runtime.text import printable, printable_lines

_DATA = frozenset({"features", "outputs", "vector", "vectors", "probabilities", "key"})
_SECRET = ("password", "secret", "token", "authorization", "api_key", "hash_key", "credential")
"""Parts of names."""
_MOST_VALUES = 64
_LIBRARIES = ("aiokafka", "asyncio", "faust", "kafka", "mode", "urllib3")


def configure_logging(settings: LoggingSettings) -> None:
    """Sends structlog's and the standard library's messages to standard error in the configured form."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        withhold,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderer(settings)],
        )
    )
    handler.addFilter(RepeatFilter(_LIBRARIES))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for name in _LIBRARIES:  # at a lower level they would log whole records
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


def withhold(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replaces secrets and customers' data by a note: by name, or if they are an array, bytes or a long sequence."""
    return {name: _shown(name, value) for name, value in event.items()}


def _shown(name: str, value: Any) -> Any:
    lowered = name.lower()
    if lowered in _DATA or any(part in lowered for part in _SECRET):
        return "[withheld]"
    if isinstance(value, dict):
        return {inner: _shown(str(inner), item) for inner, item in value.items()}
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if getattr(value, "shape", ()):
        return f"[array {value.dtype} {tuple(value.shape)}]"
    if isinstance(value, list | tuple):
        return f"[{len(value)} values]" if len(value) > _MOST_VALUES else [_shown("", item) for item in value]
    return value


def visible(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escapes names and messages from outside, so that they cannot move the cursor or forge a line; a traceback keeps
    its lines, indented, so that no message in it starts like an entry of the log."""
    return {name: _visible(name, value) for name, value in event.items()}


def _visible(name: str, value: Any) -> Any:
    if name.startswith("_") or name == "exc_info":
        return value
    text = value if isinstance(value, str) else repr(value)
    return indent(printable_lines(text), "    ") if name in ("exception", "stack") else printable(text)


def _renderer(settings: LoggingSettings) -> list[Processor]:
    """Tracebacks are plain in both forms: structlog's richer ones print local variables, so features and keys."""
    if settings.format == "console":
        console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        return [structlog.processors.format_exc_info, visible, console]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]


REPEAT_SECONDS = 60.0


class RepeatFilter(logging.Filter):
    """Passes a message of ``libraries`` once in REPEAT_SECONDS for each line of their code, with the number left out
    since: while a broker is down, there are some 80 messages a second. Time is the message's own."""

    def __init__(self, libraries: Collection[str]) -> None:
        super().__init__()
        self._libraries = frozenset(libraries)
        self._passed: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether ``record`` is written."""
        if record.name.partition(".")[0] not in self._libraries:
            return True
        line = record.pathname, record.lineno
        passed_at, left_out = self._passed.get(line, (None, 0))
        if passed_at is not None and 0 <= record.created - passed_at < REPEAT_SECONDS:
            self._passed[line] = passed_at, left_out + 1
            return False
        self._passed[line] = record.created, 0
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more like it were left out)", ()
        return True
