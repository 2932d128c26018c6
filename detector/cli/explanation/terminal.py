"""The explanation as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detector.cli.explanation.account import Account
from detector.cli.explanation.tables import Table, events, facts, weights
from detector.cli.explanation.words import basis, verdict
from detector.cli.screen import table, tell

if TYPE_CHECKING:
    from rich.console import Console


def show(account: Account, console: Console) -> None:
    """Prints the verdict, the contributions and the events on record."""
    for sentence in (verdict(account), *basis(account), facts(account)):
        tell(console, sentence)
    if account.then is not None:
        _print(_telling(account), console)
    _print(events(account), console)


def _telling(account: Account) -> Table:
    """Returns the table of contributions, reduced to the measures that contribute."""
    whole = weights(account)
    shown = {*account.telling, "D"}
    return Table(whole.head, [row for row in whole.rows if row[0] in shown], whole.texts)


def _print(own: Table, console: Console) -> None:
    console.print(table(own.head, own.rows, own.texts))
