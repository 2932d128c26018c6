"""``weirguard traffic``: the demo's clients against a model server of yours."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer


def traffic(
    target: Annotated[str, typer.Option(help="Where to POST, for example http://127.0.0.1:8000/predict.")],
    accounts: Annotated[int, typer.Option(min=1, max=500, help="Honest accounts.")] = 24,
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 60.0,
    thief: Annotated[bool, typer.Option("--thief", help="Add one Jacobian-augmentation thief.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same queries.")] = 0,
) -> None:
    """Send what honest users, and with --thief a model thief, send to a server of 8 by 8 digits.

    Exit status 1 when a query got no proper answer; being turned away (429) is one.
    """
    from rich.console import Console

    from detector.lab.population import honest_accounts
    from detector.lab.report import account_table
    from detector.lab.traffic import Traffic, connections, jacobian_thief
    from detector.lab.victims.digits import load_split

    split = load_split()
    clients = Traffic(target, split, accounts=honest_accounts(accounts), seed=seed, tempo=1.0)

    async def send() -> None:
        async with connections() as http:
            await clients.run(http, seconds, jacobian_thief(split, seed) if thief else None)

    asyncio.run(send())
    Console().print(account_table(clients.tallies.values()))
    raise typer.Exit(1 if any(tally.failed for tally in clients.tallies.values()) else 0)
