"""What a run of traffic came to, account by account."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.markup import escape
from rich.table import Table

from detector.lab.client import Tally
from detector.runtime.text import printable


def account_table(tallies: Iterable[Tally]) -> Table:
    """One line an account: queries sent, answered, turned away and failed, and the last failure."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("account", no_wrap=True)
    table.add_column("habit", no_wrap=True)
    for name in ("sent", "answered", "turned away", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last failure", overflow="fold")
    for tally in tallies:
        counts = (tally.sent, tally.answered, tally.refused, tally.failed)
        table.add_row(
            tally.account, tally.habit, *(f"{count:,}" for count in counts), escape(printable(tally.last_failure))
        )
    return table
