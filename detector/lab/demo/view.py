"""The view of a running demo: drawn in place on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

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
_SUMMARY_SECONDS = 5.0

_STATISTICS = {"prada": "W {:.3f}", "suspicion": "D {:.1f}"}
_STATE_STYLES = dict.fromkeys(("suspect", "in a group"), "yellow") | {
    "refused": "bold red",
    "slowed": "red",
    "too few yet": "dim",
}


@dataclass(frozen=True, slots=True)
class DemoState:
    """The content of the view. ``started_at``: wall-clock second at which the traffic began."""

    mode: Mode
    started_at: float
    now: float
    seconds: float
    boards: Sequence[Board]
    per_second: float

    @property
    def accounts(self) -> list[tuple[Board, Tally]]:
        return [(board, tally) for board in self.boards for tally in board.tallies.values()]


class Screen:
    """Redraws the view in place on a terminal. Elsewhere writes events as they come, and a summary every five seconds.
    A context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._next = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, state: DemoState, events: Sequence[BoardEvent]) -> None:
        """Shows ``state``, and the ``events`` since the state before."""
        if self._live is not None:
            self._live.update(render(state, self._console.size.height - 1), refresh=True)
            return
        lines = [event_line(event, state.started_at) for event in events]
        if state.now >= self._next:
            self._next = state.now + _SUMMARY_SECONDS
            lines.append(summary_line(state))
        for line in lines:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def render(state: DemoState, lines: int) -> RenderableType:
    """Returns the whole view in about ``lines`` lines: the most suspicious accounts first, as many as fit."""
    headline = Text(" Weirguard ", style="bold reverse", no_wrap=True)
    headline.append(f"  {state.mode}", style="bold")
    headline.append(f"   {summary_line(state).strip()}")
    rows = max(5, lines - _EVENT_LINES - _CHROME_LINES)
    return Group(headline, _accounts(state, rows), _events(state))


def summary_line(state: DemoState) -> str:
    """Returns the state as one plain line."""
    suspects = [f"{name} on {board.model}" for board in state.boards for name in board.suspects]
    named = f" ({', '.join(suspects)})" if suspects else ""
    queries = sum(tally.sent for _, tally in state.accounts)
    return (
        f"{state.now - state.started_at:4.0f} of {state.seconds:.0f} s  {queries:6,} queries, "
        f"{state.per_second:4.0f} a second; "
        f"{len(state.accounts)} accounts, flagged: {len(suspects)}{named}"
    )


def event_line(event: BoardEvent, started_at: float) -> str:
    """Returns ``event`` as a plain line."""
    return f"{event.at - started_at:4.0f} s  {event.principal} on {event.model}: {event.text}"


def _accounts(state: DemoState, rows: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    for name in ("account", "model", "queries", "refused", "signal", "suspicion", "verdict"):
        numeric = name in ("queries", "refused", "signal", "suspicion")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    ranked = sorted(state.accounts, key=_rank)
    for board, tally in ranked[:rows]:
        _add_account(table, board, tally)
    if len(ranked) > rows:
        table.caption = f"and {len(ranked) - rows} accounts that are less suspicious"
    return table


def _rank(account: tuple[Board, Tally]) -> tuple[bool, float, int]:
    """Returns a key that sorts suspects first, then by suspicion."""
    board, tally = account
    return tally.account not in board.alerts, -(board.suspicion(tally.account) or 0), -tally.sent


def _add_account(table: Table, board: Board, tally: Tally) -> None:
    state = board.state(tally.account)
    statistic, suspicion = board.statistic(tally.account), board.suspicion(tally.account)
    table.add_row(
        tally.account,
        Text(board.model, style="dim"),
        f"{tally.sent:,}",
        f"{tally.refused:,}" if tally.refused else "",
        "" if statistic is None else _STATISTICS[board.signal].format(statistic),
        "" if suspicion is None else f"{suspicion:.2f}",
        Text(state, style=_STATE_STYLES.get(state.removeprefix("would be "), "")),
        style="bold" if tally.account in board.alerts else "",
    )


def _events(state: DemoState) -> Panel:
    events = [event for board in state.boards for event in board.events]
    text = Text(no_wrap=True, overflow="ellipsis")
    for event in sorted(events, key=lambda event: event.at)[-_EVENT_LINES:]:
        text.append(event_line(event, state.started_at) + "\n", style="bold red" if event.grave else "")
    if not events:
        text.append("nothing yet", style="dim")
    text.rstrip()
    return Panel(text, title="alerts and decisions", title_align="left", height=_EVENT_LINES + 2)
