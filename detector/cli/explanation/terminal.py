"""The explanation as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detector.cli.explanation.account import Account
from detector.cli.explanation.tables import Table, events, facts, weights
from detector.cli.explanation.words import basis, verdict

if TYPE_CHECKING:
    from rich.console import Console


def show(account: Account, console: Console) -> None:
    """Print it: the answer, what counts, what was put on record."""
    for sentence in (verdict(account), *basis(account), facts(account)):
        console.print(sentence, markup=False, highlight=False)
    if account.then is not None:
        console.print(_table(_telling(account)))
    console.print(_table(events(account)))


def _telling(account: Account) -> Table:
    """What each measure adds, of those that are worth it."""
    whole = weights(account)
    shown = {*account.telling, "D"}
    return Table(whole.head, [row for row in whole.rows if row[0] in shown], whole.texts)


def _table(own: Table) -> object:
    from rich.markup import escape
    from rich.table import Table as RichTable

    table = RichTable()
    for at, name in enumerate(own.head):
        table.add_column(name, justify="left" if at < own.texts else "right")
    for row in own.rows:
        table.add_row(*map(escape, row))
    return table
