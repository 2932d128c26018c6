"""The live view of the demo: drawn in place on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from detector.contracts.findings import Mode
from detector.lab.demo.board import Board, BoardEvent
from detector.lab.traffic import Tally

_EVENT_LINES = 6
_CHROME_LINES = 8
"""Lines that are neither account nor event: title, borders, table head."""

_STATISTICS = {"prada": "W {:.3f}", "suspicion": "D {:.1f}"}
_STATE_STYLES = {"refused": "bold red", "slowed": "red", "suspect": "yellow", "too few yet": "dim"}


@dataclass(frozen=True, slots=True)
class Scene:
    """One ``model``: its accounts, and what the detector published about them."""

    model: str
    tallies: Mapping[str, Tally]
    board: Board

    @property
    def suspects(self) -> list[str]:
        return [name for name in self.tallies if name in self.board.alerts]


@dataclass(frozen=True, slots=True)
class DemoState:
    """The content of the view. ``started_at``: wall-clock second at which the traffic began."""

    mode: Mode
    started_at: float
    now: float
    seconds: float
    scenes: Sequence[Scene]
    per_second: float

    @property
    def accounts(self) -> list[tuple[Scene, Tally]]:
        return [(scene, tally) for scene in self.scenes for tally in scene.tallies.values()]


def render(moment: DemoState, lines: int) -> RenderableType:
    """Returns the whole view in about ``lines`` lines: the most suspicious accounts first, as many as fit."""
    rows = max(5, lines - _EVENT_LINES - _CHROME_LINES)
    return Group(_headline(moment), _account_table(moment, rows), _events(moment))


def summary_line(moment: DemoState) -> str:
    """Returns the same as one plain line, for output without a terminal."""
    suspects = [f"{name} on {scene.model}" for scene in moment.scenes for name in scene.suspects]
    named = f" ({', '.join(suspects)})" if suspects else ""
    queries = sum(tally.sent for _, tally in moment.accounts)
    return (
        f"{moment.now - moment.started_at:4.0f} of {moment.seconds:.0f} s  {queries:6,} queries, "
        f"{moment.per_second:4.0f} a second; "
        f"{len(moment.accounts)} accounts, flagged: {len(suspects)}{named}"
    )


def event_line(event: BoardEvent, started_at: float) -> str:
    """``event`` as a plain line."""
    return f"{event.at - started_at:4.0f} s  {event.principal} on {event.model}: {event.text}"


def _headline(moment: DemoState) -> Text:
    line = Text(" Weirguard ", style="bold reverse")
    line.append(f"  {moment.mode}", style="bold")
    line.append(f"   {summary_line(moment).strip()}")
    line.no_wrap = True
    return line


def _account_table(moment: DemoState, rows: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    for name in ("account", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("queries", "refused", "signal", "suspicion"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    ranked = sorted(moment.accounts, key=_rank)
    for scene, tally in ranked[:rows]:
        _add_account(table, scene, tally)
    if len(ranked) > rows:
        table.caption = f"and {len(ranked) - rows} accounts that are less suspicious"
    return table


def _rank(account: tuple[Scene, Tally]) -> tuple[bool, float, int]:
    """Suspects first, then by suspicion."""
    scene, tally = account
    return tally.account not in scene.board.alerts, -(_suspicion(scene.board, tally.account) or 0), -tally.sent


def _suspicion(board: Board, account: str) -> float | None:
    score = board.scores.get(account)
    return None if score is None else score.score


def _add_account(table: Table, scene: Scene, tally: Tally) -> None:
    board = scene.board
    state = board.state(tally.account)
    style = _STATE_STYLES.get(state.removeprefix("would be "), "")
    table.add_row(
        tally.account,
        Text(scene.model, style="dim"),
        f"{tally.sent:,}",
        f"{tally.refused:,}" if tally.refused else "",
        _figure(board.statistic(tally.account), _STATISTICS[board.signal]),
        _figure(_suspicion(board, tally.account), "{:.2f}"),
        Text(state, style=style),
        style="bold" if tally.account in board.alerts else "",
    )


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _events(moment: DemoState) -> Panel:
    events = (event for scene in moment.scenes for event in scene.board.events)
    shown: Sequence[BoardEvent] = sorted(events, key=lambda event: event.at)[-_EVENT_LINES:]
    text = Text(no_wrap=True, overflow="ellipsis")
    for event in shown:
        text.append(event_line(event, moment.started_at) + "\n", style="bold red" if event.grave else "")
    if not shown:
        text.append("nothing yet", style="dim")
    text.rstrip()
    return Panel(text, title="alerts and decisions", title_align="left", height=_EVENT_LINES + 2)


_SUMMARY_SECONDS = 5.0


class Screen(Protocol):
    """Receives each moment, and the events since the moment before."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, moment: DemoState, events: Sequence[BoardEvent]) -> None: ...


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

    def show(self, moment: DemoState, events: Sequence[BoardEvent]) -> None:
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

    def show(self, moment: DemoState, events: Sequence[BoardEvent]) -> None:
        for event in events:
            self._print(event_line(event, moment.started_at))
        if moment.now >= self._next:
            self._next = moment.now + _SUMMARY_SECONDS
            self._print(summary_line(moment))

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
