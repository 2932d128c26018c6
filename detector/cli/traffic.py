"""``weirguard traffic``: sends the demo's traffic to a model server of your own."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer


def traffic(
    target: Annotated[str, typer.Option(help="URL to POST to, for example http://127.0.0.1:8000/predict.")],
    accounts: Annotated[int, typer.Option(min=1, max=500, help="Number of honest accounts.")] = 24,
    seconds: Annotated[float, typer.Option(min=1, help="Duration.")] = 60.0,
    thief: Annotated[bool, typer.Option("--thief", help="Add one Jacobian-augmentation thief.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same queries.")] = 0,
) -> None:
    """Send queries of honest users, and with --thief of a model thief, to a server of 8 by 8 digits.

    Exit status 1 if a query got no valid answer; a refusal (429) is a valid answer.
    """
    from rich.console import Console

    from detector.lab.traffic import TrafficGenerator, account_table, connections, honest_accounts, jacobian_thief
    from detector.lab.victims.digits import load_split

    split = load_split()
    clients = TrafficGenerator(target, split, accounts=honest_accounts(accounts), seed=seed, tempo=1.0)

    async def send() -> None:
        async with connections() as http:
            await clients.run(http, seconds, jacobian_thief(split, seed) if thief else None)

    asyncio.run(send())
    Console().print(account_table(clients.tallies.values()))
    raise typer.Exit(1 if any(tally.failed for tally in clients.tallies.values()) else 0)
