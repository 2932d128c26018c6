"""The display of the demo: a live view on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live

from detector.lab.demo.board import Event
from detector.lab.demo.view import Moment, event_line, render, summary_line

_SUMMARY_SECONDS = 5.0


class Screen(Protocol):
    """Receives each moment, and the events since the moment before."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, moment: Moment, events: Sequence[Event]) -> None: ...


def screen_for(console: Console) -> Screen:
    return LiveScreen(console) if console.is_terminal else PlainScreen(console)


class LiveScreen:
    """Redraws the view in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, moment: Moment, events: Sequence[Event]) -> None:
        self._live.update(render(moment, self._console.size.height - 1), refresh=True)


class PlainScreen:
    """Writes events as they come, and a summary line every five seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, moment: Moment, events: Sequence[Event]) -> None:
        for event in events:
            self._print(event_line(event, moment.started_at))
        if moment.now >= self._next:
            self._next = moment.now + _SUMMARY_SECONDS
            self._print(summary_line(moment))

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
