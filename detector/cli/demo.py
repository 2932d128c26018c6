"""``weirguard demo``: finds and stops two thieves among honest users, all on this machine."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    observe: Annotated[bool, typer.Option("--observe", help="Find the thieves and do not stop them.")] = False,
    seconds: Annotated[float, typer.Option(min=30, max=100, help="Duration of the traffic.")] = 50.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same queries.")] = 0,
) -> None:
    """Watch the detector find and stop two model thieves; broker, detector, model server and clients run here.

    One thief copies a network that reads digits, the other a decision tree. Exit status 0 if the first was refused
    before the 400th query, the second before the 200th, and no honest client was flagged (with --observe: both were
    flagged and nobody was refused), 1 otherwise, 2 if the demo could not run.
    """
    import signal

    from rich.console import Console

    from detector.cli.foreign import from_scikit_learn
    from detector.lab.demo.report import render_report
    from detector.lab.demo.run import run_demo
    from detector.lab.demo.script import DemoOptions

    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    console = Console()
    outcome = run_demo(DemoOptions(observe=observe, seconds=seconds, seed=seed), from_scikit_learn, console)
    console.print(render_report(outcome))
    raise typer.Exit(1 if outcome.broken_promises() else 0)
